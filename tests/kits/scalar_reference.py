"""Reference values of all activations in high precision, and intervals to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import torch
from torch import Tensor

Real = Callable[[Any], Any]


def _mpf(attributes: Mapping[str, Any], name: str, default: float) -> Any:
    value = attributes.get(name)
    return mp.mpf(default if value is None else float(value))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _exponential_unit(x: Any, scale: Any, rate: Any, positive: Any) -> Any:
    return positive * x if x > 0 else scale * mp.expm1(x * rate)


def _clip(x: Any, low: Any, high: Any) -> Any:
    return min(max(x, low), high)


def _round(x: Any) -> Any:
    return mp.nint(x)


def _tanh_gelu(x: Any) -> Any:
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


_SIMPLE: dict[str, Real] = {
    "Relu": lambda x: max(x, 0),
    "Abs": abs,
    "Neg": lambda x: -x,
    "Sigmoid": _sigmoid,
    "Tanh": mp.tanh,
    "Atan": mp.atan,
    "Asin": mp.asin,
    "Acos": mp.acos,
    "Erf": mp.erf,
    "Softplus": lambda x: mp.log1p(mp.exp(x)),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "HardSwish": lambda x: x * _clip(x / 6 + mp.mpf(1) / 2, 0, 1),
    "Exp": mp.exp,
    "Log": mp.log,
    "Sqrt": mp.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Sign": mp.sign,
    "Floor": mp.floor,
    "Ceil": mp.ceil,
    "Round": _round,
    "Sin": mp.sin,
    "Cos": mp.cos,
    "Tan": mp.tan,
    "Sinh": mp.sinh,
    "Cosh": mp.cosh,
    "Asinh": mp.asinh,
}


def _leaky(a: Mapping[str, Any]) -> Real:
    alpha = _mpf(a, "alpha", 0.009999999776482582)
    return lambda x: x if x >= 0 else alpha * x


def _thresholded(a: Mapping[str, Any]) -> Real:
    alpha = _mpf(a, "alpha", 1.0)
    return lambda x: x if x > alpha else mp.mpf(0)


def _elu(a: Mapping[str, Any]) -> Real:
    return lambda x: _exponential_unit(x, _mpf(a, "alpha", 1.0), mp.mpf(1), mp.mpf(1))


def _selu(a: Mapping[str, Any]) -> Real:
    alpha, gamma = _mpf(a, "alpha", 1.67326319217681884765625), _mpf(a, "gamma", 1.05070102214813232421875)
    return lambda x: _exponential_unit(x, alpha * gamma, mp.mpf(1), gamma)


def _celu(a: Mapping[str, Any]) -> Real:
    alpha = _mpf(a, "alpha", 1.0)
    return lambda x: _exponential_unit(x, alpha, 1 / alpha, mp.mpf(1))


def _gelu(a: Mapping[str, Any]) -> Real:
    return _tanh_gelu if a.get("approximate") == "tanh" else lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2


def _swish(a: Mapping[str, Any]) -> Real:
    return lambda x: x * _sigmoid(_mpf(a, "alpha", 1.0) * x)


def _hard_sigmoid(a: Mapping[str, Any]) -> Real:
    return lambda x: _clip(_mpf(a, "alpha", 0.20000000298023224) * x + _mpf(a, "beta", 0.5), 0, 1)


def _pow(a: Mapping[str, Any]) -> Real:
    p = a["exponent"]
    return lambda x: x ** (int(p) if float(p).is_integer() else mp.mpf(p))


def _limits(a: Mapping[str, Any]) -> Real:
    low, high = _mpf(a, "min", -math.inf), _mpf(a, "max", math.inf)
    return lambda x: _clip(x, low, high)


def _shrink(a: Mapping[str, Any]) -> Real:
    limit, bias = _mpf(a, "lambd", 0.5), _mpf(a, "bias", 0.0)
    return lambda x: x + bias if x < -limit else x - bias if x > limit else mp.mpf(0)


def _polynomial(coefficients: Any) -> Real:
    return lambda x: mp.polyval([mp.mpf(float(c)) for c in reversed(coefficients)], x)


def _rational(a: Mapping[str, Any]) -> Real:
    above, below = _polynomial(a["numerator"]), _polynomial(a["denominator"])
    if not a.get("safe", 1):
        return lambda x: above(x) / below(x)
    return lambda x: above(x) / (1 + abs(x * below(x)))


def _elephant(a: Mapping[str, Any]) -> Real:
    return lambda x: 1 / (1 + abs(x / _mpf(a, "a", 1.0)) ** _mpf(a, "d", 4.0))


def _cauchy(a: Mapping[str, Any]) -> Real:
    first, second, width = _mpf(a, "l1", 0.01), _mpf(a, "l2", 0.01), _mpf(a, "d", 1.0)
    return lambda x: (first * x + second) / (x * x + width * width)


def _tempered(a: Mapping[str, Any]) -> Real:
    scale, rate, offset = _mpf(a, "scale", 2.0), _mpf(a, "temperature", 2.0), _mpf(a, "offset", 1.0)
    return lambda x: scale * _sigmoid(rate * x) - offset


def _snake(a: Mapping[str, Any]) -> Real:
    rate = _mpf(a, "alpha", 1.0)
    return lambda x: x + mp.sin(rate * x) ** 2 / rate


def _gated(gate: Real) -> Callable[[Mapping[str, Any]], Real]:
    def build(a: Mapping[str, Any]) -> Real:
        alpha = _mpf(a, "alpha", 0.0)
        return lambda x: x * (gate(x) * (1 + 2 * alpha) - alpha)

    return build


def _b_spline(a: Mapping[str, Any]) -> Real:
    """By the recursion of Cox and de Boor at x itself."""
    knots, degree = [mp.mpf(k) for k in a["knots"]], a.get("degree", 3)
    coefficients, base = [mp.mpf(float(c)) for c in a["coefficients"]], _mpf(a, "base", 0.0)

    def value(x: Any) -> Any:
        basis = [mp.mpf(int(left <= x < right)) for left, right in zip(knots, knots[1:], strict=False)]
        for k in range(1, degree + 1):
            basis = [
                basis[i] * (x - knots[i]) / (knots[i + k] - knots[i])
                + basis[i + 1] * (knots[i + k + 1] - x) / (knots[i + k + 1] - knots[i + 1])
                for i in range(len(basis) - 1)
            ]
        return base * x * _sigmoid(x) + mp.fsum(c * b for c, b in zip(coefficients, basis, strict=True))

    return value


_SIMPLE.update(
    {
        # exp(-exp(40)) is below anything, and costs a lot.
        "Golu": lambda x: x * mp.exp(-mp.exp(-x)) if x > -40 else mp.mpf(0),
        "Gaussian": lambda x: mp.exp(-x * x),
        "Tanhshrink": lambda x: x - mp.tanh(x),
        "ReluSquared": lambda x: max(x, 0) ** 2,
        "Relu6": lambda x: _clip(x, 0, 6),
        "HardMish": lambda x: x * _clip(x + 2, 0, 2) / 2,
        "HardGelu": lambda x: x * _clip(x * mp.mpf("0.3125") + mp.mpf("0.5"), 0, 1),
    }
)
_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Real]] = {
    "LeakyRelu": _leaky,
    "ThresholdedRelu": _thresholded,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "Swish": _swish,
    "HardSigmoid": _hard_sigmoid,
    "Pow": _pow,
    "Clip": _limits,
    "HardTanh": lambda a: _limits({"min": a.get("min_val", -1.0), "max": a.get("max_val", 1.0)}),
    "Shrink": _shrink,
    "Polynomial": lambda a: _polynomial(a["coefficients"]),
    "Rational": _rational,
    "Elephant": _elephant,
    "Cauchy": _cauchy,
    "TemperedSigmoid": _tempered,
    "Snake": _snake,
    "Siren": lambda a: lambda x: mp.sin(_mpf(a, "w", 30.0) * x),
    "BSpline": _b_spline,
    "xGELU": _gated(lambda x: mp.erfc(-x / mp.sqrt(2)) / 2),
    "xSiLU": _gated(_sigmoid),
    "xATLU": _gated(lambda x: mp.atan(x) / mp.pi + mp.mpf(1) / 2),
}


def reference(onnx_op: str, attributes: Mapping[str, Any], entry: int = 0) -> Real:
    """The function in mpmath numbers; `entry` picks the channel of parameters that are tensors."""
    if onnx_op == "PRelu":
        slope = attributes["slope"].reshape(-1)
        return _leaky({"alpha": float(slope[entry % slope.numel()])})
    if onnx_op in _SIMPLE:
        return _SIMPLE[onnx_op]
    return _BUILDERS[onnx_op]({name: _channel(value, entry, name) for name, value in attributes.items()})


def _channel(value: Any, entry: int, name: str) -> Any:
    """A parameter's number for one channel; rows of coefficients by row."""
    if isinstance(value, tuple):
        return tuple(_channel(part, entry, "") for part in value)
    if not isinstance(value, Tensor):
        return value
    if name == "coefficients":
        return value.tolist() if value.dim() == 1 else value[entry % value.shape[0]].tolist()
    return float(value.reshape(-1)[entry % value.numel()])


