"""Functions behind comparisons and choices: a step, and a hat that picks one integer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from verinet.ops.scalar_function import Jumps, Limit, ScalarFunction


class Spikes(Jumps):
    """A function that is 1 at every integer and 0 elsewhere."""

    def limits(self, lower: Tensor, upper: Tensor) -> Iterator[Limit]:
        """The first and the last integer inside, and 0 near both ends of an interval of positive width."""
        zero, one, wide = torch.zeros_like(lower), torch.ones_like(lower), lower < upper
        first, last = lower.ceil(), upper.floor()
        for end, whole in ((lower, first), (upper, last)):
            yield Limit(end, zero, wide)
            yield Limit(torch.minimum(torch.maximum(whole, lower), upper), one, first <= last)

    def nearest(self, x: Tensor) -> Tensor:
        return x.round()


def _step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _hat(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _hat_slope(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, -torch.sign(x), torch.zeros_like(x))


STEP = ScalarFunction(
    name="Step",
    value=_step,
    slope=torch.zeros_like,
    jumps=Jumps(0.0, 0.0, 1.0),
    bounds=(0.0, 1.0),
    slope_range=(0.0, float("inf")),
    error_ulps=0.0,
    error_floor=0.0,
    slope_ulps=0.0,
)
"""1 where x > 0, else 0."""

WHOLE = ScalarFunction(
    name="Whole",
    value=lambda x: (x == x.round()).to(x.dtype),
    slope=torch.zeros_like,
    jumps=Spikes(0.0, 0.0, 0.0, step=1.0),
    bounds=(0.0, 1.0),
    slope_range=(float("-inf"), float("inf")),
    error_ulps=0.0,
    error_floor=0.0,
    slope_ulps=0.0,
)
"""1 where x is an integer, else 0."""

HAT = ScalarFunction(
    name="Hat",
    value=_hat,
    slope=_hat_slope,
    breakpoints=(-1.0, 0.0, 1.0),
    curvature=(0, 0, 0, 0),
    kinks=(-1.0, 0.0, 1.0),
    extrema=(0.0,),
    bounds=(0.0, 1.0),
    slope_range=(-1.0, 1.0),
    error_ulps=1.0,
    error_floor=1.0,
    slope_ulps=0.0,
)
"""max(0, 1 - |x|): for integers, 1 at 0 and 0 elsewhere. Unlike an indicator it is continuous, so bounds can close."""
