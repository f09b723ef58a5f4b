"""Sign, Floor, Ceil and Round: flat between jumps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import Jumps, ScalarFunction


def _steps(name: str, value: Callable[[Tensor], Tensor], jumps: Jumps, bound: float = math.inf) -> ScalarFunction:
    return ScalarFunction(
        name=name,
        value=value,
        slope=torch.zeros_like,
        jumps=jumps,
        bounds=(-bound, bound),
        slope_range=(0.0, math.inf),
        error_ulps=0.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


register("Sign", constant(_steps("Sign", torch.sign, Jumps(0.0, -1.0, 1.0), 1.0)))
register("Floor", constant(_steps("Floor", torch.floor, Jumps(0.0, -1.0, 0.0, step=1.0))))
register("Ceil", constant(_steps("Ceil", torch.ceil, Jumps(0.0, 0.0, 1.0, step=1.0))))
# Half to even in ONNX and torch alike; the value at a tie is one of its two limits.
register("Round", constant(_steps("Round", torch.round, Jumps(0.5, 0.0, 1.0, step=1.0))))
