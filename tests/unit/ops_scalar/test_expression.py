"""Functions by expression: ranges of derivatives, pieces, corners, gaps, errors, and how texts are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from tests.kits.expression_fuzz import exact, expression
from verinet.errors import UsageError
from verinet.ops.activations.user import from_expression
from verinet.ops.expression import subdivide
from verinet.ops.expression.composed import CHANNELS, ComposedFunction, compose
from verinet.ops.expression.derivatives import SMOOTH
from verinet.ops.expression.intervals import F32, F64, Arithmetic
from verinet.ops.expression.jets import Cells, last_jet
from verinet.ops.expression.ranges import PERIODIC, ranges
from verinet.ops.expression.subdivide import BAD, ROUGH, Problem, settle
from verinet.ops.expression.symbol import parsed, traced
from verinet.ops.expression.tape import Tape
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.scalar_map import PieceMap

REFERENCE: dict[str, Callable[[Any], Any]] = {
    "Exp": mp.exp,
    "Log": mp.log,
    "Sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "Tanh": mp.tanh,
    "Softplus": lambda x: mp.log1p(mp.exp(x)),
    "Erf": mp.erf,
    "Atan": mp.atan,
    "Asin": mp.asin,
    "Acos": mp.acos,
    "Sinh": mp.sinh,
    "Cosh": mp.cosh,
    "Asinh": mp.asinh,
    "Gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "Sqrt": mp.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Sin": mp.sin,
    "Cos": mp.cos,
    "Tan": mp.tan,
    "Pow 3": lambda x: x**3,
    "Pow 4": lambda x: x**4,
    "Pow 2.5": lambda x: x ** mp.mpf(2.5),
    "Pow -2": lambda x: x**-2,
}


def _limits(name: str) -> tuple[float, float]:
    if name in ("Log", "Sqrt", "Reciprocal", "Pow 2.5", "Pow -2"):
        return 0.05, 9.0
    return (-0.95, 0.95) if name in ("Asin", "Acos") else (-1.5, 1.5) if name == "Tan" else (-6.0, 6.0)


def test_every_smooth_function_has_a_reference() -> None:
    assert {*SMOOTH, *PERIODIC} == {name for name in REFERENCE if " " not in name}


@pytest.mark.parametrize("arithmetic", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", REFERENCE)
def test_ranges_of_derivatives_hold_and_are_tight(name: str, arithmetic: Arithmetic) -> None:
    """Orders 0 to 3 on random intervals against 40 digits; the ends and the turns span them."""
    kind, _, number = name.partition(" ")
    low, high = _limits(name)
    draw = np.random.default_rng(5)
    ends = np.sort(draw.uniform(low, high, (2, 24)) * np.array([1, 1])[:, None], 0)
    ends[1, :6] = np.minimum(ends[0, :6] + 10.0 ** -np.arange(3, 9), high)
    orders = ranges(kind, float(number or 0), (ends[0], ends[1]), arithmetic).orders
    unit = 200 * arithmetic.eps
    with mp.workdps(40):
        for k in range(ends.shape[1]):
            turns = np.clip(SMOOTH[kind].turns, ends[0, k], ends[1, k]) if kind in SMOOTH else []
            points = [mp.mpf(float(x)) for x in (*np.linspace(ends[0, k], ends[1, k], 33), *turns)]
            for order, (least, most) in enumerate(orders):
                values = [mp.diff(REFERENCE[name], x, order) if order else REFERENCE[name](x) for x in points]
                assert least[k] <= min(values) + mp.mpf("1e-12") and max(values) - mp.mpf("1e-12") <= most[k]
                slack = 0.08 * (max(values) - min(values)) + unit * (1 + max(abs(v) for v in values))
                assert most[k] - max(values) <= slack and min(values) - least[k] <= slack, (order, ends[:, k])


@pytest.mark.parametrize("seed", range(12))
def test_jets_enclose_values_and_slopes(seed: int) -> None:
    text = expression(seed, 3)
    function, reference = from_expression("f", text), exact(text)
    assert isinstance(function, ComposedFunction) and function.tape is not None
    draw = np.random.default_rng(seed)
    low = draw.normal(size=20) * 2
    high = low + 10.0 ** draw.uniform(-8, 0.5, 20)
    jet = last_jet(function.tape, Cells(low, high), F64)
    with mp.workdps(40):
        for k in range(low.size):
            points = [mp.mpf(float(x)) for x in np.linspace(low[k], high[k], 9)]
            values = [reference(x) for x in points]
            shape = np.zeros_like(low)
            least, most = (end + shape for end in jet.value)
            assert least[k] <= min(values) and max(values) <= most[k]
            if jet.first is None:
                continue
            flat, steep = (end + shape for end in jet.first)
            chords = [(b - a) / (y - x) for a, b, x, y in zip(values, values[1:], points, points[1:], strict=False)]
            assert all(flat[k] - 1e-12 <= c <= steep[k] + 1e-12 for c in chords), text


def chart(text: str, reach: float = 4.0, dtype: torch.dtype = torch.float64) -> PieceMap:
    function = from_expression("f", text)
    end = torch.full((1, 1), reach, dtype=dtype)
    found = function.on(-end, end).chart
    assert found is not None
    return found


def test_inflections_and_extrema_are_found() -> None:
    found = chart("x * sigmoid(x)")
    assert found.turns.start.tolist()[0] == pytest.approx([-2.3993572805, 2.3993572805], abs=1e-6)
    assert found.extrema.start.tolist()[0] == pytest.approx([-1.2784645428], abs=1e-6)
    assert (found.curved[1].size, found.curved[-1].size, found.corners.size) == (1, 2, 0)


def test_curvature_of_one_sign_is_seen() -> None:
    assert chart("sin(x) + x**2").bend == 1
    assert chart("-exp(x) - x**4").bend == -1
    assert chart("x**3").bend == 0


def test_kinks_are_exact_points_where_floats_allow() -> None:
    found = chart("relu(x) * (x + 1) + abs(x - 0.3)")
    assert found.corners.start.tolist()[0] == [0.0, 0.3] == found.corners.stop.tolist()[0]
    smooth = chart("relu(x)**2 + x * abs(x)")
    assert smooth.corners.size == 0, "f' does not jump there"


def test_kinks_that_no_float_hits_are_narrow() -> None:
    found = chart("relu(3 * x - 0.7) * (x + 2)")
    start, stop = float(found.corners.start), float(found.corners.stop)
    assert start <= 0.7 / 3 <= stop and 0 < stop - start <= 4e-16
    assert not found.coarse and 0 < found.gap < 1e-15


def test_jumps_have_the_values_of_both_sides() -> None:
    found = chart("where(x > 0.3, x, 1 + 0 * x)")
    assert found.coarse and found.corners.data[0].tolist() == [[pytest.approx(0.3)]]
    assert found.corners.data[1].tolist() == [[pytest.approx(1.0)]]
    op = Elementwise(from_expression("f", "where(x > 0.3, x, 1 + 0 * x)"), 1)
    low, high = torch.tensor([[0.0]]).double(), torch.tensor([[1.0]]).double()
    lines, steep = op.lines([low], [high]), op.slope_bounds(low, high)
    assert float(lines[0] * 0.3 + lines[1]) <= 0.3 and float(lines[2] * 0.3 + lines[3]) >= 1.0
    assert bool(steep[0].isinf()) and bool(steep[1].isinf())


def test_branches_that_meet_are_seen_to_be_continuous_enough() -> None:
    """A spelled-out ELU: what meets exactly at 0 has a finite corner, however it was written."""
    op = Elementwise(from_expression("elu", "relu(x) + 2 * (exp(min(x, 0)) - 1)"), 1)
    low, high = torch.tensor([[-1.0]]).double(), torch.tensor([[1.0]]).double()
    least, most = op.slope_bounds(low, high)
    assert 0.7 < float(least) < 0.74 and 2.0 <= float(most) < 2.0 + 1e-9


@pytest.mark.parametrize(
    ("text", "low", "high", "good"),
    [
        ("x * log(x)", -1.0, 1.0, False),
        ("x * log(x)", 0.0, 1.0, False),
        ("x * log(x)", 1e-6, 1.0, True),
        ("1 / (x - 1)", 0.5, 2.0, False),
        ("1 / (x - 1)", 1.5, 2.0, True),
        ("max(log(x), -5)", -1.0, 1.0, False),
        ("where(x > 0, log(x + 1), x)", -3.0, 3.0, True),
        ("sqrt(x) * x", 0.0, 2.0, True),
        ("exp(exp(x))", 0.0, 7.0, False),
        ("tan(x) + x", 1.0, 2.0, False),
    ],
)
def test_gaps_raise_and_nothing_else_does(text: str, low: float, high: float, good: bool) -> None:
    op = Elementwise(from_expression("f", text), 1)
    ends = [torch.tensor([[low]]).double()], [torch.tensor([[high]]).double()]
    if good:
        lines = op.lines(*ends)
        assert all(bool(torch.isfinite(t).all()) for t in lines[:4])
        return
    with pytest.raises(DomainError, match="f"):
        op.lines(*ends)
    with pytest.raises(DomainError):
        op.interval(*ends)


def test_bounds_that_are_too_large_or_no_numbers_raise() -> None:
    op = Elementwise(from_expression("f", "x * tanh(x)"), 1)
    for low, high in ((-1e13, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(DomainError):
            op.lines([torch.tensor([[low]]).double()], [torch.tensor([[high]]).double()])


@pytest.mark.parametrize(
    "text", ["sqrt(abs(x))", "sqrt(x**2)", "abs(x)**1.5", "abs(x)**0.25 * x", "acos(cos(x))", "-sqrt(abs(x)) + x**2"]
)
def test_cusps_between_two_smooth_cells_are_corners(text: str) -> None:
    """f' is unbounded, or of two values, at 0 exactly, where two cells meet that are smooth by themselves."""
    op, reference = Elementwise(from_expression("f", text), 1), exact(text)
    low, high = torch.tensor([[-2.0], [-0.5], [-1.0]]).double(), torch.tensor([[1.0], [0.5], [2.5]]).double()
    for slope in (0.0, 1e-9, 0.4, -0.3):
        lines = op.lines([low], [high], (torch.full_like(low, slope), torch.full_like(low, slope)))
        for k in range(3):
            for x in (mp.mpf(0), mp.mpf("1e-12"), mp.mpf("-1e-7"), mp.mpf("0.3"), mp.mpf("-0.45")):
                below, above = (mp.mpf(float(lines[i][k])) * x + mp.mpf(float(lines[i + 1][k])) for i in (0, 2))
                assert below <= reference(x) <= above, (slope, x)


