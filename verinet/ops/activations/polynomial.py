"""Polynomial units sum_i c_i x^i with given coefficients, and rational (Pade) units P(x) / Q(x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _horner(names: Sequence[str]) -> str:
    text = names[-1]
    for name in reversed(names[:-1]):
        text = f"({text}) * x + {name}"
    return text


def _named(letter: str, coefficients: Sequence[Any]) -> dict[str, Any]:
    return {f"{letter}{i}": c for i, c in enumerate(coefficients)}


def _polynomial(attributes: Attributes) -> ScalarFunction | None:
    """`coefficients` from the constant term upward; each may be a number, or a tensor with one entry per channel."""
    given = attributes.get("coefficients")
    if given is None or len(given) < 2:
        return None
    names = _named("c", given)
    return from_expression("Polynomial", _horner(list(names)), **names)


def _rational(attributes: Attributes) -> ScalarFunction | None:
    """P(x) / (1 + |x Q(x)|), the safe form of Molina et al. 2020; with `safe` 0 P / Q, where Q has no zero."""
    upper, lower = attributes.get("numerator"), attributes.get("denominator")
    if not upper or not lower:
        return None
    names = {**_named("p", upper), **_named("q", lower)}
    above, below = _horner([n for n in names if n[0] == "p"]), _horner([n for n in names if n[0] == "q"])
    whole = f"1 + abs(x * ({below}))" if attributes.get("safe", 1) else below
    return from_expression("Rational", f"({above}) / ({whole})", **names)


_CHANNELS = torch.tensor([0.1, -0.2, 0.3, 0.0, 1.0])
register(
    "Polynomial",
    _polynomial,
    (
        {"coefficients": (0.25, 0.5, 0.125)},
        {"coefficients": (0.0, 1.0, -0.5, 0.1, 0.05)},
        {"coefficients": (_CHANNELS, 1.0, -0.5, _CHANNELS)},
    ),
)
register(
    "Rational",
    _rational,
    (
        # The published fit of LeakyReLU (Molina et al. 2020, degrees 5 and 4).
        {
            "numerator": (0.02996348, 0.61690165, 2.37539147, 3.06608078, 1.52474449, 0.25281987),
            "denominator": (1.19160814, 4.40811795, 0.91111034, 0.34885983),
        },
        {"numerator": (1.0, 0.5, 0.25), "denominator": (2.0, 0.0, 1.0), "safe": 0},
    ),
)
