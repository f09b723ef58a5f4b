"""What interval bounds alone decide, before any search: whole boxes, or the parts that someone has cut them into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.outcome import End, Outcome
from verinet.solvers.query import Clock, Query

from verinet.ir.graph import Graph, total
from verinet.ops.scalar import DomainError
from verinet.propagation.interval import interval_pass

MOST_BOXES = 4096
MOST_ENTRIES = 1 << 25  # of all nodes and boxes of one interval pass
_CHUNK = 64


@dataclass(frozen=True)
class Parts:
    """Boxes of a network that has the outputs of a query's network; each lies in a box of the query."""

    graph: Graph
    lower: Tensor  # (parts, inputs of the graph)
    upper: Tensor
    box: Tensor  # (parts,) the box of the query


def close_by_intervals(query: Query, clock: Clock) -> Outcome | None:
    """CLOSED where intervals of the whole boxes decide everything: `softmax >= 0` needs no search. None elsewhere.

    One pass in chunks for all boxes, where `Root` takes one box at a time and goes on from what it finds.
    """
    count = query.boxes
    entries = sum(total(node.shape) for node in query.graph.nodes)
    if count > MOST_BOXES or min(count, _CHUNK) * entries > MOST_ENTRIES:
        return None
    numbers = torch.arange(count, device=query.lower.device)
    margin = interval_margins(query, Parts(query.graph, query.lower, query.upper, numbers), clock)
    decided = margin is not None and bool((margin > 0).all())
    return Outcome(End.CLOSED, None, count, count, 0) if decided else None


def interval_margins(query: Query, parts: Parts, clock: Clock) -> Tensor | None:
    """Certified margins (parts,); None when time is over."""
    count = int(parts.box.numel())
    margins: list[Tensor] = []
    for begin in range(0, count, _CHUNK):
        if clock.over():
            return None
        margins.append(_margins(query, parts, torch.arange(begin, min(begin + _CHUNK, count))))
    return torch.cat(margins)


def _margins(query: Query, parts: Parts, some: Tensor) -> Tensor:
    """Certified margin (parts,) of every part named; minus infinity where intervals leave a function's domain."""
    some = some.to(parts.box.device)
    try:
        low, high = interval_pass(parts.graph, parts.lower[some], parts.upper[some])[-1]
    except DomainError:
        if some.numel() == 1:
            return parts.lower.new_full((1,), -torch.inf)
        half = some.numel() // 2
        return torch.cat([_margins(query, parts, some[:half]), _margins(query, parts, some[half:])])
    box = parts.box[some]
    ids, owners = query.table.rows_of(box)
    bound = query.table.interval_rows(ids, low[owners.domain], high[owners.domain])
    size = torch.maximum(low.abs(), high.abs())
    return query.table.domain_margins(box, ids, owners, query.table.margins(ids, bound, size.amax(0)))[0]
