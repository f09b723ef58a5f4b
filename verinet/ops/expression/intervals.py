"""Interval arithmetic on arrays, rounded outward by a relative amount instead of switching rounding modes.

With `eps` that of float32 the enclosures also contain what float32 arithmetic computes, so the same code decides where
a float32 evaluation takes which branch. Results that are exactly zero stay so: signs at exact points survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Interval = tuple[Array, Array]

LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True)
class Arithmetic:
    """Operations on intervals (lower, upper). `eps` is one unit in the last place, `tiny` covers underflow."""

    eps: float
    tiny: float
    largest: float = float(LARGEST)

    def outward(self, low: Array, high: Array) -> Interval:
        """One unit further out. A lower end is never +inf: overflow means "at least the largest number"."""
        low = low - self.eps * np.abs(low)
        high = high + self.eps * np.abs(high)
        low = np.where(np.abs(low) > self.largest, np.where(low > 0, self.largest, -np.inf), low)
        high = np.where(np.abs(high) > self.largest, np.where(high > 0, np.inf, -self.largest), high)
        return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)

    def constant(self, value: Array) -> Interval:
        """A number and what the working precision makes of it."""
        if self.eps < 1e-12:
            return value, value
        pad = np.where(value.astype(np.float32).astype(np.float64) == value, 0.0, np.abs(value) * self.eps)
        return value - pad, value + pad

    def rounded(self, value: Array) -> Array:
        """The nearest numbers of the working precision."""
        return value if self.eps < 1e-12 else value.astype(np.float32).astype(np.float64)

    def add(self, a: Interval, b: Interval) -> Interval:
        # A sum of two floats is zero only if it is exact, so no absolute slack is needed.
        return self.outward(a[0] + b[0], a[1] + b[1])

    def mul(self, a: Interval, b: Interval) -> Interval:
        products = [_product(x, y) for x in a for y in b]
        low = np.minimum(np.minimum(products[0], products[1]), np.minimum(products[2], products[3]))
        high = np.maximum(np.maximum(products[0], products[1]), np.maximum(products[2], products[3]))
        small = 2 * self.tiny
        if bool(np.any((np.abs(low) < small) | (np.abs(high) < small))):
            low, high = self._underflow(a, b, low, high)
        return self.outward(low, high)

    def _underflow(self, a: Interval, b: Interval, low: Array, high: Array) -> Interval:
        """Products below the normal range have an absolute error, unless they are zero because a factor is."""
        nothing = ((a[0] == 0) & (a[1] == 0)) | ((b[0] == 0) & (b[1] == 0))
        positive = ((a[0] >= 0) & (b[0] >= 0)) | ((a[1] <= 0) & (b[1] <= 0))
        negative = ((a[0] >= 0) & (b[1] <= 0)) | ((a[1] <= 0) & (b[0] >= 0))
        small = 2 * self.tiny
        low = np.where((np.abs(low) < small) & ~nothing & ~positive, low - self.tiny, low)
        low = np.where((np.abs(low) < small) & positive, np.zeros_like(low), low)
        high = np.where((np.abs(high) < small) & ~nothing & ~negative, high + self.tiny, high)
        return low, np.where((np.abs(high) < small) & negative, np.zeros_like(high), high)

    def scale(self, a: Interval, factor: float) -> Interval:
        number = np.asarray(factor, dtype=np.float64)
        return self.mul(a, (number, number))

    def square(self, a: Interval) -> Interval:
        low = np.where((a[0] <= 0) & (a[1] >= 0), 0.0, np.minimum(np.abs(a[0]), np.abs(a[1])))
        high = np.maximum(np.abs(a[0]), np.abs(a[1]))
        return self.mul((low, high), (low, high))


F64 = Arithmetic(2.0**-52, 1e-300)
F32 = Arithmetic(2.0**-23, 1e-37, float(np.finfo(np.float32).max))


def _product(x: Array, y: Array) -> Array:
    """0 times infinity is 0: infinite ends stand for finite numbers of unknown size."""
    found = x * y
    return np.where(np.isnan(found), 0.0, found)


def neg(a: Interval) -> Interval:
    return -a[1], -a[0]


def hull(a: Interval, b: Interval) -> Interval:
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def meet(a: Interval, b: Interval) -> Interval:
    """Intersection of two enclosures of the same numbers."""
    return np.maximum(a[0], b[0]), np.minimum(a[1], b[1])


def magnitude(a: Interval) -> Array:
    found: Array = np.maximum(np.abs(a[0]), np.abs(a[1]))
    return found


def everything(like: Any) -> Interval:
    shape = np.shape(like)
    return np.full(shape, -np.inf), np.full(shape, np.inf)


def number(value: float) -> Interval:
    point = np.asarray(value, dtype=np.float64)
    return point, point