def domain(onnx_op: str, attributes: Mapping[str, Any]) -> tuple[float, float]:
    """Where to sample: an interval on which the function is defined and moderate."""
    if onnx_op in ("Log", "Reciprocal"):
        return 1e-6, 1e6
    if onnx_op == "Sqrt":
        return 0.0, 1e6
    if onnx_op in ("Asin", "Acos"):
        return -1.0, 1.0
    if onnx_op == "Tan":
        return -1.57, 1.57
    if onnx_op in ("Exp", "Sinh", "Cosh"):
        return -80.0, 80.0
    if onnx_op == "Pow" and attributes["exponent"] < 0:
        return 1e-3, 1e3
    if onnx_op == "Polynomial":
        return -1e3, 1e3
    if onnx_op == "Pow":
        return (-1e3 if float(attributes["exponent"]).is_integer() else 0.0), 1e3
    return -1e6, 1e6


def inside(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """Values clamped into the sampling domain, with float32 rounding kept inside."""
    low, high = limits
    if x.dtype == torch.float32:
        low = float(torch.nextafter(torch.tensor(low), torch.tensor(math.inf))) if low not in (0.0, -1.0) else low
        high = float(torch.nextafter(torch.tensor(high), torch.tensor(-math.inf))) if high != 1.0 else high
    return x.clamp(low, high)
