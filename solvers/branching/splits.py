"""Split literals of a batch of domains, padded to a common depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.propagation.backward import SplitRows
from verinet.propagation.ends import HalfOpen, carried
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap

MOST_AT_ONCE = 3  # splits of one domain in one step

_FIELDS = ("node", "index", "sign", "point", "beta", "strict")


@dataclass(slots=True)
class Literals:
    """sign * (z[node][index] - point) >= 0; entries with node < 0 are padding. All tensors are (domains, depth).

    Rows and clipped bounds use the closed half-space. A `strict` literal excludes the point itself, which operators
    with a jump there make use of (see `verinet.propagation.ends`).
    """

    node: Tensor
    index: Tensor
    sign: Tensor
    point: Tensor
    beta: Tensor  # last multiplier per literal
    strict: Tensor  # boolean

    @classmethod
    def none(cls, domains: int, like: Tensor) -> Literals:
        """No literal for any domain; real tensors get the type and device of `like`."""
        integer = torch.zeros(domains, 0, dtype=torch.int64, device=like.device)
        real = like.new_zeros(domains, 0)
        return cls(integer, integer.clone(), real, real.clone(), real.clone(), integer.bool())

    @property
    def depth(self) -> int:
        return int(self.node.shape[1])

    @property
    def count(self) -> Tensor:
        """Literals (domains,) of every domain; padding comes after them."""
        return (self.node >= 0).sum(1)

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
            pad(self.strict, (0, extra)),
        )

    def newest(self) -> list[tuple[Tensor, Tensor]]:
        """Node and entry (domains,) of the last literal of every domain; of earlier ones while they have no beta.

        Several splits made at once start without betas. Node -1 where there is none.
        """
        found: list[tuple[Tensor, Tensor]] = []
        fresh = torch.ones(self.node.shape[0], dtype=torch.bool, device=self.node.device)
        here = torch.arange(self.node.shape[0], device=self.node.device)
        last = self.count - 1
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
        depth = max(int(p.count.max()) if len(p.node) else 0 for p in parts)
        wide = [p.padded(depth).first(depth) for p in parts]
        return Literals(*(torch.cat([getattr(p, f) for p in wide]) for f in _FIELDS))

    def extended(
        self, node: Tensor, index: Tensor, sign: Tensor, point: Tensor, strict: Tensor | None = None
    ) -> Literals:
        """One more literal per domain, right after those it has, multiplier 0; all arguments are (domains,)."""
        strict = torch.zeros_like(node, dtype=torch.bool) if strict is None else strict
        used = self.count
        wide = self.padded(int(used.max()) + 1 if used.numel() else self.depth + 1)
        slot = used.unsqueeze(1)
        new = (node, index, sign, point, torch.zeros_like(point), strict)
        pairs = zip((getattr(wide, f) for f in _FIELDS), new, strict=True)
        return Literals(*(old.scatter(1, slot, value.unsqueeze(1).to(old)) for old, value in pairs))

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
            bounds = carried((flat_low.reshape(low.shape), flat_high.reshape(high.shape)), result[node])
            strict = self.strict[domain, slot]
            result[node] = _opened(bounds, (place, point, up), strict) if bool(strict.any()) else bounds
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


def _opened(bounds: Interval, literals: tuple[Tensor, Tensor, Tensor], strict: Tensor) -> Interval:
    """`bounds` with the ends marked that strict literals (flat entry, point, whether it is a lower end) exclude."""
    place, point, up = literals
    masks = []
    for end, side in zip(bounds, (up, ~up), strict=True):
        mask = torch.zeros(end.numel(), dtype=torch.bool, device=end.device)
        here = side & strict
        hit = here & (end.reshape(-1)[place] == point)
        mask[place[hit]] = True
        masks.append(mask.reshape(end.shape))
    return carried(bounds, bounds, HalfOpen(bounds, *masks))
