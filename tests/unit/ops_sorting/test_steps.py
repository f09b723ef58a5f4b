"""Step, hat and position: lines and intervals enclose them for any interval and slope."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.scalar_check import Case, check_lines
from tests.kits.strategies import DTYPES
from verinet.numerics.rounding import tiny
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.sorting.position import position
from verinet.ops.sorting.remainder import Remainder
from verinet.ops.sorting.steps import HAT, STEP, WHOLE

CENTRES = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-20, 2.0]), st.floats(-1e4, 1e4))
RADII = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1e-300, 1e-16, 1e-7, 1.0, 0.5]))
SLOPES = st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 1.0, -1.0, 1e6, float("inf"), float("nan")]))
ROWS = st.lists(st.tuples(CENTRES, RADII, SLOPES, SLOPES), min_size=4, max_size=4)
EXACT = {
    "Step": lambda x: 1 if x > 0 else 0,
    "Hat": lambda x: max(0, 1 - abs(x)),
    "Whole": lambda x: 1 if x == int(x) else 0,
}
FUNCTIONS = {"Step": STEP, "Hat": HAT, "Whole": WHOLE}


def _case(name: str, rows: list[tuple[float, ...]], dtype: torch.dtype) -> Case:
    data = torch.tensor(rows, dtype=torch.float64)
    low, high = (data[:, :1] - data[:, 1:2]).to(dtype), (data[:, :1] + data[:, 1:2]).to(dtype)
    return Case((EXACT[name],), Elementwise(FUNCTIONS[name], 1), low, torch.maximum(low, high))


@pytest.mark.parametrize("name", ["Step", "Hat", "Whole"])
@settings(max_examples=2 * settings().max_examples)
@given(rows=ROWS, dtype=DTYPES, default=st.booleans())
def test_lines_enclose_steps_and_hats(
    name: str, rows: list[tuple[float, ...]], dtype: torch.dtype, default: bool
) -> None:
    case = _case(name, rows, dtype)
    data = torch.tensor(rows, dtype=dtype)
    slopes = None if default else (data[:, 2:3], data[:, 3:4])
    check_lines(case, case.op.lines([case.lower], [case.upper], slopes))


@pytest.mark.parametrize("name", ["Step", "Hat", "Whole"])
@given(rows=ROWS, dtype=DTYPES)
def test_intervals_enclose_steps_and_hats(name: str, rows: list[tuple[float, ...]], dtype: torch.dtype) -> None:
    case = _case(name, rows, dtype)
    low, high = case.op.interval([case.lower], [case.upper])
    slack = Fraction(tiny(dtype))
    for point in case.points():
        for i, x in enumerate(point[:, 0].tolist()):
            value = Fraction(EXACT[name](Fraction(x)))
            assert Fraction(float(low[i])) - slack <= value <= Fraction(float(high[i])) + slack


def test_a_step_is_decided_on_either_side_and_at_its_jump() -> None:
    op = Elementwise(STEP, 1)
    low = torch.tensor([[-2.0, 0.0, 1e-9, -1.0, 0.0]], dtype=torch.float64)
    high = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert op.undecided([low], [high])[0].tolist() == [[False, False, False, True, True]]
    assert [t.tolist() for t in op.interval([low], [high])] == [[[0, 0, 1, 0, 0]], [[0, 0, 1, 1, 1]]]


def test_an_integer_by_itself_is_decided() -> None:
    op = Elementwise(WHOLE, 1)
    low = torch.tensor([[3.0, 2.5, 2.5, 3.0, 2.0]], dtype=torch.float64)
    high = torch.tensor([[3.0, 2.5, 2.75, 3.5, 4.0]], dtype=torch.float64)
    assert [t.tolist() for t in op.interval([low], [high])] == [[[1, 0, 0, 0, 0]], [[1, 0, 0, 1, 1]]]


ENDS = st.tuples(st.floats(0, 12), st.floats(0, 12)).map(sorted)


@given(ends=ENDS, slopes=st.tuples(SLOPES, SLOPES), dtype=DTYPES, top=st.integers(0, 9), default=st.booleans())
def test_positions_are_enclosed_at_all_integers(
    ends: list[float], slopes: tuple[float, float], dtype: torch.dtype, top: int, default: bool
) -> None:
    op = position(top, 1)
    low, high = (torch.tensor([[end]], dtype=dtype) for end in ends)
    whole = [k for k in range(14) if float(low) <= k <= float(high)]
    least, most = op.interval([low], [high])
    if not whole:
        return
    given_slopes = None if default else tuple(torch.tensor([[s]], dtype=dtype) for s in slopes)
    lines = [Fraction(float(t)) for t in op.lines([low], [high], given_slopes)[:4]]
    slack = Fraction(tiny(dtype))
    for k in whole:
        value = min(k, top)
        assert float(least) <= value <= float(most)
        assert lines[0] * k + lines[1] - slack <= value <= lines[2] * k + lines[3] + slack


def test_a_position_is_decided_between_half_integers() -> None:
    op = position(9, 1)
    low, high = torch.tensor([[2.5]], dtype=torch.float64), torch.tensor([[3.5]], dtype=torch.float64)
    assert [float(t) for t in op.interval([low], [high])] == [3.0, 3.0]
    assert not bool(op.undecided([low], [high])[0])
    wide = torch.tensor([[7.5]], dtype=torch.float64)
    assert float(op.branch_points(low, wide)) == 5.5
    lines = op.lines([low], [high])
    assert [float(t) for t in lines[:4]] == [0.0, 3.0, 0.0, 3.0]


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(DomainError, match="Position"):
        position(9, 1).interval([torch.tensor([[-1.0]])], [torch.tensor([[2.0]])])


def _remainder() -> Remainder:
    return Remainder(
        torch.tensor([[0, 2], [1, 1]]),
        torch.tensor([[1e-8, -2e-8], [3e-8, 0.0]], dtype=torch.float64),
        torch.full((2, 2), 1e-12, dtype=torch.float64),
    )


def test_a_remainder_is_bounded_for_every_point_and_coefficient_in_range() -> None:
    op, draw = _remainder(), torch.Generator().manual_seed(2)
    lows = [torch.randn(3, n, generator=draw, dtype=torch.float64) for n in (2, 3, 2)]
    highs = [low + torch.rand(low.shape, generator=draw, dtype=torch.float64) for low in lows]
    rows = torch.randn(3, 2, generator=draw, dtype=torch.float64)
    lines = op.lines(lows, highs)
    pulled = op.pull(rows, lines)
    assert [p.shape for p in pulled.rows] == [low.shape for low in lows]
    assert not any(bool(p.any()) for p in pulled.rows) and not any(bool(m.any()) for m in op.undecided(lows, highs))
    assert torch.allclose((rows * op.push(rows, lines, *lows)).sum(-1), pulled.offset)
    least, most = op.interval(lows, highs)
    for sign in (-1.0, 1.0):
        shifted = Remainder(op.index, op.coefficients + sign * op.radii, op.radii)
        for share in torch.rand(50, generator=draw, dtype=torch.float64):
            value = shifted.forward(*(lo + (hi - lo) * share for lo, hi in zip(lows, highs, strict=True)))
            assert bool((least <= value).all()) and bool((value <= most).all())
            assert bool((pulled.offset <= (rows * value).sum(-1)).all())


def test_a_remainder_takes_the_sign_of_its_switch() -> None:
    op = _remainder()
    sources = [torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([[4.0, 5.0]]).double()]
    value: Tensor = op.forward(torch.tensor([[1.0, -1.0]]).double(), *sources)
    assert value.tolist() == [[pytest.approx(1e-8 + 15e-8), pytest.approx(6e-8)]]
