"""Numbers of an integer type as real numbers: the identity, as long as the type can hold them.

Arithmetic of integers wraps around (or saturates) where it leaves its type. Our graph computes with real numbers, which
is the same exactly as long as every result fits. So such a result passes through this function, whose domain is what
the type holds: bounds that leave it are refused, like those of a logarithm that reach 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinet.ops.scalar_function import ScalarFunction

_BETWEEN = 0.5  # a real result is an integer here, so this much beyond the last one is rounding only
_EXACT = 2.0**53


class IntegerRange(ScalarFunction):
    """The identity on the numbers of an integer type."""


def integer_range(dtype: np.dtype[Any], place: str) -> IntegerRange:
    """x for the integers of `dtype`, NaN elsewhere; `place` names the node in messages."""
    limits = np.iinfo(dtype)
    low, high = (_inside(float(end), sign) for end, sign in ((limits.min, -1), (limits.max, 1)))

    def value(x: Tensor) -> Tensor:
        return torch.where((x >= low) & (x <= high), x, torch.nan)

    return IntegerRange(
        name=f"the integer type {dtype.name} at {place}",
        value=value,
        slope=torch.ones_like,
        slope_range=(1.0, 1.0),
        domain=(low, high),
        error_ulps=0.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


def _inside(end: float, sign: int) -> float:
    """Where the domain ends: half a step beyond the last integer, or well within it where floats are further apart."""
    return end + sign * _BETWEEN if abs(end) < _EXACT else end - sign * abs(end) * 2.0**-24
