"""Which domain every row belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowMap:
    """Row r belongs to domain `domain[r]`.

    Regular maps (`per_domain` consecutive rows each) broadcast, ragged ones gather.
    """

    domain: Tensor  # (rows,) int64, ascending
    domains: int
    per_domain: int | None = None

    @classmethod
    def regular(cls, domains: int, per_domain: int, device: torch.device) -> RowMap:
        owner = torch.arange(domains, device=device).repeat_interleave(per_domain)
        return cls(owner, domains, per_domain)

    @classmethod
    def ragged(cls, domain: Tensor, domains: int) -> RowMap:
        if domains == 1:
            return cls(domain, 1, int(domain.numel()))
        return cls(domain, domains)

    @property
    def count(self) -> int:
        return int(self.domain.numel())

    def spread(self, values: Tensor) -> Tensor:
        """(domains, ...) to something that broadcasts against folded rows."""
        if self.per_domain is not None:
            return values.unsqueeze(1)
        if not any(values.stride()):
            return values[:1]  # one number broadcast: nothing to gather
        return values.index_select(0, self.domain)

    def gather(self, values: Tensor) -> Tensor:
        """(domains, ...) to (rows, ...), or (1, ...) when there is a single domain."""
        return values if self.domains == 1 else values.index_select(0, self.domain)

    def fold(self, rows: Tensor) -> Tensor:
        """(rows, ...) to (domains, per_domain, ...) for regular maps; unchanged for ragged ones."""
        if self.per_domain is None:
            return rows
        return rows.reshape(self.domains, self.per_domain, *rows.shape[1:])

    def flat(self, rows: Tensor) -> Tensor:
        """Inverse of `fold`."""
        if self.per_domain is None:
            return rows
        return rows.reshape(self.count, *rows.shape[2:])

    def part(self, start: int, stop: int) -> RowMap:
        """Rows start..stop-1 as a map over the same domains."""
        return RowMap.ragged(self.domain[start:stop], self.domains)


def rows_of(domains: Tensor, per: int) -> Tensor:
    """Positions of all rows of the domains named, `per` consecutive rows each."""
    return (domains.unsqueeze(1) * per + torch.arange(per, device=domains.device)).reshape(-1)
