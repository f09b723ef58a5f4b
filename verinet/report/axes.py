"""Axes of the plots: from values to places in a drawing, with ticks at round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight (`log=False`) or logarithmic axis from `low` to `high`, drawn from `start` to `stop` (pixels)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Place of a value; values outside, infinite ones too, land on the nearest end."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self) -> list[float]:
        """Round values on the axis, about five of them."""
        return _powers(self.low, self.high) if self.log else _multiples(self.low, self.high)


def straight(values: list[float], start: float, stop: float) -> Axis:
    """From 0 to the largest value."""
    top = max((v for v in values if math.isfinite(v)), default=1.0)
    return Axis(0.0, top if top > 0 else 1.0, start, stop)


def logarithmic(values: list[float], start: float, stop: float, floor: float = 0.0) -> Axis:
    """Over the positive finite values, from the power of ten below to the one above; at least from `floor`."""
    good = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    low = 10.0 ** math.floor(math.log10(max(min(good), floor or min(good))))
    high = 10.0 ** math.ceil(math.log10(max(good)))
    return Axis(low, high if high > low else low * 10, start, stop, log=True)


def label(value: float) -> str:
    """A tick's text: short, and without trailing zeros."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.10g}"


def _multiples(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * s for s in _STEPS if unit * s >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first) / 6))
    return [10.0**n for n in range(first, last + 1, stride)]
