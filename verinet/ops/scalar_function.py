"""What the solvers must know about one scalar function: value, slope, how it bends, how wrong its evaluation can be.

From this record alone intervals, lines for any slope, default slopes, branching points and slope sectors are derived
(`scalar_lines`, `scalar_slopes`), so a new activation is one record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from verinet.errors import VerinetError

if TYPE_CHECKING:
    from verinet.ops.scalar_map import PieceMap

Inf = math.inf


class DomainError(VerinetError):
    """A function is undefined or unbounded on an interval that the bounds cannot rule out (log at 0, 1/x across 0)."""

    exit_code = 3

    def __init__(self, function: str) -> None:
        super().__init__(
            f"the bounds do not keep the input of '{function}' inside the domain where it is finite",
            hint="use a smaller input region, or split it; tighter bounds of the layer before may also decide it",
        )
        self.function = function


def beside(x: Tensor) -> tuple[Tensor, Tensor]:
    """The next floats below and above x."""
    far = torch.full_like(x, torch.inf)
    return torch.nextafter(x, -far), torch.nextafter(x, far)


class Limit(NamedTuple):
    """A one-sided limit at a jump: the function comes arbitrarily close to `value` near `point`, where `valid`."""

    point: Tensor
    value: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Jumps:
    """Where a function jumps: at `point` (and, if `step` > 0, at every point + j * step, each time by the same step).

    `left` and `right` are the one-sided limits at `point`; at point + j * step they are higher by j * step.
    """

    point: float
    left: float
    right: float
    step: float = 0.0

    def limits(self, lower: Tensor, upper: Tensor) -> Iterator[Limit]:
        """One-sided limits that can be the extreme ones of f(x) - k x on [lower, upper], for any slope k.

        Along a staircase these values are affine in the number of the jump, so the first and the last suffice.
        """
        if self.step == 0.0:
            point = torch.full_like(lower, self.point)
            inside = torch.minimum(torch.maximum(point, lower), upper)
            yield Limit(inside, torch.full_like(lower, self.left), (lower < point) & (point <= upper))
            yield Limit(inside, torch.full_like(lower, self.right), (lower <= point) & (point < upper))
            return
        low, high = (lower - self.point) / self.step, (upper - self.point) / self.step
        # A jump at `lower` itself shows only its right limit inside the interval, and the other way round.
        left = (low.floor() + 1, high.floor())
        right = (low.ceil(), high.ceil() - 1)
        for (first, last), level in ((left, self.left), (right, self.right)):
            for count in (first, last):
                point = torch.minimum(torch.maximum(self.point + count * self.step, lower), upper)
                yield Limit(point, level + count * self.step, first <= last)

    def nearest(self, x: Tensor) -> Tensor:
        """The jump closest to x."""
        if self.step == 0.0:
            return torch.full_like(x, self.point)
        return self.point + ((x - self.point) / self.step).round() * self.step

    def at(self, x: Tensor) -> Tensor:
        """Where x is exactly a jump, and the next floats on either side are none: multiples of 1/2 that are not huge.

        Elsewhere a rounded number might stand for the jump. The same x are found in float32 and float64.
        """
        if not (2 * self.point).is_integer() or not (2 * self.step).is_integer():
            return torch.zeros_like(x, dtype=torch.bool)
        return (x.abs() < _HUGE) & (self.nearest(x) == x)


_HUGE = 2.0**20


@dataclass(frozen=True, eq=False)
class ScalarFunction:
    """One function f of one real variable. `value` and `slope` are vectorised and get `parameters` after x.

    Between neighbouring `breakpoints` the function is convex (+1), concave (-1) or affine (0), as `curvature` says: one
    sign more than breakpoints, or, with a `period`, one sign for the piece to the right of each breakpoint.
    A breakpoint rounded to a float puts the wrong sign on at most one unit in the last place, a sliver of width w; the
    bend there costs O(w^2), which is far below the rounding pad of the lines (kinks must be exact, or affine on both
    sides, where the pad covers |slope| * w).

    Promise about rounding, with eps = 2u of the dtype: |computed f - f| <= error_ulps * eps * (error_floor + |f|), and
    |computed f' - f'| <= slope_ulps * eps * (slope_floor + |f'|), up to underflow. Tests measure both.
    """

    name: str
    value: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    breakpoints: tuple[float, ...] = ()
    curvature: tuple[int, ...] = (0,)
    kinks: tuple[float, ...] = ()
    """Subset of `breakpoints` at which the slope jumps."""
    jumps: Jumps | None = None
    extrema: tuple[float, ...] = ()
    """Where the function turns: it is monotone between neighbours (and repeats with `period`)."""
    bounds: tuple[float, float] = (-Inf, Inf)
    """Global bounds of f: exact in float32, or outward by 1e-6 relative, so that casting cannot move them inward."""
    slope_range: tuple[float, float] = (-Inf, Inf)
    """Global infimum and supremum of f', rounded like `bounds`."""
    inverse_slope: Callable[[Tensor, int], Tensor] | None = None
    """x with f'(x) = k on the numbered piece; any value is safe, the right one is tight. Default: a table."""
    domain: tuple[float, float] = (-Inf, Inf)
    poles: tuple[float, ...] = ()
    """Points that the interval must not contain."""
    period: float | None = None
    error_ulps: float = 8.0
    error_floor: float = 1.0
    slope_ulps: float = 8.0
    slope_floor: float = 1.0
    span: float = 40.0
    """The slope table covers [-span, span]; beyond, f' is taken as settled (which costs tightness only)."""
    hinge: tuple[float, float] | None = None
    """(n, p) if f(x) = n x for x < 0 and p x for x >= 0 with n <= p, both exact in float32: the fast path."""
    parameters: tuple[Tensor, ...] = ()
    deviation: float = 0.0
    """The node may differ from f by `deviation` * (1 + |f|): it was recognised from parts with rounded constants."""
    chart: PieceMap | None = None
    """Pieces that differ by channel or are many, in place of breakpoints; errors are then bounded by the map too."""

    def on(self, lower: Tensor, upper: Tensor) -> ScalarFunction:
        """The function with what is known of it on these intervals: itself, unless pieces are found on demand."""
        return self

    def at(self, x: Tensor) -> Tensor:
        """f(x) as computed."""
        return self.value(x, *self.parameters)

    def derivative(self, x: Tensor) -> Tensor:
        """f'(x) as computed; at a kink one of the one-sided slopes."""
        return self.slope(x, *self.parameters)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """A copy with cast parameters (the same object if there are none)."""
        if not self.parameters:
            return self
        return replace(self, parameters=tuple(p.to(device, dtype) for p in self.parameters))

    @property
    def pieces(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Breakpoints and the signs of curvature around them."""
        return self.breakpoints, self.curvature

    @property
    def piecewise_linear(self) -> bool:
        """True if every piece is affine (jumps allowed)."""
        return not any(self.curvature)

    @property
    def flat(self) -> bool:
        """True if the function is known to be constant between its jumps, with exact values."""
        return (
            self.jumps is not None and self.slope is torch.zeros_like and self.error_ulps == 0 and not self.parameters
        )

    def breaks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where x is a jump of a flat function and its value there is not the one just left, and just right, of it."""
        if self.jumps is None or not self.flat:
            none = torch.zeros_like(x, dtype=torch.bool)
            return none, none
        here, value = self.jumps.at(x), self.at(x)
        left, right = beside(x)
        return here & (self.at(left) != value), here & (self.at(right) != value)

    def error(self, value: Tensor) -> Tensor:
        """At least |computed f - f| where `value` is the computed f."""
        eps = torch.finfo(value.dtype).eps
        return (value.abs() + self.error_floor) * (self.error_ulps * eps * 1.001)

    def outside(self, lower: Tensor, upper: Tensor) -> bool:
        """True if some interval leaves the domain or meets a pole."""
        if self.chart is not None:
            return self.chart.outside(lower, upper)
        good: Tensor | None = None
        if self.domain != (-Inf, Inf):
            good = (lower >= self.domain[0]) & (upper <= self.domain[1])
        for pole in self.poles:
            clear = self._between_poles(pole, lower, upper) if self.period else (lower > pole) | (upper < pole)
            good = clear if good is None else good & clear
        return good is not None and not bool(good.all())

    def _between_poles(self, pole: float, lower: Tensor, upper: Tensor) -> Tensor:
        period = self.period or 1.0
        left = pole + ((lower - pole) / period).floor() * period
        margin = (lower.abs() + upper.abs() + period) * (64 * torch.finfo(lower.dtype).eps)
        far = self.far(lower, upper)
        return (lower > left + margin) & (upper < left + period - margin) & ~far

    def far(self, lower: Tensor, upper: Tensor) -> Tensor:
        """For periodic functions: arguments so large that rounded breakpoints would be off by more than sqrt(eps)/4."""
        limit = 1 / (16 * math.sqrt(torch.finfo(lower.dtype).eps))
        return torch.maximum(lower.abs(), upper.abs()) > limit

    def side_slopes(self, point: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """One-sided slopes at a kink, taken a unit in the last place beside it."""
        eps = torch.finfo(like.dtype).eps
        here = torch.full((), point, dtype=like.dtype, device=like.device)
        gap = here.abs() * eps + 1e-30
        return self.derivative(here - gap), self.derivative(here + gap)

    @cached_property
    def bend(self) -> int:
        """+1 if convex everywhere, -1 if concave everywhere, 0 if neither (or affine)."""
        if self.chart is not None:
            return self.chart.bend
        if self.jumps is not None or self.period is not None or (self.poles and len(self.curvature) > 1):
            return 0
        like = self.parameters[0] if self.parameters else torch.zeros((), dtype=torch.float64)
        sides = [self.side_slopes(p, like) for p in self.kinks]
        for sign in (1, -1):
            smooth = all(c in (0, sign) for c in self.curvature)
            if smooth and all(bool((sign * (b - a) >= 0).all()) for a, b in sides):
                return sign if self.kinks or any(self.curvature) else 0
        return 0

    def root(self, slope: Tensor, piece: int, polish: bool) -> Tensor:
        """About the x with f'(x) = slope on one curved piece; may be infinite or NaN where there is none."""
        if self.inverse_slope is not None:
            return self.inverse_slope(slope, piece)
        key = (piece, slope.dtype, slope.device)
        if key not in self._tables:
            self._tables[key] = SlopeTable.build(self, piece, slope)
        return self._tables[key].solve(self, slope, polish)

    @cached_property
    def _tables(self) -> dict[tuple[int, torch.dtype, torch.device], SlopeTable]:
        return {}


@dataclass(frozen=True)
class SlopeTable:
    """Inverse of f' on one piece by linear interpolation between nodes that crowd near the finite ends."""

    nodes: Tensor
    slopes: Tensor  # sorted upward
    sign: int
    size: int = 8192

    @classmethod
    def build(cls, function: ScalarFunction, piece: int, like: Tensor) -> SlopeTable:
        points = (-Inf, *function.breakpoints, Inf)
        left, right = max(points[piece], -function.span), min(points[piece + 1], function.span)
        t = torch.linspace(0, 1, cls.size, dtype=torch.float64)
        if math.isinf(points[piece]):
            t = 1 - (1 - t) ** 2
        elif math.isinf(points[piece + 1]):
            t = t**2
        else:
            t = (1 - torch.cos(math.pi * t)) / 2
        nodes = left + (right - left) * t
        sign = function.curvature[piece]
        slopes = (function.derivative(nodes) * sign).cummax(0).values
        return cls(nodes.to(like.device, like.dtype), slopes.to(like.device, like.dtype), sign)

    def solve(self, function: ScalarFunction, slope: Tensor, polish: bool) -> Tensor:
        """Interpolated root; with `polish` one quasi-Newton step with the slope of the cell."""
        wanted = (slope * self.sign).contiguous()
        right = torch.searchsorted(self.slopes, wanted).clamp(1, self.size - 1)
        x0, x1 = self.nodes[right - 1], self.nodes[right]
        s0, s1 = self.slopes[right - 1], self.slopes[right]
        rate = (x1 - x0) / (s1 - s0).clamp(min=torch.finfo(slope.dtype).tiny)
        x = torch.clamp(x0 + (wanted - s0) * rate, x0, x1)
        if not polish:
            return x
        return torch.clamp(x + (wanted - self.sign * function.derivative(x)) * rate, x0, x1)
