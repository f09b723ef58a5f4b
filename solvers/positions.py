"""Networks that use a few integers of their input as positions: one case per combination of the integers.

For a fixed combination such a network is often so simple that intervals decide it. The bounds of a domain, in contrast,
always see both sides of a jump that lies on its boundary, however small it is.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.outcome import End, Offer, Outcome
from verinet.solvers.opening import Parts, interval_margins
from verinet.solvers.query import Clock, Query

from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.scalar import DomainError
from verinet.ops.shape.index import Index, index_op
from verinet.ops.sorting.position import Position
from verinet.propagation.interval import interval_pass

MOST_CASES = 4096
MOST_OFFERS = 64


@dataclass(frozen=True)
class Cases(Parts):
    """A network whose positions are further inputs, behind its own; each case is a box with the positions fixed.

    The cases of a box cover it: they let go of what the positions have to do with the rest of the input.
    """

    owners: tuple[int | None, ...]  # the one input that decides each position, where there is only one


def cases_of(query: Query) -> Cases | None:
    """The cases of a query; None without positions, or with too many cases."""
    nodes = query.graph.nodes
    places = [v for v, node in enumerate(nodes) if isinstance(node.op, Position) and node.shape == (1,)]
    if not places:
        return None
    try:
        known = interval_pass(Graph(nodes[: places[-1] + 1]), query.lower, query.upper)
    except DomainError:
        return None
    ends = [(known[v][0][:, 0].tolist(), known[v][1][:, 0].tolist()) for v in places]
    fixed: list[tuple[float, ...]] = []
    boxes: list[int] = []
    for box in range(query.boxes):
        ranges = [range(int(low[box]), int(high[box]) + 1) for low, high in ends]
        if len(fixed) + torch.tensor([float(len(r)) for r in ranges]).prod() > MOST_CASES:
            return None
        fixed += [tuple(map(float, case)) for case in itertools.product(*ranges)]
        boxes += [box] * (len(fixed) - len(boxes))
    values, owner = query.lower.new_tensor(fixed), torch.tensor(boxes, device=query.lower.device)
    lower, upper = (torch.cat([end[owner], values], 1) for end in (query.lower, query.upper))
    return Cases(_opened(query.graph, places), lower, upper, owner, tuple(_owner(query.graph, v) for v in places))


def _opened(graph: Graph, places: list[int]) -> Graph:
    """The network with the nodes named as further inputs, in order."""
    size, more = graph.input_size, len(places)
    device = next((t.device for n in graph.nodes for t in vars(n.op).values() if isinstance(t, Tensor)), None)
    own = index_op(torch.arange(size, device=device), size + more)
    nodes = [Node(InputOp(size + more), (), (size + more,), "input"), Node(own, (0,), (size,), "own input")]
    for position, node in enumerate(graph.nodes[1:], start=1):
        if position in places:
            entry = torch.tensor([size + places.index(position)], device=device)
            nodes.append(Node(index_op(entry, size + more), (0,), node.shape, node.name))
        else:
            nodes.append(dataclasses.replace(node, inputs=tuple(i + 1 for i in node.inputs)))
    return Graph(tuple(nodes))


def _owner(graph: Graph, position: int) -> int | None:
    """The input that a node depends on, if it is only one."""
    found: set[int] = set()
    for place in graph.ancestors(position):
        node = graph.nodes[place]
        if 0 in node.inputs:
            if not isinstance(node.op, Index):
                return None
            found.update(int(i) for i in node.op.index.reshape(-1).tolist() if i >= 0)
    return found.pop() if len(found) == 1 else None


def close_cases(query: Query, offer: Offer, clock: Clock) -> Outcome | None:
    """Decide all cases by intervals; None where there are no cases or some stay open.

    A case that stays open is tried as a candidate at the middle of its box.
    """
    cases = cases_of(query)
    margin = None if cases is None else interval_margins(query, cases, clock)
    if cases is None or margin is None:
        return None
    count = int(cases.box.numel())
    still = (~(margin > 0)).nonzero().reshape(-1)
    if still.numel() == 0:
        return Outcome(End.CLOSED, None, count, count, 0)
    worst = still[margin[still].argsort()][:MOST_OFFERS]
    for case in worst.tolist():
        if clock.over() or offer(_point(query, cases, case).unsqueeze(0).cpu().numpy()):
            return None if clock.over() else Outcome(End.CANDIDATE, None, count, count - int(still.numel()), 1)
    return None


def _point(query: Query, cases: Cases, case: int) -> Tensor:
    """The middle of the case's box, with the inputs that decide positions at the integers themselves."""
    size = query.graph.input_size
    low, high = cases.lower[case], cases.upper[case]
    point = ((low + high) * 0.5)[:size].clone()
    for place, owner in enumerate(cases.owners):
        if owner is not None:
            point[owner] = torch.minimum(torch.maximum(low[size + place], low[owner]), high[owner])
    return point
