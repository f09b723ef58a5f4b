"""Open domains of neuron splitting: a clause on a box, split literals, and the bounds they inherited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.stack import join_parents

from verinet.propagation.backward import Backward
from verinet.propagation.ends import carried, within
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Multipliers
from verinet.propagation.rows import rows_of


@dataclass(frozen=True, slots=True)
class Engines:
    """`search` finds multipliers (float32 where that pays), `gate` decides in float64 with rounding charged."""

    search: Backward
    gate: Backward


@dataclass(frozen=True, slots=True)
class ClauseRows:
    """One clause as the search sees it: its box and its rows in the table."""

    box: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One split per domain."""

    node: Tensor  # (domains,) position of the node in the graph
    index: Tensor  # (domains,) flat entry of the node
    point: Tensor  # (domains,)
    possible: Tensor  # (domains,) False where there is no neuron to split
    strict: Tensor | None = None  # (domains,) the side that loses the point: 1 for z > p, -1 for z < p, 0 for neither

    def take(self, mask: Tensor) -> Choice:
        """The choices of some domains."""
        strict = None if self.strict is None else self.strict[mask]
        return Choice(self.node[mask], self.index[mask], self.point[mask], self.possible[mask], strict)


@dataclass(slots=True)
class Leaves:
    """Open domains that were made together; `warm` are the parents' multipliers, (parents * rows per clause, ...)."""

    clause: Tensor  # (domains,) position in the list of clauses
    margin: Tensor  # (domains,) of the parent until the domain itself is bounded
    mass: Tensor  # (domains,) 2**-depth over the number of clauses: sums to 1 over all leaves
    anchor: Tensor  # (domains,) which set of layer bounds holds here
    rate: Tensor  # (domains,) first step size of the optimisation
    literals: Literals
    warm: Multipliers | None = None
    parent: Tensor | None = None  # (domains,) position among the parents
    inner: dict[int, Interval] | None = None  # float64 bounds (domains, *shape) that hold here and below

    def __len__(self) -> int:
        return int(self.clause.numel())

    def take(self, index: Tensor | slice) -> Leaves:
        parent = None if self.parent is None else self.parent[index]
        return Leaves(
            self.clause[index],
            self.margin[index],
            self.mass[index],
            self.anchor[index],
            self.rate[index],
            self.literals.take(index),
            self.warm,
            parent,
            None if self.inner is None else {v: (lo[index], hi[index]) for v, (lo, hi) in self.inner.items()},
        )


def children(leaves: Leaves, choices: Sequence[Choice], warm: Multipliers) -> Leaves:
    """All sides of the chosen splits, 2**choices parts one after the other; of one choice first z >= p, then z <= p.

    At most one of the two sides is strict, so together they cover the domain.
    """
    literals = leaves.literals
    for done, choice in enumerate(choices):
        # Points are float32 numbers, so that both engines split at the same place.
        node, index, point = (t.repeat(2**done) for t in (choice.node, choice.index, choice.point.float().double()))
        loses = torch.zeros_like(choice.node) if choice.strict is None else choice.strict
        loses = loses.repeat(2**done)
        sides = (
            literals.extended(node, index, sign * torch.ones_like(point), point, loses == sign) for sign in (1.0, -1.0)
        )
        literals = Literals.join(list(sides))
    parent = torch.arange(len(leaves), device=leaves.clause.device).repeat(2 ** len(choices))
    made = leaves.take(parent)
    made.mass = made.mass * 0.5 ** len(choices)
    made.literals, made.warm, made.parent = literals, warm, parent
    return made


def halves(leaf: Leaves, split: tuple[int, int, float]) -> Leaves:
    """Both sides of one split (node, entry, point) of one leaf, with what multipliers its parents left it."""
    device = leaf.clause.device
    node, index, point = (torch.tensor([v], device=device) for v in split)
    made = children(leaf, [Choice(node, index, point.double(), torch.ones_like(node, dtype=torch.bool))], {})
    made.warm, made.parent = leaf.warm, None if leaf.parent is None else leaf.parent.repeat(2)
    return made


