"""log(sum of exp) as one operator: planes, interval, gradients, and how tight they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import verinet
from tests.kits.operator_fuzz import log_sum_exp
from tests.kits.strategies import DTYPES, KINDS, LOGIT_RADII, SEEDS
from tests.unit.frontends.onnx_models import Spec, node
from tests.unit.ops_bilinear.enclosure import (
    Case,
    boxes,
    gradient_error,
    interval_violation,
    rows_of,
    worst_violation,
)
from verinet.frontends.onnx import load_onnx
from verinet.ops.normalisation.log_sum_exp import LogSumExp
from verinet.ops.normalisation.log_sum_exp_tree import with_softplus

SHAPES = [(2,), (5,), (3, 7)]


def case_of(shape: tuple[int, ...]) -> Case:
    return Case(LogSumExp(len(shape)), (shape,), shape[:-1], log_sum_exp)


@pytest.mark.parametrize("shape", SHAPES)
@given(
    dtype=DTYPES,
    radius=LOGIT_RADII,
    scale=st.sampled_from([0.1, 1.0, 30.0, 1e3, 1e5]),
    kind=KINDS,
    seed=SEEDS,
)
def test_values_are_enclosed(
    shape: tuple[int, ...], dtype: torch.dtype, radius: float, scale: float, kind: str, seed: int
) -> None:
    case = case_of(shape)
    lowers, uppers = boxes(case.shapes, 12, radius, seed, dtype, scale)
    assert interval_violation(case, lowers, uppers, seed + 3) <= 0
    assert worst_violation(case, lowers, uppers, rows_of(case.out, 12, seed, dtype), kind, seed) <= 0


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape: tuple[int, ...]) -> None:
    case = case_of(shape)
    for seed in range(5):
        lowers, uppers = boxes(case.shapes, 6, 0.7, seed, torch.float64)
        assert gradient_error(case, lowers, uppers, seed, (8.0, 8.0)) < 1e-5


@pytest.mark.parametrize("shift", [-1e4, -700.0, 0.0, 800.0])
def test_intervals_are_exact_and_planes_touch(shift: float) -> None:
    """Equal logits in [s, s + 1]: y runs from s + log n to s + 1 + log n; planes over a point meet the value there."""
    op, ends = LogSumExp(1), (torch.full((1, 4), shift, dtype=torch.float64),)
    low, high = op.interval(ends, (ends[0] + 1,))
    assert float(low) == pytest.approx(shift + math.log(4), abs=1e-8)
    assert float(high) == pytest.approx(shift + 1 + math.log(4), abs=1e-8)
    for sign in (1.0, -1.0):
        rows = torch.tensor([sign], dtype=torch.float64)
        pulled = op.pull(rows, op.lines(ends, ends))
        value = float((pulled.rows[0] * ends[0]).sum() + pulled.offset)
        assert value == pytest.approx(sign * (shift + math.log(4)), abs=1e-8)
        assert value <= sign * (shift + math.log(4)) + 1e-12 * abs(shift)


def test_planes_are_tighter_than_the_interval() -> None:
    """y - x_0 moves by less than y and x_0 do alone: the plane sees that both rise with x_0."""
    op = LogSumExp(1)
    low = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    high = -low
    pulled = op.pull(torch.tensor([1.0], dtype=torch.float64), op.lines([low], [high]))
    coefficients = pulled.rows[0].clone()
    coefficients[0, 0] -= 1.0
    bound = float((coefficients.clamp(min=0) * low + coefficients.clamp(max=0) * high).sum() + pulled.offset)
    apart = float(op.interval([low], [high])[0] - high[0, 0])
    assert apart + 0.5 < bound <= math.log1p(math.exp(-2.0))
    assert np.isfinite(bound)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_the_tree_for_lipschitz_bounds_computes_the_same(size: int) -> None:
    """Over random rows; its constant in the 2-norm is proved everywhere and is at most what one logit alone moves."""
    nodes = [node("Mul", "x s", "h"), node("ReduceLogSumExp", "h", axes=[1], keepdims=0)]
    spec = Spec("lse", nodes, {"x": (3, size)}, {"s": np.array([40.0], np.float32)})
    model = load_onnx(spec.model())
    whole = model.graph.to(torch.float64)
    tree = with_softplus(whole)
    assert tree.output_size == 3 and not any(isinstance(n.op, LogSumExp) for n in tree.nodes)
    points = torch.from_numpy(np.random.default_rng(size).normal(size=(50, 3 * size)) * 3)
    assert torch.allclose(tree.forward(points), whole.forward(points), rtol=1e-12, atol=1e-12)
    bound = verinet.lipschitz(model, timeout=2)
    assert 40.0 * (1 - 1e-3) <= bound.lower <= bound.upper < 40.0 * 1.01 * math.log2(2 * size)
