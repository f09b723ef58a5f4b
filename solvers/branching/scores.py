"""Which neuron to split, and where: the dual-point score, re-scored by real bounds for the best few.

At the relaxed forward point the certified looseness of the bound is the sum over neurons of
g_j = a_j (f(z_j) - line(z_j)) >= 0 (bound_propagation note, section 4.3): a child's gain is estimated by the change of
that term when the neuron's lines are recomputed on the child's interval.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Choice, Leaves, children, rows_of
from verinet.solvers.query import Query

from verinet.ops.base import select
from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import Backward
from verinet.propagation.optimize import Multipliers, Optimized, RowProblem, evaluate, gradients
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers


class Bounder(Protocol):
    """What scoring asks of the search: the final rows of leaves, and bounds of their children."""

    query: Query
    per: int
    backward: Backward
    candidates: int

    def problem(
        self, leaves: Leaves, layers: Layers
    ) -> tuple[RowProblem, dict[int, tuple[Tensor, Tensor]], Tensor]: ...

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor: ...


def splittable(search: Bounder) -> list[int]:
    """Nonlinear nodes whose single input can be split."""
    nodes = search.query.graph.nodes
    return [v for v in search.backward.order(search.query.graph.output) if isinstance(nodes[v].op, Elementwise)]


def choose(search: Bounder, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor) -> Choice | None:
    """The best split of every domain in `keep` (kept,); None when no neuron of any domain can be split."""
    problem, _, _ = search.problem(leaves, layers)
    state = _complete(search, problem, best)
    scores, points, nodes, entries = [], [], [], []
    for position in splittable(search):
        score, point = _node_scores(search, position, layers, state, problem.owners)
        source = search.query.graph.nodes[position].inputs[0]
        count = score.shape[1]
        scores.append(score[keep])
        points.append(point[keep])
        nodes.append(torch.full((count,), source, device=score.device))
        entries.append(torch.arange(count, device=score.device))
    if not scores:
        return None
    score, point = torch.cat(scores, 1), torch.cat(points, 1)
    node, entry = torch.cat(nodes), torch.cat(entries)
    width = min(search.candidates, score.shape[1])
    top = score.topk(width, 1)
    possible = top.values[:, 0] > 0
    if not bool(possible.any()):
        return None
    pick = (
        top.indices[:, 0]
        if width == 1
        else _rescore(search, leaves.take(keep), best, keep, (top.indices, point, node, entry))
    )
    here = torch.arange(keep.numel(), device=keep.device)
    return Choice(node[pick], entry[pick], point[here, pick], possible)


def _complete(search: Bounder, problem: RowProblem, best: Optimized) -> Optimized:
    """The best iterate with its lines and its relaxed forward point."""
    state = evaluate(problem, search.backward, best.multipliers, best.betas)
    gradients(problem, search.backward, state)
    return state


def _node_scores(
    search: Bounder, position: int, layers: Layers, state: Optimized, owners: RowMap
) -> tuple[Tensor, Tensor]:
    """Scores and split points (domains, entries) of one nonlinear node; score 0 where a split is no use."""
    node = search.query.graph.nodes[position]
    op = node.op
    if not isinstance(op, Elementwise) or state.relaxation is None:
        raise TypeError(node.name)
    source = node.inputs[0]
    low, high = layers.known[source]
    domains = low.shape[0]
    rows = state.trace.rows.get(position)
    if rows is None:
        zero = low.reshape(domains, -1) * 0.0
        return zero, zero
    # The row of each clause that is closest to closing decides.
    lead = state.bound.reshape(domains, search.per).argmax(1) + torch.arange(domains, device=low.device) * search.per
    a, z = rows[lead], state.values[source][lead]
    lines = tuple(t[lead] if t.shape[0] == rows.shape[0] else t for t in state.relaxation.lines[position])
    old = a * op.push(a, lines, z)
    open_entries = op.undecided([low], [high])[0]
    best_score, best_point = torch.zeros_like(low), (low + high) * 0.5
    candidates = op.branch_points(low, high)
    for k in range(candidates.shape[-1]):
        point = candidates[..., k]
        gains = _gains(op, (a, z, old), (low, high), point)
        score = torch.minimum(*gains).clamp(min=0) + 1e-2 * torch.maximum(*gains).clamp(min=0)
        inside = open_entries & (point > low) & (point < high)
        score = torch.where(inside, score + 1e-12 * (high - low), torch.zeros_like(score))
        better = score > best_score
        best_score, best_point = torch.where(better, score, best_score), torch.where(better, point, best_point)
    return best_score.reshape(domains, -1), best_point.reshape(domains, -1)


def _gains(
    op: Elementwise, at: tuple[Tensor, Tensor, Tensor], interval: tuple[Tensor, Tensor], point: Tensor
) -> tuple[Tensor, Tensor]:
    """Estimated gain of either child at the relaxed forward point."""
    a, z, old = at
    result = []
    for low, high in ((point, interval[1]), (interval[0], point)):
        lines = op.lines([low], [torch.maximum(low, high)])
        inside = torch.minimum(torch.maximum(z, low), high)
        slope, offset = select(a, lines[0], lines[2]), select(a, lines[1], lines[3])
        result.append(a * (slope * inside + offset) - old)
    return result[0], result[1]


def _rescore(
    search: Bounder,
    leaves: Leaves,
    best: Optimized,
    keep: Tensor,
    options: tuple[Tensor, Tensor, Tensor, Tensor],
) -> Tensor:
    """Evaluate both children of the best few candidates by one pass each; returns the winner's column per domain."""
    top, point, node, entry = options
    here = torch.arange(keep.numel(), device=keep.device)
    rows = rows_of(keep, search.per)
    warm = {v: tuple(t[rows] for t in m) for v, m in best.multipliers.items()}
    values: list[Tensor] = []
    for k in range(top.shape[1]):
        column = top[:, k]
        both = children(leaves, Choice(node[column], entry[column], point[here, column], column >= 0), warm)
        margin = search.child_bounds(both, warm).reshape(2, -1)
        gain = torch.minimum(margin - leaves.margin, _cap(leaves.margin))
        values.append(torch.minimum(gain[0], gain[1]) + 0.1 * torch.maximum(gain[0], gain[1]))
    return top.gather(1, torch.stack(values, 1).argmax(1, keepdim=True)).squeeze(1)


def _cap(margin: Tensor) -> Tensor:
    """A closed child is worth its missing margin, no more."""
    return (-margin).clamp(min=0) + 1e-9
