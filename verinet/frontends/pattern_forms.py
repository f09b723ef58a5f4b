"""The functions that patterns are compared with, and how their attributes are read off the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GRID = torch.linspace(-60.0, 60.0, 2401, dtype=torch.float64)  # holds 0 and the integers
_ROUNDED = 1e-7
"""Float32 constants such as sqrt(2) and 1/6 are off by 3e-8, relative."""
_SAME = 1e-12

Fit = Callable[[Tensor], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Form:
    """A function by its ONNX name, operators that a spelling of it contains, and a guess of its attributes."""

    op: str
    needs: frozenset[str]
    fit: Fit
    tolerance: float = _ROUNDED


def close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    """Equal up to `tolerance`, absolute near 0 and ten times that relative."""
    return bool(((left - right).abs() <= tolerance * (1 + 10 * right.abs())).all())


def _at(values: Tensor, x: float) -> float:
    return float(values[int((GRID - x).abs().argmin())])


def _plain(values: Tensor) -> dict[str, Any] | None:
    return {}


def _tanh(values: Tensor) -> dict[str, Any] | None:
    return {"approximate": "tanh"}


def _swish(values: Tensor) -> dict[str, Any] | None:
    """f(1) = sigmoid(alpha)."""
    at_one = _at(values, 1.0)
    if not 0 < at_one < 1:
        return None
    return {"alpha": round(math.log(at_one / (1 - at_one)), 12)}


def _clip(values: Tensor) -> dict[str, Any] | None:
    return {"min": float(values[0]), "max": float(values[-1])}


def _leaky(values: Tensor) -> dict[str, Any] | None:
    return {"alpha": -_at(values, -1.0)}


def _forms(op: str, fit: Fit, spellings: Sequence[str], tolerance: float = _ROUNDED) -> list[Form]:
    return [Form(op, frozenset(spelling.split()), fit, tolerance) for spelling in spellings]


FORMS: tuple[Form, ...] = (
    *_forms("Gelu", _plain, ["Erf Mul"]),
    *_forms("Gelu", _tanh, ["Tanh Mul"]),
    *_forms("Mish", _plain, ["Tanh Softplus Mul", "Tanh Exp Log Mul", "Exp Div"]),
    *_forms("Swish", _swish, ["Sigmoid Mul", "Exp Div", "Exp Reciprocal Mul"]),
    *_forms("Sigmoid", _plain, ["Exp Div", "Exp Reciprocal"]),
    *_forms("Softplus", _plain, ["Exp Log"]),
    *_forms("Softsign", _plain, ["Abs Div"]),
    *_forms("HardSwish", _plain, ["HardSigmoid Mul", "Clip Mul", "Relu Min Mul"]),
    *_forms("Clip", _clip, ["Relu Min", "Relu Clip", "Max Min"], _SAME),
    *_forms("LeakyRelu", _leaky, ["Max Mul", "Min Mul", "Relu Sub", "Relu Add", "Where Mul", "Where Greater"], _SAME),
)
