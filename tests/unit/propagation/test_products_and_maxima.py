"""Lines of products and maxima enclose them exactly, whatever the multipliers; pull is adjoint to push."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.strategies import CENTRES, DTYPES, RADII, SEEDS
from verinet.numerics.rounding import tiny
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.product import Product
from verinet.ops.pooling.maximum import MaxLast

KINDS = st.sampled_from(["default", "random", "projected"])
MANY = max(1, settings().max_examples // 2)


def _interval(pairs: Sequence[tuple[float, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    data = torch.tensor(pairs, dtype=torch.float64)
    return (data[:, 0] - data[:, 1]).to(dtype), (data[:, 0] + data[:, 1]).to(dtype)


def _points(low: Tensor, high: Tensor, seed: int, count: int = 12) -> Tensor:
    """(count, *low.shape) inside the box: half of them corners."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *low.shape, generator=draw, dtype=torch.float64)
    share[: count // 2] = (share[: count // 2] < 0.5).double()
    inner = low + share.to(low.dtype) * (high - low)
    return torch.minimum(torch.maximum(inner, low), high)


def _multipliers(
    op: NonlinearOp, lowers: Sequence[Tensor], uppers: Sequence[Tensor], kind: str, seed: int
) -> tuple[Tensor, ...]:
    default = op.multipliers(lowers, uppers)
    if kind == "default":
        return default
    draw = torch.Generator().manual_seed(seed)
    scale = max(1.0, float(torch.stack([h.abs().max() for h in uppers]).max()))
    random = [torch.rand(m.shape, generator=draw, dtype=torch.float64) * 2 - 0.5 for m in default]
    if isinstance(op, MaxLast):
        random[1] = (random[1] * 2 - 1) * scale  # a threshold anywhere
    moved = [m.to(lowers[0].dtype) for m in random]
    return op.project(moved, lowers, uppers) if kind == "projected" else tuple(moved)


def _exact(values: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in values.double().reshape(-1).tolist()]


def _slack(dtype: torch.dtype) -> Fraction:
    """Underflow is charged once per pass, by `tiny`, and not in the lines."""
    return Fraction(tiny(dtype))


@settings(max_examples=MANY)
@given(
    left=st.lists(st.tuples(CENTRES, RADII), min_size=2, max_size=2),
    right=st.lists(st.tuples(CENTRES, RADII), min_size=2, max_size=2),
    kind=KINDS,
    dtype=DTYPES,
    seed=SEEDS,
)
def test_lines_and_intervals_enclose_the_product(
    left: list[tuple[float, float]], right: list[tuple[float, float]], kind: str, dtype: torch.dtype, seed: int
) -> None:
    op = Product((2,), (2,))
    (xl, xu), (yl, yu) = _interval(left, dtype), _interval(right, dtype)
    lowers, uppers = [xl[None], yl[None]], [xu[None], yu[None]]
    lines = op.lines(lowers, uppers, _multipliers(op, lowers, uppers, kind, seed))
    kx, ky, below, sx, sy, above = (_exact(t.expand(1, 2)) for t in lines[:6])
    low, high = (_exact(t) for t in op.interval(lowers, uppers))
    slack = _slack(dtype)
    for point_x, point_y in zip(_points(xl, xu, seed), _points(yl, yu, seed + 1), strict=True):
        for i, (x, y) in enumerate(zip(_exact(point_x), _exact(point_y), strict=True)):
            assert kx[i] * x + ky[i] * y + below[i] - slack <= x * y <= sx[i] * x + sy[i] * y + above[i] + slack
            assert low[i] - slack <= x * y <= high[i] + slack


@settings(max_examples=MANY)
@given(
    entries=st.lists(st.tuples(CENTRES, RADII), min_size=1, max_size=4),
    kind=KINDS,
    dtype=DTYPES,
    seed=SEEDS,
)
def test_lines_and_intervals_enclose_the_maximum(
    entries: list[tuple[float, float]], kind: str, dtype: torch.dtype, seed: int
) -> None:
    op = MaxLast(0)
    lower, upper = _interval(entries, dtype)
    lowers, uppers = [lower[None]], [upper[None]]
    lines = op.lines(lowers, uppers, _multipliers(op, lowers, uppers, kind, seed))
    weights, below, slopes, above = (_exact(t) for t in lines[:4])
    low, high = (_exact(t)[0] for t in op.interval(lowers, uppers))
    slack = _slack(dtype)
    for point in _points(lower, upper, seed):
        x = _exact(point)
        most = max(x)
        assert sum((w * v for w, v in zip(weights, x, strict=True)), below[0]) <= most + slack
        assert most <= sum((s * v for s, v in zip(slopes, x, strict=True)), above[0]) + slack
        assert low <= most <= high


def test_weights_that_are_nearly_a_choice_are_charged() -> None:
    """1 + 1e-20 rounds to 1, so the sum of the weights looks exact: the line must still stay below the maximum."""
    op = MaxLast(0)
    low, high = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[0.5, 1.5]], dtype=torch.float64)
    weights = torch.tensor([[1e-20, 1.0]], dtype=torch.float64)
    lines = op.lines([low], [high], (weights, torch.ones(1, dtype=torch.float64)))
    value = sum((w * x for w, x in zip(_exact(lines[0]), _exact(high), strict=True)), _exact(lines[1])[0])
    assert value <= Fraction(3, 2)


