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
}


def reference(onnx_op: str, attributes: Mapping[str, Any], entry: int = 0) -> Real:
    """The function in mpmath numbers; `entry` picks the channel of PRelu."""
    if onnx_op == "PRelu":
        slope = attributes["slope"].reshape(-1)
        return _leaky({"alpha": float(slope[entry % slope.numel()])})
    if onnx_op in _SIMPLE:
        return _SIMPLE[onnx_op]
    return _BUILDERS[onnx_op](attributes)


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