def join_leaves(parts: list[Leaves], per: int) -> Leaves:
    """Several stacks of leaves as one, their parents' multipliers side by side."""
    if len(parts) == 1:
        return parts[0]

    def take(warm: Multipliers, used: Tensor) -> Multipliers:
        rows = rows_of(used, per)
        return {v: tuple(t[rows] for t in m) for v, m in warm.items()}

    warm: Multipliers | None = None
    parent: Tensor | None = None
    found = join_parents([(p.warm, p.parent) for p in parts], take)
    if found is not None:
        kept, parent = found
        warm = {v: tuple(torch.cat(ts) for ts in zip(*(k[v] for k in kept), strict=True)) for v in kept[0]}
    return Leaves(
        torch.cat([p.clause for p in parts]),
        torch.cat([p.margin for p in parts]),
        torch.cat([p.mass for p in parts]),
        torch.cat([p.anchor for p in parts]),
        torch.cat([p.rate for p in parts]),
        Literals.join([p.literals for p in parts]),
        warm,
        parent,
        _join_inner(parts),
    )


def _join_inner(parts: list[Leaves]) -> dict[int, Interval] | None:
    """Bounds of all leaves, or none where some part has none."""
    kept = [p.inner for p in parts if p.inner is not None]
    if len(kept) < len(parts):
        return None
    return {v: (torch.cat([k[v][0] for k in kept]), torch.cat([k[v][1] for k in kept])) for v in kept[0]}


def outward(pair: Interval, dtype: torch.dtype) -> Interval:
    """The same bounds in a smaller float type, rounded outward."""
    low, high = pair
    if dtype == low.dtype:
        return pair
    below, above = low.to(dtype), high.to(dtype)
    infinity = torch.tensor(torch.inf, dtype=dtype, device=low.device)
    below = torch.where(below.to(low.dtype) > low, torch.nextafter(below, -infinity), below)
    above = torch.where(above.to(high.dtype) < high, torch.nextafter(above, infinity), above)
    return carried((below, above), pair)


def meet(known: dict[int, Interval], inner: dict[int, Interval] | None, dtype: torch.dtype) -> dict[int, Interval]:
    """The tighter of both, `inner` in float64 rounded outward to `dtype` first. Bounds may cross."""
    result = dict(known)
    for position, pair in (inner or {}).items():
        result[position] = within(result[position], outward(pair, dtype))
    return result


def placed(inner: dict[int, Interval], index: Tensor, count: int) -> dict[int, Interval]:
    """Bounds of the leaves `index` among `count`; the others know nothing."""
    result: dict[int, Interval] = {}
    for position, (low, high) in inner.items():
        nothing = torch.full((count, *low.shape[1:]), torch.inf, dtype=low.dtype, device=low.device)
        result[position] = (-nothing).index_copy(0, index, low), nothing.index_copy(0, index, high)
    return result


class Anchors:
    """Sets of layer bounds, one per number, that leaves refer to: exact ones for the gate, outward ones to search."""

    def __init__(self, known: dict[int, Interval], dtype: torch.dtype) -> None:
        """`known` holds float64 bounds (anchors, *shape) per node; numbers count from 0."""
        self.exact = known
        self.search = {v: outward(pair, dtype) for v, pair in known.items()}
        self._dtype = dtype
        # Literal columns above the tree node of each set; -1 for a clause whose bounds are still the box's.
        self.prefix = [-1] * (next(iter(known.values()))[0].shape[0] if known else 0)

    def __len__(self) -> int:
        return len(self.prefix)

    def add(self, known: dict[int, Interval], prefix: int) -> int:
        """Append one set of bounds (1, *shape); returns its number."""
        self.prefix.append(prefix)
        for position, pair in known.items():
            for table, new in ((self.exact, pair), (self.search, outward(pair, self._dtype))):
                low, high = table[position]
                table[position] = (torch.cat([low, new[0]]), torch.cat([high, new[1]]))
        return len(self.prefix) - 1

    def put(self, number: int, known: dict[int, Interval]) -> None:
        """Overwrite one set of bounds (1, *shape)."""
        for position, pair in known.items():
            for table, new in ((self.exact, pair), (self.search, outward(pair, self._dtype))):
                table[position][0][number], table[position][1][number] = new[0][0], new[1][0]

    def compact(self, parts: list[Leaves]) -> Tensor:
        """Forget the sets that no leaf refers to; renumbers the leaves' anchors and returns the old numbers kept."""
        used: Tensor
        used, inverse = torch.cat([p.anchor for p in parts]).unique(return_inverse=True)
        cursor = 0
        for part in parts:
            part.anchor = inverse[cursor : cursor + len(part)]
            cursor += len(part)
        for table in (self.exact, self.search):
            for position, (low, high) in table.items():
                table[position] = (low[used], high[used])
        self.prefix = [self.prefix[i] for i in used.tolist()]
        return used
