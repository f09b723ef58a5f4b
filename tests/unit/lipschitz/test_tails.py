"""Slopes of composed functions on the whole line: they hold at any size of the argument, and are finite when due."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
from verinet.solvers.lipschitz.sectors import sector
from verinet.solvers.lipschitz.tails import START, Scaled, add, mul, tail_slopes

import verinet
from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.errors import ModelError
from verinet.frontends.onnx import load_onnx
from verinet.ops.activations.user import from_expression
from verinet.ops.expression.composed import ComposedFunction
from verinet.ops.scalar import Elementwise


def _softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(-abs(x))) + max(x, 0)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "x * tanh(x)": lambda x: x * mp.tanh(x),
    "x * exp(-x**2)": lambda x: x * mp.exp(-(x**2)),
    "x**2 / (1 + abs(x))": lambda x: x**2 / (1 + abs(x)),
    "sqrt(1 + x**2)": lambda x: mp.sqrt(1 + x**2),
    "log(1 + x**2)": lambda x: mp.log(1 + x**2),
    "x * sin(x) / (1 + abs(x))": lambda x: x * mp.sin(x) / (1 + abs(x)),
    "x**3 / (1 + x**2)": lambda x: x**3 / (1 + x**2),
    "x * atan(x)": lambda x: x * mp.atan(x),
    "asinh(x)": mp.asinh,
    "max(x, tanh(x))": lambda x: max(x, mp.tanh(x)),
    "min(3 * x, x * tanh(x))": lambda x: min(3 * x, x * mp.tanh(x)),
    "softplus(x) * tanh(x)": lambda x: _softplus(x) * mp.tanh(x),
    "x * sigmoid(x**2)": lambda x: x * _sigmoid(x**2),
    "x * sigmoid(3 * x - 2)": lambda x: x * _sigmoid(3 * x - 2),
    "x * erf(x / 2) * tanh(x)": lambda x: x * mp.erf(x / 2) * mp.tanh(x),
    "exp(-abs(x)) * x**2": lambda x: mp.exp(-abs(x)) * x**2,
    "x * tanh(softplus(x))": lambda x: x * mp.tanh(_softplus(x)),
    "log(1 + abs(x))": lambda x: mp.log(1 + abs(x)),
    "relu(x) - x * sigmoid(x)": lambda x: max(x, 0) - x * _sigmoid(x),
    "atan(x**3)": lambda x: mp.atan(x**3),
    "sqrt(abs(x) + 1) * 1.5": lambda x: mp.sqrt(abs(x) + 1) * mp.mpf(1.5),
}


def _slopes(exact: Callable[[Any], Any]) -> list[Any]:
    """Secants of neighbouring points from 1e-3 to 1e40, on either side."""
    sizes = [*np.geomspace(1e-3, 1e3, 400).tolist(), *np.geomspace(1e3, 1e40, 60).tolist()]
    sizes += [START * (1 + d) for d in (-1e-6, -1e-9, 0.0, 1e-9, 1e-6)] + [64.0, 64.0 + 1e-9]
    found = []
    with mp.workdps(130):
        for side in (-1, 1):
            for size in sizes:
                x = mp.mpf(side * size)
                y = x * (1 + mp.mpf(10) ** -12)
                found.append((exact(y) - exact(x)) / (y - x))
    return found


@pytest.mark.parametrize("text", FUNCTIONS)
def test_slopes_hold_everywhere_and_are_near(text: str) -> None:
    function = from_expression("f", text)
    found = sector(Elementwise(function, 1), None, None, (1,), "node")
    low, high = float(found.low[0]), float(found.high[0])
    slopes = _slopes(FUNCTIONS[text])
    assert all(low <= s <= high for s in slopes)
    assert float(min(slopes)) - low < 0.06 and high - float(max(slopes)) < 0.06


def test_waves_hold_if_loosely() -> None:
    """Far out sine and cosine are told apart no longer: [-1, 3] instead of [0, 2]."""
    found = sector(Elementwise(from_expression("f", "x + sin(x)**2"), 1), None, None, (1,), "node")
    slopes = _slopes(lambda x: x + mp.sin(x) ** 2)
    assert all(float(found.low[0]) <= s <= float(found.high[0]) for s in slopes)
    assert float(found.low[0]) > -1.001 and float(found.high[0]) < 3.001


@pytest.mark.parametrize("text", ["x * tanh(x)", "x * atan(x)", "log(1 + x**2)", "x * exp(-x**2)", "asinh(x)"])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_tail_by_itself(text: str, side: int) -> None:
    function = from_expression("f", text)
    assert isinstance(function, ComposedFunction) and function.tape is not None
    low, high = tail_slopes(function.tape, (), side)
    exact = FUNCTIONS[text]
    with mp.workdps(400):
        for size in (START, 1.5 * START, 1e9, 1e30, 1e100):
            x, y = mp.mpf(side * size), mp.mpf(side * size) * (1 + mp.mpf(10) ** -20)
            assert low <= (exact(y) - exact(x)) / (y - x) <= high
    assert high - low < 1e-3


@pytest.mark.parametrize("text", ["x**2", "x * log(1 + x**2)", "exp(x) * x", "x * sin(x)", "sin(x**2)", "sinh(x)"])
def test_unbounded_slopes_stay_refused(text: str) -> None:
    with pytest.raises(ModelError, match="not bounded on the whole line"):
        sector(Elementwise(from_expression("f", text), 1), None, None, (1,), "node")


def test_powers_of_the_argument() -> None:
    """(2 s) (3 / s) = 6, and s + 1 is s times something in (1, 1 + 1 / START]."""
    two, third = (np.asarray(2.0),) * 2, (np.asarray(3.0),) * 2
    product = mul(Scaled(1.0, two), Scaled(-1.0, third)).plain()
    assert 6 - 1e-14 < product[0] <= 6 <= product[1] < 6 + 1e-14
    total = add(Scaled(1.0, two), Scaled(0.0, third))
    assert total.power == 1 and total.factor[0] <= 2 and 2 + 3 / START <= total.factor[1] < 2 + 4 / START
    assert math.isinf(total.plain()[1]) and total.plain()[0] >= 2 * START * (1 - 1e-12)


def test_a_network_of_composed_functions_has_a_global_bound() -> None:
    verinet_nodes = [
        node("MatMul", "x W", "h"),
        node("Tanh", "h", "t"),
        node("Mul", "h t", "g"),
        node("MatMul", "g V", "y"),
    ]
    proto = Spec("net", verinet_nodes, {"x": (1, 4)}, {"W": weights(4, 6), "V": weights(6, 2, seed=1)}).model()
    bound = verinet.lipschitz(load_onnx(proto), timeout=3)
    product = 1.2 * np.linalg.norm(weights(4, 6), 2) * np.linalg.norm(weights(6, 2, seed=1), 2)
    assert 0 < bound.lower <= bound.upper <= product
