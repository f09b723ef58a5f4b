"""Lines and intervals of every registered activation enclose the function, whatever the slopes and the precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.scalar_check import CASES, CPU, IDS, Attributes, Case, check_lines, gaps, make_case
from tests.kits.scalar_reference import domain
from tests.kits.strategies import DTYPES
from verinet.ops import scalar_lines
from verinet.ops.activations import find
from verinet.ops.scalar import DomainError, Elementwise, ScalarFunction
from verinet.ops.scalar_lines import Sample

CENTRES = st.one_of(
    st.floats(-6, 6),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 3.0, -3.0, 2.5, math.pi, -math.pi / 2, math.sqrt(2), -2.25637]),
    st.floats(-100, 100),
    st.floats(-1e5, 1e5),
)
RADII = st.one_of(
    st.floats(0, 4), st.sampled_from([0.0, 1e-300, 1e-16, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.5]), st.floats(0, 2e3)
)
SLOPES = st.one_of(
    st.floats(-0.3, 1.3),
    st.sampled_from([0.0, 1.0, -1.0, 0.25, 1e-9, 1e3, -1e3, 1e6, math.inf, math.nan]),
    st.floats(-9, 9),
)
ROWS = st.lists(st.tuples(CENTRES, RADII, SLOPES, SLOPES), min_size=4, max_size=4)
UNBOUNDED = ("Exp", "Sinh", "Cosh", "Pow", "Reciprocal", "Tan", "Log")
"""May be undefined, or too large for a float, on the intervals that are tried."""
# Shares of the profile's budget: there are many functions.
MANY, FEW = max(1, settings().max_examples * 2 // 5), max(1, settings().max_examples // 5)
every_activation = pytest.mark.parametrize(("onnx_op", "attributes"), CASES, ids=IDS)


def _build(onnx_op: str, attributes: Attributes, rows: list[tuple[float, ...]], dtype: torch.dtype) -> Case:
    data = torch.tensor(rows, dtype=torch.float64)
    low, high = domain(onnx_op, attributes)
    scale = 0.2 if high - low < 4 else 1.0  # arcsine and tangent: keep centres in the domain
    centre = data[:, :1] * scale
    centre = centre.abs() if low >= 0 else centre
    return make_case(
        onnx_op, attributes, (centre - data[:, 1:2] * scale).to(dtype), (centre + data[:, 1:2] * scale).to(dtype)
    )


def _lines(case: Case, slopes: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...] | None:
    """None where the values overflow: then a typed error must be raised, not a wrong line."""
    try:
        if slopes is None:
            return case.op.lines([case.lower], [case.upper])
        return case.op.lines([case.lower], [case.upper], slopes)
    except DomainError:
        return None


@every_activation
@settings(max_examples=MANY)
@given(rows=ROWS, dtype=DTYPES, default=st.booleans())
def test_lines_enclose_the_function(
    onnx_op: str, attributes: Attributes, rows: list[tuple[float, ...]], dtype: torch.dtype, default: bool
) -> None:
    case = _build(onnx_op, attributes, rows, dtype)
    data = torch.tensor(rows, dtype=dtype)
    slopes = None if default else (data[:, 2:3].expand_as(case.lower), data[:, 3:4].expand_as(case.lower))
    if slopes is not None and case.function.hinge is not None:
        slopes = (slopes[0].nan_to_num(), slopes[1])
    lines = _lines(case, slopes)
    if lines is None:
        assert onnx_op in UNBOUNDED
        return
    check_lines(case, lines)


@every_activation
@settings(max_examples=FEW)
@given(rows=ROWS, dtype=DTYPES)
def test_interval_encloses_the_function(
    onnx_op: str, attributes: Attributes, rows: list[tuple[float, ...]], dtype: torch.dtype
) -> None:
    case = _build(onnx_op, attributes, rows, dtype)
    try:
        low, high = case.op.interval([case.lower], [case.upper])
    except DomainError:
        assert onnx_op in UNBOUNDED
        return
    zero = torch.zeros_like(low)
    points = case.points()
    for sign, offset in ((1, low), (-1, high)):
        worst = min(gaps(case, zero, offset, sign, points))
        assert worst[0] >= 0, (sign, worst)


@every_activation
@settings(max_examples=FEW)
@given(rows=ROWS, dtype=DTYPES)
def test_slope_bounds_enclose_difference_quotients(
    onnx_op: str, attributes: Attributes, rows: list[tuple[float, ...]], dtype: torch.dtype
) -> None:
    case = _build(onnx_op, attributes, rows, dtype)
    low, high = (t.double() for t in case.op.slope_bounds(case.lower, case.upper))
    assert bool((low <= high).all())
    points = case.points().sort(0).values
    wide = case.op.to(torch.float64, CPU)
    rise, run = wide.forward(points).diff(dim=0), points.diff(dim=0)
    noise = 1e-13 * (1 + wide.forward(points).abs().amax(0)) * (1 + case.function.error_floor) + _noise(wide, points)
    # By the mean value theorem no chord is steeper than the extreme slopes.
    assert bool(((rise - high * run <= noise) | (run == 0) | high.isinf()).all())
    assert bool(((rise - low * run >= -noise) | (run == 0) | low.isinf()).all())


def _noise(op: Elementwise, points: Tensor) -> Tensor:
    """Errors of two values where a map bounds them."""
    chart = op.function.on(points, points).chart
    return torch.zeros(()) if chart is None else 2 * chart.errors(points)[0].amax(0)


def _sigmoid_with(**changes: object) -> ScalarFunction:
    function = find("Sigmoid")
    assert function is not None
    return replace(function, **changes)  # type: ignore[arg-type]


def _case(function: ScalarFunction, onnx_op: str, bounds: list[tuple[float, float]], attributes: Attributes) -> Case:
    data = torch.tensor(bounds, dtype=torch.float64)
    case = make_case(onnx_op, attributes, data[:, :1], data[:, 1:])
    return replace(case, op=Elementwise(function, 1))


def _rough(k: Tensor, piece: int) -> Tensor:
    """A root finder that is off by 0.3."""
    exact = find("Sigmoid")
    assert exact is not None and exact.inverse_slope is not None
    return exact.inverse_slope(k, piece) + 0.3


def _noisy(x: Tensor) -> Tensor:
    """A sigmoid with an error of 6 units, inside its promise of 8, with changing sign."""
    return torch.sigmoid(x) * (1 + 6 * 2.0**-52 * torch.sign(torch.sin(1e5 * x)))


def _without_drop(*_: object) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _without_charge(function: ScalarFunction, value: Tensor, product: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _without_limits(function: ScalarFunction, lower: Tensor, upper: Tensor) -> list[Sample]:
    return [Sample(x, function.at(x)) for x in (lower, upper)]


def _outer(x: Tensor) -> Tensor:
    """Slope of ELU with alpha 2 that shows the right-hand one at the kink."""
    return torch.where(x >= 0, 1.0, 2 * torch.exp(x.clamp(max=0)))


def _at_kink(k: Tensor, piece: int) -> Tensor:
    return torch.zeros_like(k)


_SPREAD = [(-3.0 + 0.37 * i, 2.0 + 0.61 * i) for i in range(9)] + [(-1.0, 0.01)]


def _known(onnx_op: str, attributes: Attributes) -> ScalarFunction:
    function = find(onnx_op, attributes)
    assert function is not None
    return function


MUTATIONS: dict[str, tuple[str, Callable[..., object], Callable[[], tuple[ScalarFunction, str, Attributes]], float]] = {
    "no tangent correction": (
        "tangent_drop",
        _without_drop,
        lambda: (_sigmoid_with(inverse_slope=_rough), "Sigmoid", {}),
        0.1,
    ),
    "no rounding charge": ("float_charge", _without_charge, lambda: (_sigmoid_with(value=_noisy), "Sigmoid", {}), 0.1),
    "kinks skipped": (
        "corner_points",
        lambda function: (),
        lambda: (_known("LeakyRelu", {"alpha": 0.1}), "LeakyRelu", {"alpha": 0.1}),
        0.5,
    ),
    "jumps skipped": ("samples", _without_limits, lambda: (_known("Floor", {}), "Floor", {}), 1.0),
    "outer slope at a kink": (
        "_slope_at",
        lambda function, section, x: function.derivative(x),
        lambda: (replace(_known("Elu", {"alpha": 2.0}), slope=_outer, inverse_slope=_at_kink), "Elu", {"alpha": 2.0}),
        1.5,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_intercepts_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, mutant, build, slope = MUTATIONS[name]
    function, onnx_op, attributes = build()
    case = _case(function, onnx_op, _SPREAD, attributes)
    slopes = (torch.full_like(case.lower, slope), torch.full_like(case.lower, slope))
    check_lines(case, case.op.lines([case.lower], [case.upper], slopes))
    monkeypatch.setattr(scalar_lines, target, mutant)
    with pytest.raises(AssertionError):
        check_lines(case, case.op.lines([case.lower], [case.upper], slopes))


@pytest.mark.parametrize(
    ("onnx_op", "attributes", "lower", "upper"),
    [
        ("Log", {}, 0.0, 1.0),
        ("Log", {}, -1.0, 1.0),
        ("Sqrt", {}, -1e-9, 1.0),
        ("Reciprocal", {}, -1.0, 1.0),
        ("Reciprocal", {}, 0.0, 1.0),
        ("Tan", {}, 1.0, 2.0),
        ("Tan", {}, 0.0, 3.5),
        ("Asin", {}, 0.5, 1.5),
        ("Exp", {}, 0.0, 1e4),
        ("Pow", {"exponent": -2.0}, -1.0, 1.0),
        ("Pow", {"exponent": 0.5}, -1.0, 1.0),
    ],
)
def test_undefined_or_unbounded_intervals_raise(
    onnx_op: str, attributes: Attributes, lower: float, upper: float
) -> None:
    op = Elementwise(_known(onnx_op, attributes), 1)
    low, high = torch.tensor([[lower]], dtype=torch.float64), torch.tensor([[upper]], dtype=torch.float64)
    with pytest.raises(DomainError):
        op.interval([low], [high])
    with pytest.raises(DomainError):
        op.lines([low], [high])
