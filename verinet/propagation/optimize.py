"""Optimisation of the multipliers of a set of rows, with closed-form gradients and no autograd tape.

For fixed domains the bound is a concave, piecewise smooth function of slopes, split multipliers and the rest, and by
the envelope theorem its gradient is read off one relaxed forward pass from the concretising corner (bound_propagation
note, sections 2.1 and 3). Every iterate is a valid bound, so the best one seen is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verinet.ops.base import Frame, Lines, NonlinearOp
from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import Backward, InputRows, Relaxation, SplitRows, Trace
from verinet.propagation.ends import seen
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap
from verinet.propagation.starts import published

Multipliers = dict[int, tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Rows whose lower bounds are to be raised: all that stays fixed during the optimisation."""

    start: int
    rows: Tensor  # (rows, *shape of start)
    owners: RowMap
    lower: Tensor  # (domains, inputs)
    upper: Tensor
    known: Mapping[int, Interval]  # bounds of the inputs of nonlinear nodes, (domains, *shape)
    splits: Mapping[int, SplitRows] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict, compare=False, repr=False)
    """What operators derive from `known`, filled by use; `replace(..., known=...)` must replace it too."""


@dataclass(frozen=True, slots=True)
class Step:
    """Step-size rule: Adam on scaled multipliers with geometric decay (Kingma and Ba 2015)."""

    iterations: int = 20
    rate: float = 0.25
    beta_rate: float = 0.1
    decay: float = 0.96


@dataclass(frozen=True, slots=True)
class Climb:
    """Step-size rule of `climb`: every row has its own rate, longer after a gain and shorter after a loss."""

    iterations: int = 12
    grow: float = 1.4
    shrink: float = 0.5
    beta_share: float = 0.4  # steps of split multipliers over steps of slopes


@dataclass(slots=True)
class Optimized:
    """Best bounds (rows,), the functional of the best iterate, its multipliers and its betas (k,) per split node.

    `values` (rows, *shape) per node, `corner` (rows, inputs) and `relaxation` belong to the last pass only.
    """

    bound: Tensor
    inputs: InputRows
    multipliers: Multipliers
    betas: dict[int, Tensor]
    trace: Trace
    values: dict[int, Tensor] = field(default_factory=dict)
    corner: Tensor | None = None
    relaxation: Relaxation | None = None


def nonlinear_ancestors(backward: Backward, start: int) -> tuple[int, ...]:
    """Nonlinear nodes that `start` depends on."""
    nodes = backward.graph.nodes
    return tuple(v for v in backward.order(start) if isinstance(nodes[v].op, NonlinearOp))


def _op(backward: Backward, position: int) -> NonlinearOp:
    op = backward.graph.nodes[position].op
    if not isinstance(op, NonlinearOp):
        raise TypeError(backward.graph.nodes[position].name)
    return op


def _frame(problem: RowProblem, backward: Backward, position: int) -> Frame:
    """Bounds of the inputs of a nonlinear node, one copy per row (or a single broadcast copy)."""
    if position not in problem.frames:
        ends = seen(_op(backward, position), [problem.known[i] for i in backward.graph.nodes[position].inputs])
        problem.frames[position] = Frame(*([problem.owners.gather(t) for t in side] for side in ends))
    return problem.frames[position]


def default_multipliers(problem: RowProblem, backward: Backward) -> Multipliers:
    """The default of every nonlinear ancestor, copied for each row."""
    found = _per_row(problem, _shared_defaults(problem, backward))
    return {position: tuple(v.contiguous() for v in values) for position, values in found.items()}


def _per_row(problem: RowProblem, shared: Multipliers) -> Multipliers:
    """A view for each row of multipliers that all rows share; those that rows have already are left alone."""
    count = problem.rows.shape[0]
    return {position: tuple(v.expand(count, *v.shape[1:]) for v in values) for position, values in shared.items()}


def _shared_defaults(problem: RowProblem, backward: Backward) -> Multipliers:
    """Default multipliers, one copy for all rows of a single domain."""
    result: Multipliers = {}
    for position in nonlinear_ancestors(backward, problem.start):
        frame = _frame(problem, backward, position)
        if "default" not in frame.kept:
            frame.kept["default"] = _op(backward, position).multipliers(frame.lowers, frame.uppers)
        result[position] = frame.kept["default"]
    return result


def _shared_published(problem: RowProblem, backward: Backward, default: Multipliers) -> Iterator[Multipliers]:
    """CROWN's lines where they differ from ours; where curves are among them, also its planes of products alone.

    Releases of CROWN differ in the curves: some take the tangents that are our default.
    """
    found: Multipliers = {}
    for position, values in default.items():
        frame = _frame(problem, backward, position)
        if "published" not in frame.kept:
            frame.kept["published"] = published(_op(backward, position), frame, values)
        other: tuple[Tensor, ...] | None = frame.kept["published"]
        if other is not None:
            found[position] = other
    curves = {v for v in found if isinstance(_op(backward, v), Elementwise)}
    if found:
        yield default | found
    if 0 < len(curves) < len(found):
        yield default | {v: m for v, m in found.items() if v not in curves}