def test_conditions_count_as_numbers() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    function = from_expression("f", "(x > -1) * x + where((x > 0) * 1 > 0.5, x, 2 * x)")
    assert torch.allclose(function.at(x), (x > -1) * x + torch.where(x > 0, x, 2 * x))
    with pytest.raises(UsageError, match="needs a condition"):
        from_expression("f", "where(x, x**2, 2 * x)")


def test_channels_have_their_own_pieces() -> None:
    rates = torch.tensor([[1.0], [2.0], [1.0]])  # (channels, 1) against (channels, places)
    function = from_expression("f", "sin(a * x)", a=rates)
    assert isinstance(function, ComposedFunction) and function.channels is not None
    assert function.channels.count == 2 and function.channels.base.reshape(-1).tolist() == [0, 1, 0]
    op = Elementwise(function, 2)
    low, high = torch.full((1, 3, 4), -0.5).double(), torch.full((1, 3, 4), 0.75).double()
    lines = op.lines([low], [high])
    assert lines[1].shape == (1, 3, 4)
    single = Elementwise(from_expression("g", "sin(2 * x)"), 1).lines([low[:, 1]], [high[:, 1]])
    assert torch.allclose(lines[3][:, 1], single[3], atol=1e-9)
    assert torch.equal(lines[3][:, 0], lines[3][:, 2])


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=f"at most {CHANNELS}"):
        from_expression("f", "sin(a * x)", a=torch.arange(CHANNELS + 1.0))


