"""softmax as log-odds and shares: planes, intervals, the constant bound, gradients, and the rewrite of graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.strategies import DTYPES, KINDS, LOGIT_RADII, LOGIT_SCALES, SEEDS
from tests.soundness.test_attention import INPUTS, attention, inside, region
from tests.unit.ops_bilinear.enclosure import (
    Case,
    boxes,
    charged,
    gradient_error,
    interval_violation,
    multipliers,
    points,
    rows_of,
    worst_violation,
)
from verinet.ir.graph import Graph
from verinet.numerics.rounding import tiny
from verinet.ops.base import Lines, NonlinearOp
from verinet.ops.normalisation.network import with_log_odds
from verinet.ops.normalisation.odds import LogOdds, OddsPlanes
from verinet.ops.normalisation.shares import SharePlanes, Shares
from verinet.ops.normalisation.simplex import cheapest
from verinet.ops.normalisation.softmax import Softmax
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

SHAPES = [(4,), (2,), (3, 7)]


def log_odds(x: np.ndarray) -> np.ndarray:
    """x_k - log(sum_{j != k} exp x_j), counted from the largest of the others."""
    found = []
    for k in range(x.shape[-1]):
        others = np.delete(x, k, -1)
        top = others.max(-1, keepdims=True)
        found.append(x[..., k] - top[..., 0] - np.log(np.exp(others - top).sum(-1)))
    return np.stack(found, -1)


def odds_case(shape: tuple[int, ...]) -> Case:
    return Case(LogOdds(len(shape)), (shape,), shape, log_odds)


@pytest.mark.parametrize("shape", SHAPES)
@given(dtype=DTYPES, radius=LOGIT_RADII, scale=LOGIT_SCALES, kind=KINDS, seed=SEEDS)
def test_log_odds_are_enclosed(
    shape: tuple[int, ...], dtype: torch.dtype, radius: float, scale: float, kind: str, seed: int
) -> None:
    case = odds_case(shape)
    lowers, uppers = boxes(case.shapes, 12, radius, seed, dtype, scale)
    assert interval_violation(case, lowers, uppers, seed + 3) <= 0
    assert worst_violation(case, lowers, uppers, rows_of(case.out, 12, seed, dtype), kind, seed) <= 0


@dataclasses.dataclass(frozen=True)
class Promised:
    """Boxes of log-odds, and log-odds of distributions in them (points, boxes, *shape), in long double."""

    low: Tensor
    high: Tensor
    w: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, ...], radius: float, dtype: torch.dtype, seed: int, cut: bool) -> Promised:
        """The interval of the log-odds of a box of logits; `cut` tightens it to what the points need."""
        lowers, uppers = boxes((shape,), 10, radius, seed, dtype)
        low, high = LogOdds(len(shape)).interval(lowers, uppers)
        logits = points(lowers, uppers, seed + 1, 90)[0].double().numpy().astype(np.longdouble)
        w = log_odds(logits)
        if cut:  # the float next to the extremes: nothing is left between box and points
            ends = [torch.from_numpy(e.astype(np.float64)).to(dtype) for e in (w.min(0), w.max(0))]
            low = torch.maximum(low, torch.nextafter(ends[0], torch.full_like(low, -torch.inf)))
            high = torch.minimum(high, torch.nextafter(ends[1], torch.full_like(high, torch.inf)))
        return cls(low, high, w)

    @property
    def shares(self) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-self.w)))

    def worst(self, op: NonlinearOp, rows: Tensor, lines: Lines) -> float:
        """How far a row's bound exceeds its value at one of the points, at most."""
        shape = self.w.shape[2:]
        case = Case(op, (shape,), shape, lambda x: x)
        parts, constant = charged(case, rows, lines, [self.low], [self.high])
        part, weight = (t.double().numpy().astype(np.longdouble) for t in (parts[0], rows))
        bound = (self.w * part).reshape(*self.w.shape[:2], -1).sum(-1) + constant.double().numpy()
        return float((bound - (self.shares * weight).reshape(*self.w.shape[:2], -1).sum(-1)).max())


@pytest.mark.parametrize("shape", SHAPES)
@given(dtype=DTYPES, radius=LOGIT_RADII, kind=KINDS, seed=SEEDS, cut=st.booleans())
def test_shares_are_enclosed_where_they_sum_to_one(
    shape: tuple[int, ...], dtype: torch.dtype, radius: float, kind: str, seed: int, cut: bool
) -> None:
    op, given_boxes = Shares(len(shape)), Promised.of(shape, radius, dtype, seed, cut)
    ends = [given_boxes.low], [given_boxes.high]
    lines = op.lines(*ends, multipliers(op, *ends, kind, seed))
    assert given_boxes.worst(op, rows_of(shape, 10, seed, dtype), lines) <= 0
    low, high = (t.double().numpy() for t in op.interval(*ends))
    assert bool((low - tiny(dtype) <= given_boxes.shares).all())
    assert bool((given_boxes.shares <= high + tiny(dtype)).all())


@pytest.mark.parametrize("field", ["low_offset", "high_offset", "least"])
def test_shares_made_wrong_on_purpose_are_found(field: str) -> None:
    found = -np.inf
    for seed in range(8):
        promised = Promised.of((4,), 0.4, torch.float64, seed, True)
        op, rows = Shares(1), rows_of((4,), 10, seed, torch.float64)
        planes = SharePlanes(*op.lines([promised.low], [promised.high]))
        if field == "least":  # only the constant bound
            planes = planes._replace(mix=torch.ones_like(planes.mix))
        assert promised.worst(op, rows, planes) <= 0
        shift = 0.02 if field == "low_offset" else -0.02
        wrong = planes._replace(**{field: getattr(planes, field) + shift})
        if field == "least":
            wrong = planes._replace(least=planes.least + 0.02, most=planes.most - 0.02)
        found = max(found, promised.worst(op, rows, wrong))
    assert found > 1e-4


