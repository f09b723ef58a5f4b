"""Splines of Kolmogorov-Arnold networks: piecewise polynomials, from local coefficients or from those of B-splines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from verinet.errors import UsageError
from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction

Polynomial = list[Fraction]


def piecewise(knots: Sequence[float], start: Any, pieces: Sequence[Sequence[Any]], base: Any = 0.0) -> ScalarFunction:
    """base * silu(x) + a continuous piecewise polynomial that is constant outside the knots.

    Between knots j and j + 1 it is its value at knot j plus sum_m pieces[j][m] (x - knots[j])^(m + 1). `start` is the
    value at the first knot. Numbers, or tensors with one entry per channel.
    """
    if len(pieces) != len(knots) - 1 or any(b <= a for a, b in zip(knots, knots[1:], strict=False)):
        raise UsageError("a piecewise polynomial needs increasing knots and one polynomial between each two")
    names: dict[str, Any] = {"start": start, "base": base}
    terms = ["start"]
    for j, coefficients in enumerate(pieces):
        low, high = float(knots[j]), float(knots[j + 1])
        inner = f"(clip(x, {low!r}, {high!r}) - {low!r})"
        text = ""
        for m in range(len(coefficients) - 1, -1, -1):
            name = f"c{j}_{m}"
            names[name] = coefficients[m]
            text = f"({name} + {text}) * {inner}" if text else f"{name} * {inner}"
        terms.append(text)
    if not torch.equal(torch.as_tensor(base, dtype=torch.float64), torch.zeros((), dtype=torch.float64)):
        terms.append("base * x * sigmoid(x)")
    else:
        del names["base"]
    return from_expression("Spline", " + ".join(terms), **names)


def b_spline(knots: Sequence[float], coefficients: Tensor, degree: int, base: Any = 0.0) -> ScalarFunction:
    """base * silu(x) + sum_i c_i B_i(x), with the B-splines of a degree >= 1 on increasing knots.

    `coefficients` is (splines,) or (channels, splines) with splines = len(knots) - degree - 1. The local polynomials
    are found in rational arithmetic; what rounding them to floats changes is charged (`deviation`).
    """
    table = torch.as_tensor(coefficients, dtype=torch.float64)
    rows = table.reshape(-1, table.shape[-1])
    if degree < 1 or rows.shape[1] != len(knots) - degree - 1:
        raise UsageError(f"{len(knots)} knots and degree {degree} need {len(knots) - degree - 1} coefficients")
    exact = [_locals([Fraction(k) for k in knots], [Fraction(c) for c in row], degree) for row in rows.tolist()]
    width = len(knots) - 1
    numbers = [
        [[float(row[j][m]) if m < len(row[j]) else 0.0 for row in exact] for m in range(1, degree + 1)]
        for j in range(width)
    ]
    deviation = max(_rounding(knots, row, [[n[c] for n in piece] for piece in numbers]) for c, row in enumerate(exact))
    pieces = [[torch.tensor(n, dtype=torch.float64) if table.dim() > 1 else n[0] for n in piece] for piece in numbers]
    found = piecewise(knots, 0.0, pieces, base)
    return replace(found, deviation=deviation) if deviation else found


def _locals(knots: list[Fraction], coefficients: list[Fraction], degree: int) -> list[Polynomial]:
    """Per interval the polynomial in (x - its left knot), by the recursion of Cox and de Boor."""
    result = []
    for j in range(len(knots) - 1):
        basis = [[Fraction(int(i == j))] for i in range(len(knots) - 1)]
        for k in range(1, degree + 1):
            basis = [
                _sum(
                    _times(basis[i], knots[j] - knots[i], Fraction(1), knots[i + k] - knots[i]),
                    _times(basis[i + 1], knots[i + k + 1] - knots[j], Fraction(-1), knots[i + k + 1] - knots[i + 1]),
                )
                for i in range(len(basis) - 1)
            ]
        total: Polynomial = [Fraction(0)]
        for c, b in zip(coefficients, basis, strict=True):
            total = _sum(total, [c * value for value in b])
        result.append(total)
    return result


def _times(polynomial: Polynomial, constant: Fraction, linear: Fraction, divisor: Fraction) -> Polynomial:
    """polynomial * (constant + linear s) / divisor."""
    if not any(polynomial):
        return [Fraction(0)]
    found = [Fraction(0)] * (len(polynomial) + 1)
    for i, value in enumerate(polynomial):
        found[i] += value * constant / divisor
        found[i + 1] += value * linear / divisor
    return found


def _sum(left: Polynomial, right: Polynomial) -> Polynomial:
    size = max(len(left), len(right))
    pad = [*left, *[Fraction(0)] * (size - len(left))], [*right, *[Fraction(0)] * (size - len(right))]
    return [a + b for a, b in zip(*pad, strict=True)]


def _rounding(knots: Sequence[float], exact: Sequence[Polynomial], numbers: Sequence[Sequence[float]]) -> float:
    """How far the function with rounded coefficients may be from the exact one: the errors of all intervals add up."""
    total = Fraction(0)
    for j, polynomial in enumerate(exact):
        width = Fraction(knots[j + 1]) - Fraction(knots[j])
        for m, number in enumerate(numbers[j], start=1):
            value = polynomial[m] if m < len(polynomial) else Fraction(0)
            total += abs(Fraction(number) - value) * width**m
    return float(total) * (1 + 1e-9)


def _spline(attributes: Attributes) -> ScalarFunction | None:
    """Attributes "knots", "coefficients", "degree" and "base", the factor of the SiLU beside the spline."""
    if "knots" not in attributes or "coefficients" not in attributes:
        return None
    return b_spline(
        attributes["knots"], attributes["coefficients"], int(attributes.get("degree", 3)), attributes.get("base", 0.0)
    )


_KNOTS = tuple(-1.75 + 0.25 * i for i in range(15))
_ROWS = torch.sin(torch.arange(33, dtype=torch.float64).reshape(3, 11) * 2.0)
register(
    "BSpline",
    _spline,
    (
        {"knots": _KNOTS, "coefficients": _ROWS[0], "base": 0.5},
        {"knots": _KNOTS, "coefficients": _ROWS},
        {"knots": (-1.0, -0.3, 0.2, 1.0), "coefficients": torch.tensor([0.7, -0.4]), "degree": 1},
    ),
)