def test_pieces_are_found_once_and_shared_by_equal_functions() -> None:
    first, second = (from_expression(name, "x * tanh(0.375 * x)") for name in ("one", "two"))
    end = torch.full((1, 1), 3.0, dtype=torch.float64)
    found = first.on(-end, end)
    assert first.on(-end * 2, end) is found and found.name == "one"
    assert second.on(-end, end).chart is found.chart and second.on(-end, end).name == "two"
    wider = first.on(-end * 10, end)
    assert wider is not found and first.on(-end, end) is found


def test_an_empty_budget_still_gives_sound_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room for bisection everything is rough, and only looser."""
    text = "sin(3 * x) * exp(0.3125 * x)"
    op, low = Elementwise(from_expression("f", text), 1), torch.linspace(-3, 1, 9, dtype=torch.float64).reshape(-1, 1)
    good = op.lines([low], [low + 0.7])
    monkeypatch.setattr(subdivide, "BUDGET", 0)
    monkeypatch.setattr(subdivide, "PER_CHANNEL", 0)
    function = from_expression("f", text)
    assert isinstance(function, ComposedFunction) and function.tape is not None
    poor = Elementwise(replace(function, charts={}), 1)
    assert bool((settle(Problem(function.tape, (), 1, 8.0, F64)).state == ROUGH).any())
    lines = poor.lines([low], [low + 0.7])
    reference = exact(text)
    for t in (0.0, 0.31, 0.7):
        for k in range(low.shape[0]):
            x = mp.mpf(float(low[k])) + t
            x = min(x, mp.mpf(float(low[k] + 0.7)))
            below, above = (mp.mpf(float(lines[i][k])) * x + mp.mpf(float(lines[i + 1][k])) for i in (0, 2))
            assert below <= reference(x) <= above
    assert bool((lines[3] - lines[1] >= good[3] - good[1] - 1.0).all())


def test_void_regions_are_not_searched() -> None:
    tape = parsed("x * log(x)")
    found = settle(Problem(tape, (), 1, 64.0, F64))
    assert found.low.size < 1500 and bool((found.state[found.high <= 0] == BAD).all())


def test_texts_and_callables_make_the_same_tape() -> None:
    text = parsed("x * sigmoid(2 * x) - where(x > 1, x, 0) / 3")
    call = traced(lambda x: x * torch.sigmoid(2 * x) - torch.where(x > 1, x, 0.0) / 3)
    assert isinstance(text, Tape) and text == call
    assert parsed("x**2 + x**2") == parsed("2*x*x*0.5 + 0*x + x**2") or parsed("x*x") == parsed("x**2")


def test_methods_and_torch_functions_are_traced() -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    for f in (
        lambda x: torch.nn.functional.relu(x) * x.tanh(),
        lambda x: torch.clamp(x, min=-1.0, max=2.0) ** 3,
        lambda x: torch.maximum(x, 0.1 * x) - abs(x) / 2,
        lambda x: (x - 1).exp().log() + torch.square(x),
        lambda x: 2.0 ** (-x) + 1 / (1 + x * x),
    ):
        assert torch.allclose(from_expression("f", f).at(x), f(x), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x +", "cannot be read"),
        ("y * x", "'y' is not understood"),
        ("__import__('os')", "not understood"),
        ("x.real", "not understood"),
        ("gamma(x)", "'gamma' cannot be part"),
        ("3", "no function of its variable"),
        ("x", "only the variable itself"),
        ("x[0]", "not understood"),
        ("x * 1e999", "the number inf"),
        ("'a' * x", "not understood"),
        ("x and 1", "needs a condition"),
    ],
)
def test_texts_that_are_no_expressions_are_refused(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        from_expression("f", text)


def test_callables_that_branch_are_refused() -> None:
    with pytest.raises(UsageError, match="no truth value"):
        from_expression("f", lambda x: x if x > 0 else 2 * x)
    with pytest.raises(UsageError, match="does not return"):
        from_expression("f", lambda x: 3.0)
    with pytest.raises(UsageError, match="cannot be part"):
        from_expression("f", lambda x: torch.cumsum(x, 0))


def test_irrational_constants_are_enclosed() -> None:
    """pi is no float: x + pi * 0 would be exact, x / pi has an error that is charged."""
    low, high = torch.tensor([[1.0]]).double(), torch.tensor([[1.0]]).double()
    least, most = Elementwise(from_expression("f", "x**2 / pi"), 1).interval([low], [high])
    assert mp.mpf(float(least)) <= 1 / mp.pi <= mp.mpf(float(most))
    assert float(most - least) < 1e-13


def test_parameters_must_be_finite() -> None:
    with pytest.raises(UsageError, match="not finite"):
        compose("f", parsed("a * x**2", ("a",)), [torch.tensor([1.0, math.nan])])