def row_relaxation(problem: RowProblem, backward: Backward, multipliers: Multipliers) -> Relaxation:
    """Lines per row for the given multipliers."""
    lines: dict[int, Lines] = {}
    for position, values in multipliers.items():
        lines[position] = _op(backward, position).framed_lines(_frame(problem, backward, position), values)
    return Relaxation(lines, per_row=True)


def evaluate(
    problem: RowProblem, backward: Backward, multipliers: Multipliers, betas: Mapping[int, Tensor]
) -> Optimized:
    """One pass with given multipliers: the bound, and what the gradient needs."""
    relaxation = row_relaxation(problem, backward, multipliers)
    trace = Trace()
    splits = {v: replace(s, beta=betas[v]) for v, s in problem.splits.items()}
    inputs = backward.run(problem.start, problem.rows, problem.owners, relaxation, splits, trace)
    bound = backward.concretize(inputs, problem.owners, problem.lower, problem.upper)
    return Optimized(bound, inputs, multipliers, dict(betas), trace, relaxation=relaxation)


def gradients(
    problem: RowProblem, backward: Backward, state: Optimized
) -> tuple[dict[int, tuple[Tensor, ...]], dict[int, Tensor]]:
    """Ascent directions of all multipliers at one iterate; stores the relaxed forward point in `state`."""
    if state.relaxation is None:
        raise ValueError("evaluate first")
    owners = problem.owners
    state.corner = backward.corner(state.inputs, owners, problem.lower, problem.upper)
    state.values = backward.relaxed_forward(problem.start, state.corner, state.relaxation, state.trace, owners)
    slopes: dict[int, tuple[Tensor, ...]] = {}
    for position in state.multipliers:
        rows = state.trace.rows.get(position)
        if rows is None:
            slopes[position] = tuple(torch.zeros_like(m) for m in state.multipliers[position])
            continue
        points = [state.values[i] for i in backward.graph.nodes[position].inputs]
        slopes[position] = _op(backward, position).gradient(rows, state.relaxation.lines[position], *points)
    betas = {}
    for position, split in problem.splits.items():
        reached = state.values[position].reshape(state.corner.shape[0], -1)[split.row, split.index]
        betas[position] = -split.sign * (reached - split.point)
    return slopes, betas


class Adam:
    """First and second moments of named tensors."""

    def __init__(self) -> None:
        self._moments: dict[object, tuple[Tensor, Tensor]] = {}
        self._count = 0

    def tick(self) -> None:
        self._count += 1

    def forget(self, rows: Tensor, special: Mapping[object, Tensor]) -> None:
        """No momentum for some rows (a mask over the leading axis, or the one that `special` has for a key)."""
        for key, (first, second) in self._moments.items():
            mask = special.get(key, rows)
            self._moments[key] = (first.masked_fill(mask.reshape(-1, *(1,) * (first.dim() - 1)), 0.0), second)

    def step(self, key: object, gradient: Tensor, rate: float | Tensor) -> Tensor:
        if key not in self._moments:
            self._moments[key] = (torch.zeros_like(gradient), torch.zeros_like(gradient))
        first, second = self._moments[key]
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        shrink = (1 - 0.999**self._count) ** 0.5
        step = second.sqrt().add_(1e-12 * shrink).reciprocal_().mul_(first)
        if isinstance(rate, Tensor):
            rate = rate.reshape(-1, *(1,) * (gradient.dim() - 1))
        return step.mul_(rate * (shrink / (1 - 0.9**self._count)))


def optimize(
    problem: RowProblem,
    backward: Backward,
    *,
    step: Step,
    warm: Multipliers | None = None,
    finished: Callable[[Tensor], bool] | None = None,
) -> Optimized:
    """Raise the bounds of all rows; `finished(best bounds)` ends early. Returns the best bounds and multipliers.

    Every row starts from the best of two or three places: see `better_start`.
    """
    state = best = better_start(problem, backward, warm, finished)
    adam, rate = Adam(), 1.0
    for _ in range(step.iterations):
        if finished is not None and finished(best.bound):
            break
        if state.relaxation is None:
            state.relaxation = row_relaxation(problem, backward, state.multipliers)
        slopes, up = gradients(problem, backward, state)
        adam.tick()
        current_m = ascend(problem, backward, state.multipliers, slopes, (adam, rate * step.rate))
        current_b = {
            v: (state.betas[v] + adam.step(("beta", v), up[v], rate * step.beta_rate)).clamp(min=0) for v in state.betas
        }
        rate *= step.decay
        state = evaluate(problem, backward, current_m, current_b)
        best = _merge(problem, best, state)
    if best.corner is None:
        best.corner = backward.corner(best.inputs, problem.owners, problem.lower, problem.upper)
    return best


