"""Split literals of a batch of domains, padded to a common depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.propagation.backward import SplitRows
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap

MOST_AT_ONCE = 3  # splits of one domain in one step

_FIELDS = ("node", "index", "sign", "point", "beta")


@dataclass(slots=True)
class Literals:
    """sign * (z[node][index] - point) >= 0; entries with node < 0 are padding. All tensors are (domains, depth)."""

    node: Tensor
    index: Tensor
    sign: Tensor
    point: Tensor
    beta: Tensor  # last multiplier per literal

    @classmethod
    def none(cls, domains: int, like: Tensor) -> Literals:
        """No literal for any domain; real tensors get the type and device of `like`."""
        integer = torch.zeros(domains, 0, dtype=torch.int64, device=like.device)
        real = like.new_zeros(domains, 0)
        return cls(integer, integer.clone(), real, real.clone(), real.clone())

    @property
    def depth(self) -> int:
        return int(self.node.shape[1])

    def take(self, index: Tensor | slice) -> Literals:
        """Those of the domains named."""
        return Literals(*(getattr(self, f)[index] for f in _FIELDS))

    def first(self, depth: int) -> Literals:
        """Only the first `depth` literals of each domain."""
        return Literals(*(getattr(self, f)[:, :depth] for f in _FIELDS))

    def padded(self, depth: int) -> Literals:
        """At least `depth` slots per domain."""
        extra = depth - self.depth
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        return Literals(
            pad(self.node, (0, extra), value=-1),
            pad(self.index, (0, extra)),
            pad(self.sign, (0, extra)),
            pad(self.point, (0, extra)),
            pad(self.beta, (0, extra)),
        )

    def newest(self) -> list[tuple[Tensor, Tensor]]:
        """Node and entry (domains,) of the last literal of every domain; of earlier ones while they have no beta.

        Several splits made at once start without betas. Node -1 where there is none.
        """
        found: list[tuple[Tensor, Tensor]] = []
        fresh = torch.ones(self.node.shape[0], dtype=torch.bool, device=self.node.device)
        here = torch.arange(self.node.shape[0], device=self.node.device)
        last = (self.node >= 0).sum(1) - 1  # padding comes after the literals
        for back in range(min(MOST_AT_ONCE, self.depth)):
            slot = (last - back).clamp(min=0)
            fresh = fresh & (last >= back) & ((self.beta[here, slot] == 0) | (back == 0))
            if not bool(fresh.any()):
                break
            found.append((torch.where(fresh, self.node[here, slot], -1), self.index[here, slot]))
        return found

    @staticmethod
    def join(parts: list[Literals]) -> Literals:
        """The domains of all parts, one after the other."""
        depth = max(p.depth for p in parts)
        wide = [p.padded(depth) for p in parts]
        return Literals(*(torch.cat([getattr(p, f) for p in wide]) for f in _FIELDS))

    def extended(self, node: Tensor, index: Tensor, sign: Tensor, point: Tensor) -> Literals:
        """One more literal per domain, multiplier 0; all arguments are (domains,)."""
        return Literals(
            torch.cat([self.node, node.unsqueeze(1)], 1),
            torch.cat([self.index, index.unsqueeze(1)], 1),
            torch.cat([self.sign, sign.unsqueeze(1)], 1),
            torch.cat([self.point, point.unsqueeze(1)], 1),
            torch.cat([self.beta, torch.zeros_like(point).unsqueeze(1)], 1),
        )

    def clip(self, known: dict[int, Interval]) -> dict[int, Interval]:
        """Bounds (domains, *shape) cut down to the literals' half-spaces."""
        result = dict(known)
        for node in self.node.unique().tolist():
            if node < 0:
                continue
            domain, slot = (self.node == node).nonzero(as_tuple=True)
            low, high = result[node]
            index, sign, point = self.index[domain, slot], self.sign[domain, slot], self.point[domain, slot].to(low)
            width = low[0].numel()
            flat_low, flat_high = low.reshape(-1).clone(), high.reshape(-1).clone()
            place, up = domain * width + index, sign > 0
            flat_low.scatter_reduce_(0, place[up], point[up], "amax")
            flat_high.scatter_reduce_(0, place[~up], point[~up], "amin")
            result[node] = (flat_low.reshape(low.shape), flat_high.reshape(high.shape))
        return result

    def rows(self, owners: RowMap, dtype: torch.dtype) -> tuple[dict[int, SplitRows], dict[int, tuple[Tensor, Tensor]]]:
        """Split rows per node for rows that belong to the domains, and for each the (domain, slot) it came from."""
        result: dict[int, SplitRows] = {}
        places: dict[int, tuple[Tensor, Tensor]] = {}
        domain_of_row = owners.domain
        for node in self.node.unique().tolist():
            if node < 0:
                continue
            row, slot = (self.node[domain_of_row] == node).nonzero(as_tuple=True)
            domain = domain_of_row[row]
            result[node] = SplitRows(
                row,
                self.index[domain, slot],
                self.sign[domain, slot].to(dtype),
                self.point[domain, slot].to(dtype),
                self.beta[domain, slot].to(dtype),
            )
            places[node] = (domain, slot)
        return result, places