@pytest.mark.parametrize("field", ["below", "above"])
def test_log_odds_made_wrong_on_purpose_are_found(field: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Wrong(LogOdds):
        def lines(
            self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
        ) -> tuple[Tensor, ...]:
            planes = OddsPlanes(*super().lines(lowers, uppers, multipliers))
            return planes._replace(**{field: getattr(planes, field) + (0.05 if field == "below" else -0.05)})

    lowers, uppers = boxes(((4,),), 200, 0.3, 1, torch.float64)
    rows = rows_of((4,), 200, 1, torch.float64)
    assert worst_violation(odds_case((4,)), lowers, uppers, rows, "none", 3) <= 0
    assert worst_violation(Case(Wrong(1), ((4,),), (4,), log_odds), lowers, uppers, rows, "none", 3) > 1e-4


@pytest.mark.parametrize("op", [LogOdds(2), Shares(2)], ids=["odds", "shares"])
def test_gradients_are_derivatives_and_pull_and_push_are_adjoint(op: NonlinearOp) -> None:
    case = Case(op, ((3, 5),), (3, 5), lambda x: x)
    spans = (8.0, 8.0) if isinstance(op, LogOdds) else (8.0, 8.0, 8.0, 1.0)
    # Wider boxes make the bounds so large that finite differences of them say nothing.
    for seed, radius in ((1, 0.2), (2, 0.5)):
        lowers, uppers = boxes(case.shapes, 40, radius, seed, torch.float64)
        if isinstance(op, Shares):  # boxes that hold log-odds of distributions
            low, high = LogOdds(2).interval(lowers, uppers)
            lowers, uppers = [low], [high]
        assert gradient_error(case, lowers, uppers, seed, spans) < 1e-4
        for kind in ("none", "projected"):
            lines = op.lines(lowers, uppers, multipliers(op, lowers, uppers, kind, 4))
            rows, x = rows_of(case.out, 40, 2, torch.float64), points(lowers, uppers, 8)[0][-1]
            pulled = op.pull(rows, lines)
            through = pulled.offset + (pulled.rows[0] * x).reshape(40, -1).sum(-1)
            direct = (rows * op.push(rows, lines, x)).reshape(40, -1).sum(-1)
            assert torch.allclose(direct, through, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, count=st.integers(2, 6))
def test_the_cheapest_distribution_is_the_least(seed: int, count: int) -> None:
    """Against a linear program over box and simplex."""
    from scipy.optimize import linprog

    draw = torch.Generator().manual_seed(seed)
    inner = torch.rand(count, generator=draw, dtype=torch.float64).softmax(-1)
    low = (inner - 0.3 * torch.rand(count, generator=draw, dtype=torch.float64)).clamp(min=0)
    high = (inner + 0.3 * torch.rand(count, generator=draw, dtype=torch.float64)).clamp(max=1)
    rows = torch.randn(count, generator=draw, dtype=torch.float64)
    value, point = cheapest(rows[None], low[None], high[None])
    truth = linprog(rows.numpy(), A_eq=np.ones((1, count)), b_eq=[1.0], bounds=np.stack([low, high], 1)).fun
    assert float(value) <= truth + 1e-12
    assert float(value) == pytest.approx(truth, abs=1e-9)
    assert float((point * rows).sum()) == pytest.approx(truth, abs=1e-9)


def _bounds(graph: Graph, lower: Tensor, upper: Tensor, rows: Tensor) -> Tensor:
    backward = build_backward(graph, lower[0], upper[0])
    layers = Sweeper(backward).sweep(lower, upper, SweepOptions())
    owners = RowMap.regular(1, rows.shape[0], rows.device)
    problem = RowProblem(graph.output, rows, owners, lower, upper, layers.known)
    return optimize(problem, backward, step=Step(iterations=10)).bound


def test_rewritten_graphs_compute_the_same_and_bound_tighter() -> None:
    """Attention on boxes of several sizes: bounds enclose samples, and lose less than the joint planes on the whole."""
    ours, joint = [], []
    for seed, radius in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.4)):
        graph = attention(seed)
        lowered = with_log_odds(graph)
        assert not any(isinstance(n.op, Softmax) for n in lowered.nodes)
        assert sum(isinstance(n.op, Shares) for n in lowered.nodes) == 1
        lower, upper = region(seed, radius, 1)
        x = inside(lower, upper, seed, 400).reshape(-1, INPUTS)
        assert torch.allclose(graph.forward(x), lowered.forward(x), rtol=1e-12, atol=1e-12)
        rows = torch.cat([torch.eye(3), -torch.eye(3)]).double()
        truth = (graph.forward(x) @ rows.T).amin(0)
        bounds = [_bounds(g, lower, upper, rows) for g in (lowered, graph)]
        assert bool((bounds[0] <= truth).all())
        ours.append(float((truth - bounds[0]).mean()))
        joint.append(float((truth - bounds[1]).mean()))
    assert sum(ours) < 0.95 * sum(joint)


def test_the_logarithm_of_softmax_is_rewritten_too() -> None:
    graph = attention(5, log=True)
    lowered = with_log_odds(graph)
    assert not any(isinstance(n.op, Softmax) for n in lowered.nodes)
    x = torch.randn(50, INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(graph.forward(x), lowered.forward(x), rtol=1e-12, atol=1e-12)
