"""Which layer bounds matter to the final rows: what these would gain if the bounds were narrower.

The bound of a row is attained at one relaxed point, where each operator contributes its coefficient times the plane
that the sign selects. With the intervals of its inputs a little narrower the planes move; by how much, at that point
and with the multipliers found, is what sharpening these intervals can win at first. Rows of inner neurons gain in the
same way from bounds before them, and pass on what their own are worth. Few neurons make up most of it. All of this
only ranks neurons; nothing here is a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from verinet.ops.base import NonlinearOp
from verinet.propagation.backward import Backward
from verinet.propagation.optimize import Multipliers, Optimized, RowProblem, evaluate, gradients

NARROWER = 0.1  # of the width, off both ends

Weights = dict[int, Tensor]
"""Per node that a nonlinear one reads, a score (domains, *shape) for its entries."""

Found = tuple[Multipliers, Mapping[int, Tensor]]
"""Multipliers of the rows, and those of their split literals."""


def influence(problem: RowProblem, backward: Backward, found: Found) -> Weights:
    """Gains of the final rows of some domains, for each entry that of the row with most."""
    result: Weights = {}
    for source, gain in _gains(problem, backward, found):
        score = problem.owners.fold(gain).amax(1).double()
        result[source] = result[source] + score if source in result else score
    return result


def passed_on(problem: RowProblem, backward: Backward, found: Found, worth: Tensor) -> Weights:
    """Gains of rows of inner neurons, each times its `worth` (rows,), added up over the rows of a domain."""
    result: Weights = {}
    for source, gain in _gains(problem, backward, found):
        if source not in result:
            result[source] = gain.new_zeros(problem.lower.shape[0], *gain.shape[1:], dtype=torch.float64)
        scaled = gain.double() * worth.double().reshape(-1, *(1,) * (gain.dim() - 1))
        result[source].index_add_(0, problem.owners.domain, scaled)
    return result


def together(first: Weights, second: Mapping[int, Tensor]) -> Weights:
    """The sum, for the nodes of the first."""
    return {v: w + second[v] if v in second else w for v, w in first.items()}


def covering(weights: Weights, nodes: Sequence[int], cover: float) -> dict[int, Tensor]:
    """Masks (domains, *shape) of the fewest entries of the nodes that have a share `cover` of all weight."""
    shapes = {v: weights[v].shape for v in nodes if v in weights}
    if not shapes:
        return {}
    flat = torch.cat([weights[v].flatten(1) for v in shapes], 1)
    ordered, order = flat.sort(dim=1, descending=True)
    before = ordered.cumsum(1) - ordered
    taken = (before < cover * ordered.sum(1, keepdim=True)) & (ordered > 0)
    mask = torch.zeros_like(taken).scatter(1, order, taken)
    parts = mask.split([shape[1:].numel() for shape in shapes.values()], 1)
    return {v: part.reshape(shape) for (v, shape), part in zip(shapes.items(), parts, strict=True)}


def _gains(problem: RowProblem, backward: Backward, found: Found) -> Iterator[tuple[int, Tensor]]:
    """Nodes that nonlinear ones read, and what each row gains from narrower intervals there, (rows, *shape)."""
    state = evaluate(problem, backward, *found)
    gradients(problem, backward, state)  # for the relaxed point
    for position in state.multipliers:
        if position in state.trace.rows:
            gains = _gains_of(problem, backward, state, position)
            for source, gain in zip(backward.graph.nodes[position].inputs, gains, strict=True):
                shape = backward.graph.nodes[source].shape
                yield source, gain.expand(gain.shape[0], *shape).nan_to_num(0.0, 0.0, 0.0)


def _gains_of(problem: RowProblem, backward: Backward, state: Optimized, position: int) -> tuple[Tensor, ...]:
    """Per input of an operator, (rows, *shape)."""
    node = backward.graph.nodes[position]
    op, relaxation = node.op, state.relaxation
    if not isinstance(op, NonlinearOp) or relaxation is None:
        raise TypeError(node.name)
    rows, points = state.trace.rows[position], [state.values[i] for i in node.inputs]
    lowers, uppers = problem.frames[position].lowers, problem.frames[position].uppers  # filled by `evaluate`
    inset = [(high - low) * NARROWER for low, high in zip(lowers, uppers, strict=True)]
    inner = [a + d for a, d in zip(lowers, inset, strict=True)], [b - d for b, d in zip(uppers, inset, strict=True)]
    narrow = op.push(rows, op.lines(*inner, state.multipliers[position]), *points)
    gain = rows * (narrow - op.push(rows, relaxation.lines[position], *points))
    return op.blame(gain.clamp(min=0), lowers, uppers)