@pytest.mark.parametrize("entries", [[(0.0, 1.0), (9.0, 1.0)], [(2.0, 0.0), (1.0, 0.0)], [(3.0, 0.5)]])
def test_a_dominating_candidate_is_taken_as_it_is(entries: list[tuple[float, float]]) -> None:
    op = MaxLast(0)
    lower, upper = (t[None] for t in _interval(entries, torch.float64))
    assert not bool(op.undecided([lower], [upper])[0].any())
    lines = op.lines([lower], [upper])
    for point in _points(lower[0], upper[0], 1):
        most = float(point.max())
        below = float(op.push(torch.ones(1, dtype=torch.float64), lines, point[None]))
        assert below == pytest.approx(most)
        if len(entries) > 1:
            assert float(op.push(-torch.ones(1, dtype=torch.float64), lines, point[None])) == pytest.approx(most)


CASES: list[tuple[NonlinearOp, tuple[tuple[int, ...], ...], tuple[int, ...]]] = [
    (Product((2, 3), (2, 3)), ((2, 3), (2, 3)), (2, 3)),
    (Product((2, 3), (3,)), ((2, 3), (3,)), (2, 3)),
    (Product((2, 1), (1, 3)), ((2, 1), (1, 3)), (2, 3)),
    (Product((), (4,)), ((), (4,)), (4,)),
    (MaxLast(1), ((3, 4),), (3,)),
    (MaxLast(2), ((2, 3, 2),), (2, 3)),
    (MaxLast(0), ((5,),), ()),
]


@pytest.mark.parametrize(("op", "shapes", "out"), CASES, ids=[f"{c[0].kind}{c[1]}" for c in CASES])
@pytest.mark.parametrize("kind", ("default", "projected"))
def test_pull_and_push_are_adjoint(
    op: NonlinearOp, shapes: tuple[tuple[int, ...], ...], out: tuple[int, ...], kind: str
) -> None:
    draw = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    count = 6
    centres, radii = [random(count, *s) for s in shapes], [random(count, *s).abs() for s in shapes]
    lowers = [c - r for c, r in zip(centres, radii, strict=True)]
    uppers = [c + r for c, r in zip(centres, radii, strict=True)]
    lines = op.lines(lowers, uppers, _multipliers(op, lowers, uppers, kind, 5))
    rows = random(count, *out)
    pulled = op.pull(rows, lines)
    inputs = [c + r * (torch.rand(c.shape, generator=draw) - 0.5) for c, r in zip(centres, radii, strict=True)]
    direct = (rows * op.push(rows, lines, *inputs)).reshape(count, -1).sum(-1)
    through = pulled.offset.clone()
    for part, x in zip(pulled.rows, inputs, strict=True):
        assert part.shape == x.shape
        through += (part * x).reshape(count, -1).sum(-1)
    assert torch.allclose(direct, through, rtol=1e-12, atol=1e-12)
    assert bool((pulled.magnitude >= pulled.offset.abs() - 1e-12).all())
    value = (rows * op.forward(*inputs)).reshape(count, -1).sum(-1)
    assert bool((through <= value + 1e-12).all())  # a lower bound of the functional