def better_start(
    problem: RowProblem,
    backward: Backward,
    warm: Multipliers | None = None,
    finished: Callable[[Tensor], bool] | None = None,
) -> Optimized:
    """Per row the best of the default lines, CROWN's, and `warm`: never looser than CROWN with the same `known`.

    What already has `finished` tries no other. The rows of a single domain share one copy of the first two kinds of
    lines, so both passes together cost about as much as one with copies. `relaxation` is None where starts are mixed.
    """
    betas = {v: s.beta for v, s in problem.splits.items()}
    default = _shared_defaults(problem, backward)
    best = _shared(problem, backward, default, betas)
    if finished is not None and finished(best.bound):
        return best
    for other in (*_shared_published(problem, backward, default), *(() if warm is None else (warm,))):
        best = _merge(problem, best, _shared(problem, backward, other, betas))
    return best


def _shared(problem: RowProblem, backward: Backward, place: Multipliers, betas: Mapping[int, Tensor]) -> Optimized:
    """`evaluate` for multipliers that rows may share."""
    state = evaluate(problem, backward, place, betas)
    state.multipliers = _per_row(problem, place)
    return state


def climb(
    problem: RowProblem,
    backward: Backward,
    rule: Climb,
    rates: Tensor,
    *,
    start: Optimized,
    finished: Callable[[Tensor], bool] | None = None,
) -> tuple[Optimized, Tensor]:
    """Raise the bounds of all rows from a good `start`; a row that a step makes worse goes back and steps shorter.

    `rates` (rows,) are the first step sizes; returned too as they are at the end, a good start for similar rows. In
    deep search trees the useful step shrinks by a factor of ten and more, so no fixed schedule serves all rows.
    """
    best, adam = start, Adam()
    for _ in range(rule.iterations):
        if finished is not None and finished(best.bound):
            break
        if best.relaxation is None:
            best.relaxation = row_relaxation(problem, backward, best.multipliers)
        slopes, up = gradients(problem, backward, best)
        adam.tick()
        new = evaluate(
            problem,
            backward,
            # Rates per row have found their own scale; measured, units make them worse.
            ascend(problem, backward, best.multipliers, slopes, (adam, rates), in_spans=False),
            _raised(problem, best.betas, up, (adam, rates * rule.beta_share)),
        )
        worse = ~(new.bound > best.bound)
        best = _merge(problem, best, new)
        rates = torch.where(worse, rates * rule.shrink, rates * rule.grow)
        if bool(worse.any()):
            adam.forget(worse, {("beta", v): worse[s.row] for v, s in problem.splits.items()})
    return best, rates


def _raised(
    problem: RowProblem, betas: Mapping[int, Tensor], gradients: Mapping[int, Tensor], rule: tuple[Adam, Tensor]
) -> dict[int, Tensor]:
    adam, rates = rule
    return {
        v: (beta + adam.step(("beta", v), gradients[v], rates[problem.splits[v].row])).clamp(min=0)
        for v, beta in betas.items()
    }


def ascend(
    problem: RowProblem,
    backward: Backward,
    multipliers: Multipliers,
    gradients: Mapping[int, Sequence[Tensor]],
    rule: tuple[Adam, float | Tensor],
    in_spans: bool = True,
) -> Multipliers:
    """One step of all slopes; the rate is one number or one per row, by default in units of the range of each slope."""
    adam, rate = rule
    result: Multipliers = {}
    for position, values in multipliers.items():
        op, frame = _op(backward, position), _frame(problem, backward, position)
        steps = [
            adam.step((position, k), g.expand_as(v), rate)
            for k, (v, g) in enumerate(zip(values, gradients[position], strict=True))
        ]
        spans = op.framed_spans(frame) if in_spans else None
        if spans is not None:
            steps = [s * span for s, span in zip(steps, spans, strict=True)]
        result[position] = op.framed_project(frame, [v + s for v, s in zip(values, steps, strict=True)])
    return result


def _merge(problem: RowProblem, best: Optimized, new: Optimized) -> Optimized:
    """Per row the better of two iterates (their multipliers too)."""
    better = new.bound > best.bound
    if bool(better.all()):
        return new
    if not bool(better.any()):
        return best

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *(1,) * (a.dim() - 1)), b, a)

    multipliers = {
        v: tuple(pick(a, b) for a, b in zip(best.multipliers[v], new.multipliers[v], strict=True))
        for v in best.multipliers
    }
    betas = {v: torch.where(better[problem.splits[v].row], new.betas[v], best.betas[v]) for v in best.betas}
    inputs = InputRows(
        pick(best.inputs.coefficients, new.inputs.coefficients), pick(best.inputs.constant, new.inputs.constant)
    )
    trace = Trace({v: pick(r, new.trace.rows[v]) for v, r in best.trace.rows.items() if v in new.trace.rows})
    return Optimized(pick(best.bound, new.bound), inputs, multipliers, betas, trace)
