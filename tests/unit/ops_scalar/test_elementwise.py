"""Elementwise operators: default slopes, gradients, pull and push, splitting, and the registry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kits.scalar_check import CASES, CPU, IDS, Attributes, Case, make_case
from tests.kits.scalar_reference import domain
from verinet.errors import InternalError
from verinet.ops.activations import find
from verinet.ops.activations.registry import constant, register, table
from verinet.ops.scalar import Elementwise, ScalarFunction

every_activation = pytest.mark.parametrize(("onnx_op", "attributes"), CASES, ids=IDS)


def known(onnx_op: str, attributes: Attributes | None = None) -> ScalarFunction:
    function = find(onnx_op, attributes or {})
    assert function is not None
    return function


def random_case(onnx_op: str, attributes: Attributes, count: int = 30, seed: int = 3) -> Case:
    """Intervals of moderate width, clear of the degenerate ones."""
    generator = torch.Generator().manual_seed(seed)
    low, high = domain(onnx_op, attributes)
    scale = 0.05 if high - low < 4 else 1.0
    centre = torch.randn(count, 1, generator=generator, dtype=torch.float64) * 3 * scale
    radius = (torch.rand(count, 1, generator=generator, dtype=torch.float64) * 4 + 0.01) * scale
    if low >= 0:
        centre = centre.abs() + radius + 0.05
    return make_case(onnx_op, attributes, centre - radius, centre + radius)


def best_height(case: Case, sign: int, centre: Tensor) -> Tensor:
    """Height at the midpoint of the best line: the lower hull of dense samples there, by bisection on the slope."""
    t = torch.linspace(0, 1, 1201, dtype=torch.float64).reshape(-1, 1, 1)
    x = case.lower + (case.upper - case.lower) * t
    marks = [
        torch.minimum(torch.maximum(torch.full_like(case.lower, b), case.lower), case.upper)
        for b in (*case.function.breakpoints, *case.places())
    ]
    x = torch.cat([x, *(m.unsqueeze(0) for m in marks)])
    value = case.op.forward(x)
    low, high = torch.full_like(centre, -60.0), torch.full_like(centre, 60.0)
    for _ in range(50):
        k = 0.5 * (low + high)
        touch = x.gather(0, (sign * (value - k * x)).argmin(0, keepdim=True))[0]
        right = sign * (centre - touch) > 0
        low, high = torch.where(right, k, low), torch.where(right, high, k)
    k = 0.5 * (low + high)
    return sign * k * centre + (sign * (value - k * x)).amin(0)


@every_activation
def test_default_slopes_are_area_optimal(onnx_op: str, attributes: Attributes) -> None:
    case = random_case(onnx_op, attributes)
    if case.function.jumps is not None or onnx_op == "Pow" and attributes["exponent"] not in (2.0, 3.0, 0.5, -1.0):
        pytest.skip("samples miss the one-sided limits, or slopes exceed the search range")
    if onnx_op == "Siren" and not attributes:
        pytest.skip("more waves in an interval than are looked at")
    if case.function.slope_range[1] > 60 and onnx_op in ("Exp", "Sinh", "Cosh"):
        case = make_case(onnx_op, attributes, case.lower.clamp(-3, 2), case.upper.clamp(-2, 3))
    lines = case.op.lines([case.lower], [case.upper])
    centre = 0.5 * (case.lower + case.upper)
    here = case.op.forward(centre)
    spread = (case.op.forward(case.upper) - case.op.forward(case.lower)).abs() + (case.upper - case.lower) * 0.1
    for sign, slope, offset in ((1, lines[0], lines[1]), (-1, lines[2], lines[3])):
        if case.function.hinge is not None and sign == 1:
            continue  # through the origin by design: at most half the optimum's slope range is given up
        best = best_height(case, sign, centre)
        loss = best - sign * (slope * centre + offset)
        gap = (sign * here - best).clamp(min=0)
        assert bool((loss <= 1e-3 * (gap + spread)).all()), float((loss / (gap + spread)).max())


@every_activation
def test_gradients_are_the_derivatives_of_the_bound(onnx_op: str, attributes: Attributes) -> None:
    case = random_case(onnx_op, attributes)
    low, high = case.lower, case.upper
    if onnx_op == "Siren" and not attributes:
        high = low + 0.1 * (high - low)  # few enough waves
    base = case.op.multipliers([low], [high])
    generator = torch.Generator().manual_seed(5)
    slopes = tuple(
        k + 0.05 * torch.rand(k.shape, generator=generator, dtype=k.dtype) * (1 + k.abs()) + 1e-3 for k in base
    )
    if case.function.hinge is not None:
        n, p = case.function.hinge
        if n == p:
            return  # no slope to choose
        slopes = (torch.full_like(low, 0.7 * n + 0.3 * p),)
    x = low + (high - low) * torch.rand(low.shape, generator=generator, dtype=low.dtype)
    for sign, side in ((1.0, 0), (-1.0, 1)):
        if side >= len(slopes):
            continue
        rows = torch.full_like(x, 1.7 * sign)
        lines = case.op.lines([low], [high], slopes)
        gradient = case.op.gradient(rows, lines, x)[side]
        step = 1e-6 * (1 + slopes[side].abs())
        values = []
        for direction in (1, -1):
            moved = list(slopes)
            moved[side] = moved[side] + direction * step
            values.append(rows * case.op.push(rows, case.op.lines([low], [high], moved), x))
        difference = (values[0] - values[1]) / (2 * step)
        # At a kink of the concave intercept any slope between the one-sided ones is a gradient.
        scale = 1e-4 * (1 + (high - low) + (high + low).abs() + case.op.forward(x).abs())
        close = (difference - gradient).abs() <= scale
        assert close.double().mean() > 0.85


@every_activation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_pull_is_the_linear_form_of_push(onnx_op: str, attributes: Attributes, dtype: torch.dtype) -> None:
    case = random_case(onnx_op, attributes, count=7)
    channels = case.lower.shape[1]
    op = Elementwise(case.function, 2).to(dtype, CPU)  # one domain, event shape (7, channels)
    low, high = (t.unsqueeze(0).to(dtype) for t in (case.lower, case.upper))
    lines = op.lines([low], [high])
    rows = torch.randn(5, 7, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    x = 0.25 * low + 0.75 * high
    pulled = op.pull(rows, lines)
    assert pulled.rows[0].shape == rows.shape and pulled.offset.shape == (5,) and pulled.magnitude.shape == (5,)
    direct = (rows * op.push(rows, lines, x)).flatten(1).sum(1)
    linear = (pulled.rows[0] * x).flatten(1).sum(1) + pulled.offset
    size = (rows.abs() * (op.push(rows, lines, x).abs() + 1)).flatten(1).sum(1) + pulled.magnitude
    assert bool(((direct - linear).abs() <= 200 * torch.finfo(dtype).eps * size).all())
    assert bool((pulled.magnitude >= pulled.offset.abs() * (1 - 1e-6)).all())
    bound = (rows * op.forward(x)).flatten(1).sum(1)
    assert bool((linear <= bound + 200 * torch.finfo(dtype).eps * size).all())


@every_activation
def test_multipliers_may_have_more_leading_axes(onnx_op: str, attributes: Attributes) -> None:
    case = random_case(onnx_op, attributes, count=4)
    low, high = case.lower.unsqueeze(0), case.upper.unsqueeze(0)
    per_row = tuple(m.expand(3, *m.shape[1:]) for m in case.op.multipliers([low], [high]))
    lines = case.op.lines([low], [high], per_row)
    assert all(t.shape in ((3, *low.shape[1:]), low.shape) for t in lines)
    single = case.op.lines([low], [high])
    for several, one in zip(lines, single, strict=True):
        if case.function.on(low, high).chart is None:
            assert torch.equal(several.expand(3, *low.shape[1:])[1], one[0])
        else:  # several steps: vectorised and scalar library functions may differ in the last place
            assert torch.allclose(several.expand(3, *low.shape[1:])[1], one[0], rtol=1e-12, atol=1e-12)


@every_activation
def test_branch_points_lie_inside_and_projection_is_idempotent(onnx_op: str, attributes: Attributes) -> None:
    case = random_case(onnx_op, attributes)
    points = case.op.branch_points(case.lower, case.upper)
    assert points.shape[:-1] == case.lower.shape
    assert bool(((points > case.lower.unsqueeze(-1)) & (points < case.upper.unsqueeze(-1))).all())
    wild = tuple(m * 100 - 50 for m in case.op.multipliers([case.lower], [case.upper]))
    once = case.op.project(wild, [case.lower], [case.upper])
    twice = case.op.project(once, [case.lower], [case.upper])
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    defaults = case.op.multipliers([case.lower], [case.upper])
    kept = case.op.project(defaults, [case.lower], [case.upper])
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(defaults, kept, strict=True))


@every_activation
def test_piecewise_linear_functions_become_exact_by_splitting(onnx_op: str, attributes: Attributes) -> None:
    case = random_case(onnx_op, attributes, count=30)
    if not case.op.is_exact_after_split:
        return
    low, high = case.lower, case.upper
    for _ in range(3):  # always go left, then right, then left: any path ends in an affine piece
        point = case.op.branch_points(low, high)[..., 0]
        open_ = case.op.undecided([low], [high])[0]
        low, high = low, torch.where(open_, point, high)
    assert not bool(case.op.undecided([low], [high])[0].any())
    lines = case.op.lines([low], [high])
    x = 0.5 * (low + high)
    assert torch.allclose(lines[0] * x + lines[1], lines[2] * x + lines[3], atol=1e-12, rtol=1e-12)


def test_decided_relu_lines_are_exact() -> None:
    op = Elementwise(known("Relu"), 1)
    low = torch.tensor([[-3.0, 0.0, 0.5, -2.0, 0.0, 5e-324]], dtype=torch.float64)
    high = torch.tensor([[-1.0, 0.0, 2.5, 0.0, 2.0, 1e-323]], dtype=torch.float64)
    lines = op.lines([low], [high])
    assert lines[0].tolist()[0][:5] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert lines[2].tolist()[0][:5] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert lines[1].eq(0).all() and lines[3][0, :5].eq(0).all()


def test_relu_chord_is_sound_for_extreme_ratios() -> None:
    op = Elementwise(known("Relu"), 1)
    for low, high in ((-1e-300, 1.0), (-1.0, 1e-300), (-5e-324, 5e-324), (-1e308, 1e308), (-1e16, 1.0), (-1.0, 1e16)):
        a, b = torch.tensor([[low]], dtype=torch.float64), torch.tensor([[high]], dtype=torch.float64)
        _, _, slope, offset, _, _ = op.lines([a], [b])
        from fractions import Fraction

        s, o = Fraction(float(slope)), Fraction(float(offset))
        assert s * Fraction(low) + o >= 0 and s * Fraction(high) + o >= Fraction(high)


def test_smooth_functions_are_undecided_only_where_it_matters() -> None:
    low = torch.tensor([[-1.0, 2.0, 3.5, 1.0]], dtype=torch.float64)
    high = torch.tensor([[1.0, 4.0, 9.0, 1.0]], dtype=torch.float64)
    assert Elementwise(known("HardSwish"), 1).undecided([low], [high])[0].tolist() == [[True, True, False, False]]
    assert Elementwise(known("Sigmoid"), 1).undecided([low], [high])[0].tolist() == [[True, True, True, False]]
    assert Elementwise(known("Neg"), 1).undecided([low], [high])[0].tolist() == [[False] * 4]
    assert Elementwise(known("Floor"), 1).undecided([low], [high])[0].tolist() == [[True, True, True, False]]


def test_casting_keeps_channels() -> None:
    op = Elementwise(known("PRelu", {"slope": torch.tensor([0.5, 2.0])}), 1).to(torch.float32, CPU)
    assert op.function.parameters[0].dtype == torch.float32
    assert op.forward(torch.tensor([[-1.0, -1.0]])).tolist() == [[-0.5, -2.0]]


def test_slope_tables_are_built_once() -> None:
    function = known("Gelu")
    assert function is known("Gelu")
    op = Elementwise(function, 1)
    bounds = [torch.tensor([[-1.0]], dtype=torch.float64)], [torch.tensor([[2.0]], dtype=torch.float64)]
    op.lines(*bounds)
    tables = dict(function._tables)
    op.lines(*bounds)
    assert function._tables == tables and len(tables) >= 3


def test_registry() -> None:
    assert find("NoSuchOperator") is None
    assert find("Gelu", {"approximate": "unheard of"}) is None
    assert find("Pow", {"exponent": torch.tensor([2.0, 3.0])}) is None
    assert {"Relu", "Sigmoid", "Tanh"} <= set(table())
    with pytest.raises(InternalError, match="registered twice"):
        register("Relu", constant(known("Relu")))


def test_sign_lines_reach_over_the_jump() -> None:
    """On [-1, 2] the hulls at 0.5 run from (0, -1) to (2, 1) below and at 1 above."""
    op = Elementwise(known("Sign"), 1)
    low, high = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    lines = op.lines([low], [high])
    assert abs(float(lines[0] * 0.5 + lines[1]) + 0.5) < 1e-9
    assert abs(float(lines[2] * 0.5 + lines[3]) - 1.0) < 1e-9
