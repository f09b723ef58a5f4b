"""Input boxes made in Python, from float64 values that count as exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verinet.errors import PropertyError
from verinet.spec.property import Box


def box(lower: npt.ArrayLike, upper: npt.ArrayLike) -> Box:
    """The box `lower <= x <= upper`; arrays of any shape, flattened in C order. Raises PropertyError."""
    low, high = np.array(lower, dtype=np.float64).ravel(), np.array(upper, dtype=np.float64).ravel()
    if low.shape != high.shape:
        raise PropertyError(f"the box has {low.size} lower bounds, but {high.size} upper bounds")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise PropertyError("a bound of the box is not finite", hint="every input needs a lower and an upper bound")
    return Box(low, high, low, high)


def linf_ball(center: npt.ArrayLike, radius: float, clip: tuple[float, float] | None = None) -> Box:
    """All x with |x - center| <= radius in every input, cut to `clip` = (smallest, largest) where given.

    `radius` is in the units of `center`. `center + radius` may be no float64: the outer sides then enclose the ball and
    the inner sides lie in it. Raises PropertyError.
    """
    middle = np.array(center, dtype=np.float64).ravel()
    if not (np.isfinite(middle).all() and np.isfinite(radius) and radius >= 0):
        raise PropertyError(f"the ball needs a finite centre and a radius >= 0, not {radius}")
    low, inner_low = _shift(middle, -radius)
    inner_high, high = _shift(middle, radius)
    if clip is not None:
        smallest, largest = clip
        low, inner_low = np.maximum(low, smallest), np.maximum(inner_low, smallest)
        high, inner_high = np.minimum(high, largest), np.minimum(inner_high, largest)
    return Box(low, high, inner_low, inner_high)


def _shift(middle: npt.NDArray[np.float64], by: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The float64 neighbours of middle + by. The rounding error is computed exactly (Knuth 1969, TwoSum)."""
    total = middle + by
    part = total - middle
    error = (middle - (total - part)) + (by - part)
    down = np.where(error < 0, np.nextafter(total, -np.inf), total)
    up = np.where(error > 0, np.nextafter(total, np.inf), total)
    return down, up
