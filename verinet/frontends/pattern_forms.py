"""The functions that exporters spell out, in normal form, and how their attributes are read off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verinet.frontends.pattern_algebra import (
    ONE,
    VARIABLE,
    Atom,
    Form,
    X,
    add,
    alike,
    clip,
    constant,
    function,
    multiply,
    reciprocal,
    scale,
)

GRID = torch.linspace(-60.0, 60.0, 2401, dtype=torch.float64)  # holds 0 and the integers
_ROUNDED = 1e-7
"""Float32 constants such as sqrt(2) and 1/6 are off by 3e-8, relative."""
_SAME = 1e-12
EXACT = 4e-16  # of a constant, relative: the two ways of rounding it to float64
_RISE, _FALL = Atom("Clip", VARIABLE, 0.0, math.inf), Atom("Clip", VARIABLE, -math.inf, 0.0)

Fit = Callable[[Form], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Known:
    """A function by its ONNX name, and its attributes where a form is that function up to `tolerance`.

    With `parts`, a spelling may have no other operators: what limits are multiplied by would round them. `form` is the
    function itself, where `fit` lets through what is only close to it.
    """

    op: str
    fit: Fit
    tolerance: float = _ROUNDED
    parts: frozenset[str] = frozenset()
    form: Form = ()

    def is_exact(self, found: Form) -> bool:
        """Whether a form that fits has the function's own constants, as far as float64 has them."""
        return not self.form or alike(found, self.form, EXACT)


def close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    """Equal up to `tolerance`, absolute near 0 and ten times that relative."""
    return bool(((left - right).abs() <= tolerance * (1 + 10 * right.abs())).all())


def _gelu() -> Form:
    inner = scale(VARIABLE, math.sqrt(0.5))
    return scale(multiply(VARIABLE, add(ONE, function("Erf", inner))), 0.5)


def _gelu_tanh() -> Form:
    cube = multiply(VARIABLE, multiply(VARIABLE, VARIABLE))
    inner = scale(add(VARIABLE, scale(cube, 0.044715)), math.sqrt(2 / math.pi))
    return scale(multiply(VARIABLE, add(ONE, function("Tanh", inner))), 0.5)


def _mish() -> Form:
    return multiply(VARIABLE, function("Tanh", function("Softplus", VARIABLE)))


def _mish_by_exp() -> Form:
    """tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2)."""
    e = function("Exp", VARIABLE)
    above = add(multiply(e, e), scale(e, 2.0))
    return multiply(multiply(VARIABLE, above), reciprocal(add(above, constant(2.0))))


def _softsign() -> Form:
    return multiply(VARIABLE, reciprocal(add(ONE, function("Abs", VARIABLE))))


def _hard_swish() -> Form:
    return scale(multiply(VARIABLE, clip(add(VARIABLE, constant(3.0)), 0.0, 6.0)), 1 / 6)


def _like(op: str, form: Form, **attributes: Any) -> Known:
    return Known(op, lambda found: dict(attributes) if alike(found, form, _ROUNDED) else None, form=form)


def _swish(found: Form) -> dict[str, Any] | None:
    """x sigmoid(alpha x)."""
    if len(found) != 1 or len(found[0][0]) != 2 or abs(found[0][1] - 1.0) > EXACT or X not in found[0][0]:
        return None
    gate = found[0][0][0] if found[0][0][1] == X else found[0][0][1]
    if gate.name != "Sigmoid" or len(gate.inner) != 1 or gate.inner[0][0] != (X,):
        return None
    return {"alpha": gate.inner[0][1]}


def _clip(found: Form) -> dict[str, Any] | None:
    if len(found) != 1 or found[0][1] != 1.0 or len(found[0][0]) != 1:
        return None
    atom = found[0][0][0]
    if atom.name != "Clip" or atom.inner != VARIABLE or not (math.isfinite(atom.low) and math.isfinite(atom.high)):
        return None
    return {"min": atom.low, "max": atom.high}


def _leaky(found: Form) -> dict[str, Any] | None:
    """Slope 1 above 0."""
    terms = dict(found)
    both, above, below = terms.pop((X,), 0.0), terms.pop((_RISE,), 0.0), terms.pop((_FALL,), 0.0)
    if terms or not (above or below) or abs(both + above - 1.0) > EXACT:
        return None
    return {"alpha": both + below}


KNOWN: tuple[Known, ...] = (
    _like("Gelu", _gelu()),
    _like("Gelu", _gelu_tanh(), approximate="tanh"),
    _like("Mish", _mish()),
    _like("Mish", _mish_by_exp()),
    Known("Swish", _swish),
    _like("Sigmoid", function("Sigmoid", VARIABLE)),
    _like("Softplus", function("Softplus", VARIABLE)),
    _like("Softsign", _softsign()),
    _like("HardSwish", _hard_swish()),
    Known("Clip", _clip, _SAME, frozenset(("Relu", "Clip", "Max", "Min", "Identity", "Cast"))),
    Known("LeakyRelu", _leaky, _SAME),
)
