"""Which splits to make: every candidate has a quick score; the best few are tried by real bounds of both children."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.bbps import ShortcutGain, Shortcuts
from verinet.solvers.branching.candidates import Gain, Place, Table, View, splittable, table
from verinet.solvers.branching.gains import child_gain
from verinet.solvers.branching.history import History
from verinet.solvers.branching.intercepts import babsr_gain, intercept_gain
from verinet.solvers.branching.leaves import Choice, Leaves, children, meet
from verinet.solvers.branching.options import Branching, Score
from verinet.solvers.branching.points import Pointing
from verinet.solvers.branching.treesize import log_tree_size
from verinet.solvers.query import Query

from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.narrow import Narrow
from verinet.propagation.optimize import Multipliers, Optimized, RowProblem, evaluate, gradients
from verinet.propagation.rows import rows_of
from verinet.propagation.sweep import Layers

REMEMBERED = 3.0
"""Gains are noted up to so many times what the domain misses: more than closes it, for leaves that miss more."""

LEARNT = 50
"""Children tried after which scores of different kinds of operators can be compared: not every kind is tried then."""


class Bounder(Protocol):
    """What scoring asks of the search: the final rows of leaves, and bounds of their children."""

    query: Query
    per: int
    backward: Backward
    branching: Branching
    pointing: Pointing
    history: History

    @property
    def shortcuts(self) -> Shortcuts: ...

    def problem(
        self, leaves: Leaves, layers: Layers
    ) -> tuple[RowProblem, dict[int, tuple[Tensor, Tensor]], Tensor]: ...

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor: ...


def choose(
    search: Bounder, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor, splits: int = 1
) -> list[Choice]:
    """The best `splits` splits of every domain in `keep` (kept,), the best first; none when nothing can be split.

    Where a domain has fewer, further choices are not `possible`.
    """
    view = _view(search, leaves, layers, best, keep)
    graph, options = search.query.graph, search.branching
    positions = splittable(graph, search.backward.order(graph.output), options.inputs)
    found = table(view, positions, _gain(search, layers, keep), search.pointing)
    if found is None or not bool((found.score > 0).any()):
        return []
    if options.learning and options.candidates > 1:
        found = replace(found, score=search.history.ranked(found, -leaves.margin[keep]))
    learnt = options.learning and search.history.trials >= LEARNT
    top = found.best(max(options.candidates, splits), 0 if learnt else options.per_kind)
    if options.candidates > 1 and top.shape[1] > 1:
        value = _rescore(search, leaves.take(keep), best, keep, (found, top))
        top = top.gather(1, value.argsort(stable=True, dim=1, descending=True))
    here = torch.arange(keep.numel(), device=keep.device)
    result = []
    for place in range(min(splits, top.shape[1])):
        pick = top[:, place]
        possible = found.score[here, pick] > 0
        where = found.node[pick], found.entry[pick], found.point[here, pick]
        result.append(Choice(*where, possible, found.strict[here, pick]))
    return result


def _view(search: Bounder, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor) -> View:
    """The best iterate with its lines and its relaxed forward point, by the row of each clause closest to closing."""
    narrow = Narrow.of(search.problem(leaves, layers)[0], keep)
    problem, here = narrow.problem, torch.arange(keep.numel(), device=keep.device)
    state = evaluate(problem, search.backward, narrow.multipliers(best.multipliers), narrow.betas(best.betas))
    gradients(problem, search.backward, state)
    lead = state.bound.reshape(-1, search.per).argmax(1) + here * search.per
    # Leaves may have been sharpened after their bounds: splits outside of what is left would be no use.
    known = meet(dict(problem.known), leaves.take(keep).inner, search.backward.dtype)
    return View(search.backward.graph, state, here, lead, state.bound.shape[0], known)


def _gain(search: Bounder, layers: Layers, keep: Tensor) -> Gain:
    score = search.branching.score
    if score is Score.BBPS:
        return ShortcutGain(search.shortcuts, layers.lower[keep], layers.upper[keep])
    if score is Score.BABSR:
        return babsr_gain
    return intercept_gain if score is Score.INTERCEPT else dual_gain


def dual_gain(view: View, place: Place, ends: Interval, upper: bool) -> Tensor:
    """The change of the operator's certified looseness at the relaxed forward point."""
    return child_gain(place.reader, place.slot, ends, upper)


def _rescore(search: Bounder, leaves: Leaves, best: Optimized, keep: Tensor, options: tuple[Table, Tensor]) -> Tensor:
    """What both children of the candidates named (kept, width) gain by one pass each, (kept, width)."""
    found, top = options
    here = torch.arange(keep.numel(), device=keep.device)
    rows = rows_of(keep, search.per)
    warm = {v: tuple(t[rows] for t in m) for v, m in best.multipliers.items()}
    values: list[Tensor] = []
    for k in range(top.shape[1]):
        column = top[:, k]
        where = found.node[column], found.entry[column], found.point[here, column]
        choice = Choice(*where, column >= 0, found.strict[here, column])
        margin = search.child_bounds(children(leaves, [choice], warm), warm).reshape(2, -1)
        search.history.learn(found, column, torch.minimum(margin - leaves.margin, REMEMBERED * _cap(leaves.margin)))
        gain = torch.minimum(margin - leaves.margin, _cap(leaves.margin))
        value = -log_tree_size(gain[0], gain[1], _cap(leaves.margin))
        values.append(torch.where(found.score[here, column] > 0, value, -torch.inf))
    return torch.stack(values, 1)


def _cap(margin: Tensor) -> Tensor:
    """A closed child is worth its missing margin, no more."""
    return (-margin).clamp(min=0) + 1e-9
