"""Random expressions of one variable as texts, and their values in high precision by Python's own evaluation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]

_UNARY = (
    "exp(-abs({}))",
    "sin({})",
    "cos({})",
    "tanh({})",
    "sigmoid({})",
    "erf({})",
    "relu({})",
    "abs({})",
    "softplus({})",
    "atan({})",
    "asinh({})",
    "sqrt(1 + ({})**2)",
    "1 / (2 + abs({}))",
    "log(1.5 + abs({}))",
    "({})**2",
    "({})**3",
    "clip({}, -0.75, 1.25)",
    "gelu({})",
    "exp(-({})**2)",
    "sqrt(abs({}))",
    "abs({})**1.5",
    "acos(0.99 * clip({}, -1, 1))",
)
_BINARY = ("({}) + ({})", "({}) - ({})", "({}) * ({})", "max({}, {})", "min({}, {})", "where(({}) > ({}), {}, {})")
_NUMBERS = ("0.5", "2", "-1.5", "0.3", "1", "3", "-0.25", "1.7")

NAMES: dict[str, Callable[..., Any]] = {
    "exp": mp.exp,
    "sin": mp.sin,
    "cos": mp.cos,
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "erf": mp.erf,
    "relu": lambda x: max(x, mp.mpf(0)),
    "abs": abs,
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "atan": mp.atan,
    "asinh": mp.asinh,
    "sqrt": mp.sqrt,
    "log": mp.log,
    "clip": lambda x, low, high: min(max(x, low), high),
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "max": max,
    "min": min,
    "where": lambda test, yes, no: yes if test else no,
    "sign": mp.sign,
    "acos": mp.acos,
}


def expression(seed: int, depth: int = 3) -> str:
    """A text that depends on x; for equal seeds the same one."""
    draw = random.Random(seed)

    def grow(left: int) -> str:
        if left == 0 or draw.random() < 0.1:
            return draw.choice(("x", "x", "x", "0.7 * x", "x + 0.3", "2 - x", draw.choice(_NUMBERS)))
        form = draw.choice(_UNARY) if draw.random() < 0.55 else draw.choice(_BINARY)
        return form.format(*(grow(left - 1) for _ in range(form.count("{}"))))

    while True:
        text = grow(depth)
        if "x" in text.replace("exp", "").replace("max", "") and text not in ("x", "(x)"):
            return text


def exact(text: str) -> Callable[[Any], Any]:
    """The function of a text in mpmath numbers."""
    code = compile(text, "expression", "eval")
    return lambda x: mp.mpf(eval(code, {"__builtins__": {}}, {**NAMES, "x": x}))
