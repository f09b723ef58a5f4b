"""Decimal text to float64, with the side on which the rounded value lies decided exactly.

A written number c is kept as the pair (down, up): the largest float64 <= c and the smallest float64 >= c. The two are
equal exactly when c is a float64. Every float64 x then satisfies `x <= c` iff `x <= down`, and `x >= c` iff `x >= up`.
"""

from __future__ import annotations

import math
import re
import sys
from fractions import Fraction

DECIMAL = re.compile(r"([+-]?)(?:(\d+)\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d{1,9}))?", re.ASCII)

# float64 ends at 1.8e308 and at 4.9e-324; longer exponents would only cost time and memory in exact arithmetic.
_LARGEST_EXPONENT = 4000
_LONGEST_TOKEN = 4000
_POWERS = tuple(10**k for k in range(64))


def _ten_to(power: int) -> int:
    return _POWERS[power] if power < len(_POWERS) else int(10**power)


def parse_decimal(token: str) -> tuple[int, int] | None:
    """`token` as (m, k) with value m * 10**-k, or None when it is no decimal number that float64 can enclose."""
    match = DECIMAL.fullmatch(token)
    if match is None or len(token) > _LONGEST_TOKEN:
        return None
    sign, whole, after, bare, exponent = match.groups()
    fraction = after or bare or ""
    mantissa = int((whole or "") + fraction)
    shift = len(fraction) - int(exponent or 0)
    if abs(shift) > _LARGEST_EXPONENT:
        return None
    return (-mantissa if sign == "-" else mantissa), shift


def exact(token: str) -> Fraction | None:
    """The exact value of a decimal, or None when `token` is no number."""
    parts = parse_decimal(token)
    if parts is None:
        return None
    mantissa, shift = parts
    return Fraction(mantissa, _ten_to(shift)) if shift >= 0 else Fraction(mantissa * _ten_to(-shift))


def enclose_decimal(token: str) -> tuple[float, float] | None:
    """(down, up) of a decimal, or None when `token` is no number or lies outside the range of float64."""
    parts = parse_decimal(token)
    if parts is None:
        return None
    mantissa, shift = parts
    nearest = float(token)
    if abs(nearest) >= sys.float_info.max:  # its neighbour would be infinite
        return None
    numerator, denominator = nearest.as_integer_ratio()
    written, rounded = mantissa * denominator, numerator
    if shift >= 0:
        rounded *= _ten_to(shift)
    else:
        written *= _ten_to(-shift)
    return _pair(nearest, written, rounded)


def enclose(value: Fraction) -> tuple[float, float]:
    """(down, up) of a rational. Raises OverflowError outside the range of float64."""
    nearest = value.numerator / value.denominator  # int / int is rounded correctly
    if abs(nearest) >= sys.float_info.max:
        raise OverflowError("outside the range of float64")
    numerator, denominator = nearest.as_integer_ratio()
    return _pair(nearest, value.numerator * denominator, numerator * value.denominator)


def _pair(nearest: float, written: int, rounded: int) -> tuple[float, float]:
    """The float64 neighbours, given the order of the written and the rounded value on a common scale."""
    if written == rounded:
        value = nearest + 0.0  # turns -0.0 into 0.0
        return value, value
    if written < rounded:
        return math.nextafter(nearest, -math.inf), nearest
    return nearest, math.nextafter(nearest, math.inf)
