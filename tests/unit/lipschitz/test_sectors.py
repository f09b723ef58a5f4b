"""Slope sectors enclose every difference quotient of every registered function, locally and on the whole line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor
from verinet.solvers.lipschitz.sectors import Sector, hinge, hinge_slopes, sector

from tests.kits.scalar_check import CASES, IDS
from tests.kits.scalar_reference import domain, reference
from verinet.errors import ModelError
from verinet.frontends.elementwise import scalar_function
from verinet.frontends.pattern_forms import GRID
from verinet.ops.activations import find
from verinet.ops.expression.composed import ComposedFunction, compose
from verinet.ops.expression.tape import TapeBuilder
from verinet.ops.scalar import Elementwise

JUMPING = {"Sign", "Floor", "Ceil", "Round", "ThresholdedRelu"}
STEEP = {"Exp", "Sinh", "Cosh", "Log", "Reciprocal", "Sqrt", "Tan", "Asin", "Acos"}


def _op(name: str, attributes: Mapping[str, Any]) -> Elementwise:
    function = find(name, attributes)
    assert function is not None
    return Elementwise(function, 1)


def _channels(op: Elementwise) -> int:
    given = op.function.parameters
    return torch.broadcast_tensors(*given)[0].numel() if given else 1


def _may_refuse(name: str, op: Elementwise) -> bool:
    """Functions with jumps or steep places; and composed ones (polynomials, say), whose slopes may grow."""
    unbounded = not all(map(math.isfinite, op.function.slope_range))
    return name in JUMPING | STEEP or unbounded or isinstance(op.function, ComposedFunction)


def _quotients(name: str, attributes: Mapping[str, Any], channel: int, points: list[float]) -> list[Any]:
    """Exact slopes of the secants between neighbouring points."""
    exact = reference(name, attributes, channel)
    with mp.workdps(120):
        values = [exact(mp.mpf(x)) for x in points]
        pairs = zip(points[1:], points[:-1], values[1:], values[:-1], strict=True)
        return [(f - g) / (mp.mpf(x) - mp.mpf(y)) for x, y, f, g in pairs if x != y]


def _intervals(name: str, attributes: Mapping[str, Any], op: Elementwise) -> list[tuple[float, float]]:
    low, high = domain(name, attributes)
    draw = np.random.default_rng(sum(map(ord, name)))
    centres = [*draw.normal(size=4) * 3, *op.function.breakpoints, *op.function.extrema, 0.0, 1.0]
    widths = [*(10.0 ** draw.uniform(-6, 2, size=6)), 0.5, 1e-9]
    pairs = [(c - w * draw.uniform(0, 1), c + w * draw.uniform(0, 1)) for c in centres for w in draw.choice(widths, 2)]
    pairs += [(p, p + 0.3) for p in op.function.breakpoints] + [(p - 0.3, p) for p in op.function.breakpoints]
    return [(max(a, low), min(b, high)) for a, b in pairs if max(a, low) < min(b, high)]


def _points(op: Elementwise, low: float, high: float) -> list[float]:
    marks = [*op.function.breakpoints, *op.function.extrema]
    near = [m + side * (1 + abs(m)) * 1e-13 for m in marks for side in (-1, 1)]
    grid = np.linspace(low, high, 15).tolist()
    ends = [low + (high - low) * 1e-5, high - (high - low) * 1e-5]
    return sorted({x for x in [*grid, *ends, *marks, *near] if low <= x <= high})


@pytest.mark.parametrize(("name", "attributes"), CASES, ids=IDS)
def test_local_sector_holds_every_secant(name: str, attributes: Mapping[str, Any]) -> None:
    op = _op(name, attributes)
    channels = _channels(op)
    checked = 0
    for low, high in _intervals(name, attributes, op):
        ends = [torch.full((channels,), end, dtype=torch.float64) for end in (low, high)]
        try:
            found = sector(op, *ends, (channels,), "node")
        except ModelError:
            assert _may_refuse(name, op), (name, low, high)
            continue
        for channel in range(channels):
            slopes = _quotients(name, attributes, channel, _points(op, low, high))
            assert all(float(found.low[channel]) <= s <= float(found.high[channel]) for s in slopes), (low, high)
            checked += len(slopes)
    assert checked > 60 or _may_refuse(name, op)


@pytest.mark.parametrize(("name", "attributes"), CASES, ids=IDS)
def test_global_sector_holds_and_is_tight(name: str, attributes: Mapping[str, Any]) -> None:
    op = _op(name, attributes)
    channels = _channels(op)
    try:
        found = sector(op, None, None, (channels,), "the node")
    except ModelError as error:
        assert _may_refuse(name, op)
        assert "the node" in str(error) and "try" in str(error)
        return
    low, high = domain(name, attributes)
    for channel in range(channels):
        slopes = _quotients(name, attributes, channel, _points(op, max(low, -30.0), min(high, 30.0)))
        slopes += _quotients(name, attributes, channel, _points(op, max(low, -2.5), min(high, 2.5)))
        slopes += _quotients(
            name, attributes, channel, [max(low, -1e5), max(low, -9e4), min(high, 9e4), min(high, 1e5)]
        )
        least, most = float(found.low[channel]), float(found.high[channel])
        assert all(least <= s <= most for s in slopes)
        if not isinstance(op.function, ComposedFunction):
            assert float(min(slopes)) - least < 0.05 and most - float(max(slopes)) < 0.05


@pytest.mark.parametrize(("name", "attributes"), CASES, ids=IDS)
def test_disc_holds_the_sector(name: str, attributes: Mapping[str, Any]) -> None:
    op = _op(name, attributes)
    shape = (_channels(op),)
    ends = [torch.full(shape, end, dtype=torch.float64) for end in (0.3, 0.9)]
    try:
        found = sector(op, *ends, shape, "node")
    except ModelError:
        pytest.skip("no sector")
    _check_disc(found)


def _check_disc(found: Sector) -> None:
    centre, radius = found.disc()
    with mp.workdps(60):
        for low, high, c, r in zip(found.low, found.high, centre, radius, strict=True):
            low, high, c, r = (mp.mpf(float(t)) for t in (low, high, c, r))
            assert c - r <= low and high <= c + r
            assert r - (high - low) / 2 <= 1e-14 * (1 + abs(low) + abs(high))


def test_disc_of_many_random_sectors() -> None:
    draw = torch.Generator().manual_seed(3)
    low = torch.randn(300, generator=draw, dtype=torch.float64)
    wide = torch.rand(300, generator=draw, dtype=torch.float64) * 10.0 ** torch.arange(-17, 3, 20 / 300)
    _check_disc(Sector(low, low + wide))
    centre, radius = Sector(low, low).disc()
    assert torch.equal(centre, low) and not radius.any()
    assert [t.tolist() for t in Sector(torch.zeros(1).double(), torch.ones(1).double()).disc()] == [[0.5], [0.5]]


def test_two_sided_functions_are_recognised_and_fixed_by_sign() -> None:
    for name, attributes, slopes in (
        ("Relu", {}, (0.0, 1.0)),
        ("Abs", {}, (-1.0, 1.0)),
        ("LeakyRelu", {"alpha": 1.75}, (1.75, 1.0)),
        ("Clip", {"min": 0.0}, (0.0, 1.0)),
    ):
        sides = hinge_slopes(_op(name, attributes).function)
        assert sides is not None and tuple(float(s) for s in sides) == slopes
        low = torch.tensor([-2.0, 0.0, -1.0], dtype=torch.float64)
        high = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
        found = hinge(sides, low, high, (3,))
        assert found.middle.tolist() == [slopes[0], slopes[1], sum(slopes) / 2]
        assert found.half.tolist() == [0.0, 0.0, (slopes[1] - slopes[0]) / 2]
        assert not found.middle_error.any() and not found.half_error.any()
    for name, attributes in (("Tanh", {}), ("Clip", {"min": 0.0, "max": 6.0}), ("Elu", {}), ("Sign", {})):
        assert hinge_slopes(_op(name, attributes).function) is None


def test_slopes_that_halves_round_carry_an_error() -> None:
    below, above = torch.tensor([0.1]).double() / 3, torch.tensor([1.0]).double()
    found = hinge((below, above), None, None, (1,))
    with mp.workdps(60):
        n, p = mp.mpf(float(below)), mp.mpf(1)
        assert abs(mp.mpf(float(found.middle)) - (n + p) / 2) <= float(found.middle_error)
        assert abs(mp.mpf(float(found.half)) - (p - n) / 2) <= float(found.half_error)
    assert 0 < float(found.middle_error) < 1e-15


def _gelu(x: Tensor, c: Tensor) -> Tensor:
    return c[0] * x * (c[1] + torch.erf(x * c[2] * math.sqrt(0.5)))


def _gelu_tanh(x: Tensor, c: Tensor) -> Tensor:
    inner = c[2] * math.sqrt(2 / math.pi) * (x + c[3] * 0.044715 * x**3)
    return 0.5 * c[0] * x * (c[1] + torch.tanh(inner))


def _swish(x: Tensor, c: Tensor) -> Tensor:
    return c[0] * x * torch.sigmoid(c[1] * x)


def _mish(x: Tensor, c: Tensor) -> Tensor:
    return c[0] * x * torch.tanh(c[1] * torch.nn.functional.softplus(c[2] * x, threshold=60))


def _softplus(x: Tensor, c: Tensor) -> Tensor:
    return c[0] * torch.log(c[1] + torch.exp(-x.abs() * c[2])) + c[3] * x.clamp(min=0)


def _hard_swish(x: Tensor, c: Tensor) -> Tensor:
    return x * torch.clamp(x * c[0] / 6 + 0.5 * c[1], 0.0, 1.0) * c[2]


SPELLED = [
    ("Gelu", {}, _gelu, [0.5, 1.0, 1.0]),
    ("Gelu", {"approximate": "tanh"}, _gelu_tanh, [1.0, 1.0, 1.0, 1.0]),
    ("Swish", {}, _swish, [1.0, 1.0]),
    ("Mish", {}, _mish, [1.0, 1.0, 1.0]),
    ("Softplus", {}, _softplus, [1.0, 1.0, 1.0, 1.0]),
    ("HardSwish", {}, _hard_swish, [1.0, 1.0, 1.0]),
]


@pytest.mark.parametrize(("name", "attributes", "formula", "constants"), SPELLED, ids=[s[0] for s in SPELLED])
def test_deviation_covers_slopes_of_spelled_out_functions(
    name: str, attributes: Mapping[str, Any], formula: Any, constants: list[float]
) -> None:
    """With constants off by what float32 does to them, slopes stay within the widened sector, globally and locally."""
    draw = torch.Generator().manual_seed(0)
    base = find(name, attributes)
    assert base is not None
    for _ in range(20):
        noise = 1 + (torch.rand(len(constants), generator=draw, dtype=torch.float64) - 0.5) * 1.2e-7
        values = torch.tensor(constants, dtype=torch.float64) * noise
        worst = float(((formula(GRID, values) - base.at(GRID)).abs() / (1 + base.at(GRID).abs())).max())
        function = scalar_function(name, {**attributes, "deviation": 4 * worst})
        assert function is not None
        x = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(formula(x, values).sum(), x)
        x, op = x.detach(), Elementwise(function, 1)
        whole = sector(op, None, None, (1,), "node")
        assert bool(((slope >= whole.low) & (slope <= whole.high)).all())
        low, high = x[:-1:100], x[100::100]
        local = sector(op, low, high, low.shape, "node")
        inside = slope[:-1].reshape(-1, 100)
        assert bool((inside >= local.low[:, None]).all()) and bool((inside <= local.high[:, None]).all())


def _tape(build: TapeBuilder, x: int) -> dict[str, int]:
    """Results of some expressions of one variable."""
    tanh = build.put("Tanh", x)
    relu = build.put("Relu", x)
    shrunk = build.sub(relu, build.put("Relu", build.sub(x, build.const(1.0))))
    return {"x - tanh": build.sub(x, tanh), "ramp": shrunk, "product": build.mul(relu, tanh)}


@pytest.mark.parametrize("name", ["x - tanh", "ramp", "product"])
def test_composed_functions_have_global_sectors_where_their_tails_settle(name: str) -> None:
    build = TapeBuilder()
    function = compose(name, build.finish(_tape(build, 0)[name]))
    op = Elementwise(function, 1)
    found = sector(op, None, None, (2,), "node")
    x = torch.cat([torch.linspace(-9, 9, 4001), torch.tensor([-1e3, -70.0, 70.0, 1e3])]).double().sort().values
    slopes = function.at(x).diff() / x.diff()
    assert bool((slopes >= found.low[0] - 1e-9).all()) and bool((slopes <= found.high[0] + 1e-9).all())
    assert found.low.min() >= -1e-9 and found.high.max() <= (1.1998 if name == "product" else 1 + 1e-9)


def test_errors_say_what_to_do() -> None:
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    with pytest.raises(ModelError, match="smaller region"):
        sector(_op("Sqrt", {}), zero, one, (1,), "root")
    with pytest.raises(ModelError, match="give a region"):
        sector(_op("Exp", {}), None, None, (1,), "grow")
    with pytest.raises(ModelError, match="jumps"):
        sector(_op("Sign", {}), -one, one, (1,), "step")
    found = sector(_op("Sign", {}), one, 2 * one, (1,), "step")
    assert found.low.tolist() == [0.0] and found.high.tolist() == [0.0]
    steep = sector(_op("Sqrt", {}), 0.25 * one, one, (1,), "root")
    assert steep.low.item() == pytest.approx(0.5) and steep.high.item() == pytest.approx(1.0)
