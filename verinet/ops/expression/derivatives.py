"""Values and derivatives up to the third of smooth functions of one variable, with the size of their rounding errors.

Every entry gives, at floats x, pairs (value, size): the true derivative differs from `value` by at most ULPS units of
`size`, the sum of the absolute terms behind it. Between neighbouring `turns` each of the derivatives is monotone, so
its range over an interval is spanned by the ends and the turns inside (checked against mpmath by a test).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verinet.ops.expression.intervals import Array

ULPS = 24.0
"""Roundings behind one derivative: library functions are good to 4 units, and no formula has more than ten steps."""

Pair = tuple[Array, Array]
Derivatives = Callable[[Array], tuple[Pair, Pair, Pair, Pair]]


@dataclass(frozen=True)
class Smooth:
    """One function. `exact_at_zero`: its float value at 0 is exact, which shows that branches meet there."""

    derivatives: Derivatives
    turns: tuple[float, ...] = ()
    domain: tuple[float, float] = (-math.inf, math.inf)
    open_ends: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    slope_bounds: tuple[float, float] = (-math.inf, math.inf)
    exact_at_zero: bool = False


def own(value: Array) -> Pair:
    return value, np.abs(value)


def _exp(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    e = own(np.exp(x))
    return e, e, e, e


def _log(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    r = 1 / x
    return own(np.log(x)), own(r), own(-r * r), own(2 * r * r * r)


def _sigmoid_parts(x: Array) -> tuple[Array, Array]:
    """s(x) and s(-x), each with its relative accuracy."""
    small = np.exp(-np.abs(x))
    near, far = 1 / (1 + small), small / (1 + small)
    return np.where(x >= 0, near, far), np.where(x >= 0, far, near)


def _sigmoid(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    s, c = _sigmoid_parts(x)
    p = s * c
    return own(s), own(p), (p * (c - s), p), (p * (1 - 6 * p), p)


def _tanh(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    s, c = _sigmoid_parts(2 * x)
    p, t = 4 * s * c, np.tanh(x)
    return own(t), own(p), own(-2 * t * p), (p * (6 * t * t - 2), 8 * p)


def _softplus(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    s, first, second, _ = _sigmoid(x)
    value = np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)
    return own(value), s, first, second


def _erf(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    import torch

    square = np.minimum(x * x, 1e300)
    value = torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    # The rounding of x * x costs x * x units.
    e = 2 / math.sqrt(math.pi) * np.exp(-square)
    size = e * (1 + square / 8)
    x = np.clip(x, -1e100, 1e100)
    return own(value), (e, size), (-2 * x * e, 2 * np.abs(x) * size), ((4 * square - 2) * e, (4 * square + 2) * size)


def _gelu(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    """x Phi(x) with erfc, which keeps the left tail."""
    import torch

    square = np.minimum(x * x, 1e300)
    phi = np.exp(-0.5 * square) / math.sqrt(2 * math.pi)
    size = phi * (1 + square / 16)
    scaled = torch.from_numpy(np.ascontiguousarray(x * -math.sqrt(0.5)))
    whole = 0.5 * torch.special.erfc(scaled).numpy()
    # A rounded argument t costs t exp(-t t), that is |x| phi, in units.
    spread = whole + np.minimum(np.abs(x), 1e100) * size
    x = np.clip(x, -1e100, 1e100)
    cube = x * x * x
    value = x * whole, np.abs(x) * spread
    return (
        value,
        (whole + x * phi, spread + np.abs(x) * size),
        ((2 - x * x) * phi, (2 + x * x) * size),
        ((cube - 4 * x) * phi, np.abs(cube) * size + 4 * np.abs(x) * size),
    )


def _atan(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    d = 1 / (1 + x * x)
    x = np.clip(x, -1e100, 1e100)
    return own(np.arctan(x)), own(d), own(-2 * x * d * d), ((6 * x * x - 2) * d * d * d, (6 * x * x + 2) * d * d * d)


def _asin(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    d = (1 - x) * (1 + x)
    r = 1 / np.sqrt(d)
    return own(np.arcsin(x)), own(r), own(x * r / d), own((1 + 2 * x * x) * r / (d * d))


def _acos(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    _, first, second, third = _asin(x)
    return own(np.arccos(x)), own(-first[0]), own(-second[0]), own(-third[0])


def _sinh(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    s, c = own(np.sinh(x)), own(np.cosh(x))
    return s, c, s, c


def _cosh(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    s, c = own(np.sinh(x)), own(np.cosh(x))
    return c, s, c, s


def _asinh(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
    value, x = np.arcsinh(x), np.clip(x, -1e75, 1e75)
    d = 1 / (1 + x * x)
    r = np.sqrt(d)
    return own(value), own(r), own(-x * d * r), ((2 * x * x - 1) * d * d * r, (2 * x * x + 1) * d * d * r)


def power(exponent: float) -> Smooth:
    """x to a constant power: monotone derivatives on either side of 0."""
    whole = float(exponent).is_integer()

    def derivative(x: Array, order: int) -> Pair:
        factor = math.prod(exponent - k for k in range(order))
        value = factor * np.power(x, exponent - order) if factor else np.zeros_like(x)
        # A rounded exponent p - k would cost |ln x| units more; floats of moderate p lose nothing there.
        return value, np.abs(value) * (1 + (0.0 if whole else np.abs(np.log(np.abs(x) + 1e-300)) / 16))

    def derivatives(x: Array) -> tuple[Pair, Pair, Pair, Pair]:
        return derivative(x, 0), derivative(x, 1), derivative(x, 2), derivative(x, 3)

    low = -math.inf if whole else 0.0
    positive = not whole or exponent % 2 == 0
    return Smooth(
        derivatives,
        turns=(0.0,) if whole and exponent > 0 else (),
        domain=(low, math.inf),
        open_ends=exponent < 0,
        bounds=(0.0 if positive else -math.inf, math.inf),
        exact_at_zero=exponent > 0,
    )


_TANH2, _TANH3 = math.atanh(1 / math.sqrt(3)), math.atanh(math.sqrt(2 / 3))
_ROOT, _ROOT3 = math.sqrt(0.5), math.sqrt(1.5)

_GELU = (math.sqrt(3.5 - math.sqrt(8.25)), math.sqrt(2), 2.0, math.sqrt(3.5 + math.sqrt(8.25)))

SMOOTH: dict[str, Smooth] = {
    "Exp": Smooth(_exp, bounds=(0.0, math.inf), slope_bounds=(0.0, math.inf), exact_at_zero=True),
    "Log": Smooth(_log, domain=(0.0, math.inf), open_ends=True, slope_bounds=(0.0, math.inf)),
    "Sigmoid": Smooth(
        _sigmoid,
        (-2 * _TANH3, -2 * _TANH2, 0.0, 2 * _TANH2, 2 * _TANH3),
        bounds=(0.0, 1.0),
        slope_bounds=(0.0, 0.25),
        exact_at_zero=True,
    ),
    "Tanh": Smooth(
        _tanh,
        (-_TANH3, -_TANH2, 0.0, _TANH2, _TANH3),
        bounds=(-1.0, 1.0),
        slope_bounds=(0.0, 1.0),
        exact_at_zero=True,
    ),
    "Softplus": Smooth(_softplus, (-2 * _TANH2, 0.0, 2 * _TANH2), bounds=(0.0, math.inf), slope_bounds=(0.0, 1.0)),
    "Erf": Smooth(
        _erf,
        (-_ROOT3, -_ROOT, 0.0, _ROOT, _ROOT3),
        bounds=(-1.0, 1.0),
        slope_bounds=(0.0, math.inf),
        exact_at_zero=True,
    ),
    "Atan": Smooth(
        _atan, (-1.0, -1 / math.sqrt(3), 0.0, 1 / math.sqrt(3), 1.0), slope_bounds=(0.0, 1.0), exact_at_zero=True
    ),
    "Asin": Smooth(_asin, (0.0,), domain=(-1.0, 1.0), exact_at_zero=True),
    "Acos": Smooth(_acos, (0.0,), domain=(-1.0, 1.0)),
    "Sinh": Smooth(_sinh, (0.0,), exact_at_zero=True),
    "Cosh": Smooth(_cosh, (0.0,), bounds=(1.0, math.inf), exact_at_zero=True),
    "Asinh": Smooth(_asinh, (-_ROOT3, -_ROOT, 0.0, _ROOT, _ROOT3), slope_bounds=(0.0, 1.0), exact_at_zero=True),
    "Gelu": Smooth(_gelu, (*(-t for t in _GELU[::-1]), -0.7517915246935645, 0.0, *_GELU), exact_at_zero=True),
    "Sqrt": power(0.5),
    "Reciprocal": power(-1.0),
}
