"""softmax and its logarithm: planes, intervals, the exact corner, gradients, and tightness against the usual parts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.strategies import DTYPES, KINDS, LOGIT_RADII, LOGIT_SCALES, SEEDS
from tests.unit.ops_bilinear.enclosure import (
    Case,
    boxes,
    gradient_error,
    interval_violation,
    multipliers,
    points,
    rows_of,
    worst_violation,
)
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import Sum
from verinet.ops.normalisation.exclusive import log_sum_of_others, sum_of_others
from verinet.ops.normalisation.softmax import Planes, Softmax
from verinet.ops.normalisation.vertex import least
from verinet.ops.scalar import Elementwise
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward


def _softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    """Accurate for entries near 0, too: minus log1p of the sum over the others."""
    count = x.shape[-1]
    others = [np.exp(np.delete(x, k, -1) - x[..., k : k + 1]).sum(-1) for k in range(count)]
    return -np.log1p(np.stack(others, -1))


CASES = [
    Case(Softmax(1), ((4,),), (4,), _softmax),
    Case(Softmax(1), ((2,),), (2,), _softmax),
    Case(Softmax(2), ((3, 7),), (3, 7), _softmax),
    Case(Softmax(1, log=True), ((5,),), (5,), _log_softmax),
]
NAMES = ["softmax4", "softmax2", "softmax3x7", "log"]


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
@given(dtype=DTYPES, radius=LOGIT_RADII, scale=LOGIT_SCALES, kind=KINDS, seed=SEEDS)
def test_rows_and_intervals_enclose(
    position: int, dtype: torch.dtype, radius: float, scale: float, kind: str, seed: int
) -> None:
    case = CASES[position]
    lowers, uppers = boxes(case.shapes, 12, radius, seed, dtype, scale)
    assert interval_violation(case, lowers, uppers, seed + 3) <= 0
    assert worst_violation(case, lowers, uppers, rows_of(case.out, 12, seed, dtype), kind, seed) <= 0


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
def test_gradients_are_derivatives(position: int) -> None:
    for seed, radius in ((1, 0.5), (2, 2.0)):
        lowers, uppers = boxes(CASES[position].shapes, 40, radius, seed, torch.float64)
        assert gradient_error(CASES[position], lowers, uppers, seed, (8.0,) * 5 + (1.0,)) < 1e-4


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
@pytest.mark.parametrize("kind", ["none", "projected"])
def test_pull_and_push_are_adjoint(position: int, kind: str) -> None:
    case = CASES[position]
    op = case.op
    lowers, uppers = boxes(case.shapes, 30, 1.0, 5, torch.float64)
    lines = op.lines(lowers, uppers, multipliers(op, lowers, uppers, kind, 4))
    rows, x = rows_of(case.out, 30, 2, torch.float64), points(lowers, uppers, 8)[0][-1]
    pulled = op.pull(rows, lines)
    assert pulled.rows[0].shape == x.shape
    through = pulled.offset + (pulled.rows[0] * x).reshape(30, -1).sum(-1)
    direct = (rows * op.push(rows, lines, x)).reshape(30, -1).sum(-1)
    assert torch.allclose(direct, through, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("field", ["low_offset", "high_offset", "below", "above"])
@pytest.mark.parametrize("log", [False, True])
def test_a_bound_made_wrong_on_purpose_is_found(field: str, log: bool) -> None:
    """Planes that are off by one hundredth, in the line or in the bound of w, are noticed."""
    case = CASES[-1] if log else CASES[0]
    lowers, uppers = boxes(case.shapes, 200, 0.3, 1, torch.float64)
    rows = rows_of(case.out, 200, 1, torch.float64)

    @dataclasses.dataclass(frozen=True)
    class Wrong(Softmax):
        def lines(
            self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
        ) -> tuple[Tensor, ...]:
            planes = Planes(*super().lines(lowers, uppers, multipliers))
            sign = 1 if field in ("low_offset", "below") else -1
            return planes._replace(**{field: getattr(planes, field) + 0.01 * sign})

    wrong = Case(Wrong(1, log), case.shapes, case.out, case.reference)
    assert worst_violation(case, lowers, uppers, rows, "none", 3) <= 0
    assert worst_violation(wrong, lowers, uppers, rows, "none", 3) > 1e-4


def test_folded_rows_give_what_single_rows_give() -> None:
    op = Softmax(2)
    lowers, uppers = boxes(((3, 5),), 3, 0.6, 9, torch.float64)
    lines = op.lines(lowers, uppers)
    rows = rows_of((3, 5), 12, 4, torch.float64).reshape(3, 4, 3, 5)
    folded = op.pull(rows, tuple(t.unsqueeze(1) for t in lines))
    for k in range(4):
        single = op.pull(rows[:, k], lines)
        assert torch.allclose(folded.offset[:, k], single.offset, rtol=1e-12, atol=1e-12)
        assert torch.allclose(folded.rows[0][:, k], single.rows[0], rtol=1e-12, atol=1e-12)


@given(seed=SEEDS, radius=st.sampled_from([0.01, 1.0, 5.0]), count=st.integers(2, 6))
@settings(max_examples=25)
def test_the_corner_is_the_least_of_all_corners(seed: int, radius: float, count: int) -> None:
    lowers, uppers = boxes(((count,),), 6, radius, seed, torch.float64)
    rows = rows_of((count,), 6, seed, torch.float64)
    eps = torch.full((6, 1), 1e-14, dtype=torch.float64)
    value, share = least(rows, lowers[0].exp() / 64, uppers[0].exp() / 64, eps)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=count)), dtype=torch.float64)
    logits = lowers[0][:, None] + corners * (uppers[0] - lowers[0])[:, None]
    smallest = (logits.softmax(-1) * rows[:, None]).sum(-1).amin(1)
    assert bool((value[:, 0] <= smallest).all())
    assert torch.allclose(value[:, 0], smallest, atol=1e-10)
    assert torch.allclose((share * rows).sum(-1), smallest, atol=1e-10)


def test_sums_of_others_do_not_cancel() -> None:
    values = torch.tensor([[1e20, 1.0, 2.0], [3.0, 1e-20, 0.0]], dtype=torch.float64)
    assert sum_of_others(values).tolist() == [[3.0, 1e20 + 2.0, 1e20 + 1.0], [1e-20, 3.0, 3.0]]
    logs = log_sum_of_others(torch.tensor([[-1000.0, -2000.0, -1000.0]], dtype=torch.float64))
    assert logs.tolist()[0] == pytest.approx([-1000.0, -1000.0 + float(np.log(2.0)), -1000.0])


def test_interval_is_exact_up_to_rounding() -> None:
    op = Softmax(1)
    lowers, uppers = boxes(((5,),), 20, 1.0, 3, torch.float64)
    low, high = op.interval(lowers, uppers)
    for k in range(5):
        mask = torch.arange(5) == k
        least_value = torch.where(mask, lowers[0], uppers[0]).softmax(-1)[:, k]
        most_value = torch.where(mask, uppers[0], lowers[0]).softmax(-1)[:, k]
        assert torch.allclose(low[:, k], least_value, rtol=1e-10)
        assert torch.allclose(high[:, k], most_value, rtol=1e-10)


def _graph(count: int, spelled: bool) -> Graph:
    """softmax of the input, as one operator or as exp, sum, reciprocal and product."""
    nodes = [Node(InputOp(count), (), (count,), "x"), Node(Dense(torch.eye(count).double()), (0,), (count,), "logits")]
    exponential, reciprocal = find("Exp", {}), find("Reciprocal", {})
    assert exponential is not None
    assert reciprocal is not None
    if spelled:
        nodes += [
            Node(Elementwise(exponential, 1), (1,), (count,), "exp"),
            Node(Sum((0,)), (2,), (1,), "sum"),
            Node(Elementwise(reciprocal, 1), (3,), (1,), "inverse"),
            Node(Product((count,), (1,)), (2, 4), (count,), "quotient"),
        ]
    else:
        nodes += [Node(Softmax(1), (1,), (count,), "softmax")]
    return Graph(tuple(nodes))


def _bounds(graph: Graph, lower: Tensor, upper: Tensor, rows: Tensor, steps: int) -> Tensor:
    backward = build_backward(graph, lower, upper)
    layers = Sweeper(backward).sweep(lower[None], upper[None], SweepOptions())
    owners = RowMap.regular(1, rows.shape[0], rows.device)
    problem = RowProblem(graph.output, rows, owners, lower[None], upper[None], layers.known)
    return optimize(problem, backward, step=Step(iterations=steps)).bound


@pytest.mark.parametrize("steps", [0, 20])
@pytest.mark.parametrize("radius", [0.05, 0.5, 2.0])
def test_bounds_against_those_of_the_parts(radius: float, steps: int) -> None:
    """exp, sum, 1/x and product by lines, with refined inner bounds and the same optimisation, against the operator.

    Optimised rows are never looser (planes are chosen before one knows what they are for, so rows without optimisation
    can be, by a little, the more so as those of the parts start from the better of two sets of lines), and the slack is
    a fraction of that of the parts.
    """
    slack, looser = [], []
    for count in (2, 4, 9):
        lowers, uppers = boxes(((count,),), 4, radius, count, torch.float64)
        rows = rows_of((count,), 12, count, torch.float64)
        for low, high in zip(lowers[0], uppers[0], strict=True):
            ours = _bounds(_graph(count, False), low, high, rows, steps)
            parts = _bounds(_graph(count, True), low, high, rows, steps)
            truth = (points([low[None]], [high[None]], 3, 300)[0][:, 0].softmax(-1) @ rows.T).amin(0)
            assert bool((ours <= truth + 1e-9).all())
            looser.append((ours < parts - 1e-3 * (truth - parts) - 1e-9).double().mean().item())
            slack.append(((truth - ours).mean() / (truth - parts).mean()).item())
    assert float(np.mean(looser)) <= (0.0 if steps else 0.2)
    assert float(np.mean(slack)) < 0.4


def test_optimisation_raises_bounds_behind_a_mixing_layer() -> None:
    """Multipliers matter once several softmax rows meet: rows of W softmax(A x)."""
    draw = torch.Generator().manual_seed(4)
    matrix = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    nodes = [
        Node(InputOp(3), (), (3,), "x"),
        Node(Dense(matrix), (0,), (6,), "logits"),
        Node(Softmax(1), (1,), (6,), "softmax"),
    ]
    graph, radius = Graph(tuple(nodes)), torch.full((3,), 0.8, dtype=torch.float64)
    rows = rows_of((6,), 24, 1, torch.float64)
    plain, better = (_bounds(graph, -radius, radius, rows, steps) for steps in (0, 40))
    assert bool((better >= plain).all())
    assert float((better - plain).mean()) > 0.01
