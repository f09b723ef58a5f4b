"""Sharpened layer bounds that travel with the leaves they hold for.

Such bounds hold below one node of the search tree, so a set of them may go wherever leaves below that node go. Without
them every worker would sharpen the same nodes again, and search larger trees until it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Leaves
from verinet.solvers.branching.neuron_split import NeuronSplit

from verinet.propagation.interval import Interval

MOST_BYTES = 32 * 2**20  # that go with one message; the sets that fewest leaves refer to stay behind


@dataclass(frozen=True, slots=True)
class Sets:
    """`known` holds float64 bounds (sets, *shape) per node, `prefix` the leading literals of a leaf each stands for."""

    known: dict[int, Interval]
    prefix: tuple[int, ...]

    def take(self, index: Tensor) -> Sets | None:
        """Some of them, in this order; None for none."""
        if not index.numel():
            return None
        known = {v: (lo[index], hi[index]) for v, (lo, hi) in self.known.items()}
        return Sets(known, tuple(self.prefix[i] for i in index.tolist()))

    @property
    def size(self) -> int:
        """Bytes of one set."""
        return sum(2 * lo[0].numel() * lo.element_size() for lo, _ in self.known.values())


@dataclass(frozen=True, slots=True)
class Packed:
    """The sets that leaves of a search refer to, and the new `number` (anchors,) of every anchor; negative: none."""

    sets: Sets | None
    number: Tensor

    @classmethod
    def of(cls, search: NeuronSplit) -> Packed:
        """Those sharper than the clause's own bounds, the most used first as far as they fit into a message."""
        anchors = search.anchors
        number = torch.full((len(anchors),), -1)
        used = [part.anchor.cpu() for part in (*search.stack, *search.stuck)]
        if not used:
            return cls(None, number)
        counts = torch.bincount(torch.cat(used), minlength=len(anchors))
        counts[torch.tensor(anchors.prefix) < 0] = 0
        everything = Sets(
            {v: (lo.cpu(), hi.cpu()) for v, (lo, hi) in anchors.exact.items()},
            tuple(anchors.prefix),
        )
        kept = counts.argsort(descending=True)[: min(int((counts > 0).sum()), MOST_BYTES // max(1, everything.size))]
        number[kept] = torch.arange(kept.numel())
        return cls(everything.take(kept), number)

    def plain(self, leaves: Leaves) -> Leaves:
        """Leaves with the new numbers, without the multipliers that only speed up the search, large as they are."""
        anchor = self.number.to(leaves.anchor.device)[leaves.anchor]
        return replace(leaves, warm=None, parent=None, inner=None, anchor=anchor)


def fitted(parts: Sequence[Leaves | None], sets: Sets | None) -> tuple[list[Leaves | None], Sets | None]:
    """The same leaves with those sets alone that they refer to."""
    if sets is None:
        return list(parts), None
    number = torch.full((len(sets.prefix),), -1)
    used = torch.cat([p.anchor for p in parts if p is not None] or [number[:0]]).unique()
    used = used[used >= 0]
    number[used] = torch.arange(used.numel())
    return [None if p is None else replace(p, anchor=_mapped(p.anchor, number)) for p in parts], sets.take(used)


def shifted(leaves: Leaves | None, by: int) -> Leaves | None:
    """The same leaves where `by` sets come before theirs."""
    return None if leaves is None else replace(leaves, anchor=torch.where(leaves.anchor < 0, -1, leaves.anchor + by))


def joined_sets(several: Sequence[Sets | None]) -> Sets | None:
    """All of them, one after the other."""
    some = [sets for sets in several if sets is not None]
    if not some:
        return None
    nodes = some[0].known
    known = {v: (torch.cat([s.known[v][0] for s in some]), torch.cat([s.known[v][1] for s in some])) for v in nodes}
    return Sets(known, tuple(p for s in some for p in s.prefix))


def adopt(search: NeuronSplit, sets: Sets | None) -> None:
    """Make the leaves of a new search refer to its own anchors: their clause's, or those that came with them."""
    clauses, device = len(search.anchors), search.query.lower.device
    if sets is not None:
        known = {v: (lo.to(device), hi.to(device)) for v, (lo, hi) in sets.known.items()}
        for row, prefix in enumerate(sets.prefix):
            search.anchors.add({v: (lo[row : row + 1], hi[row : row + 1]) for v, (lo, hi) in known.items()}, prefix)
        search.gauge.adopt(len(sets.prefix))
    for part in (*search.stack, *search.stuck):
        part.anchor = torch.where(part.anchor < 0, part.clause, part.anchor + clauses)


def _mapped(anchor: Tensor, number: Tensor) -> Tensor:
    return torch.where(anchor < 0, anchor, number[anchor.clamp(min=0)])
