"""The logistic function and tanh: S-shaped with inflection 0."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def sigmoid_slope(x: Tensor) -> Tensor:
    """s(x) s(-x): both factors keep their relative accuracy in the tails."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def sigmoid_inverse(k: Tensor, piece: int) -> Tensor:
    """x with s'(x) = k. With y = e^x: y / (1 + y)^2 = k, and the root y < 1 without cancellation."""
    k = k.clamp(0, 0.25)
    size = torch.log(2 * k / (1 - 2 * k + torch.sqrt((1 - 4 * k).clamp(min=0))))
    return size if piece == 0 else -size


def _tanh_slope(x: Tensor) -> Tensor:
    return 4 * sigmoid_slope(2 * x)


_SIGMOID = ScalarFunction(
    name="Sigmoid",
    value=torch.sigmoid,
    slope=sigmoid_slope,
    breakpoints=(0.0,),
    curvature=(1, -1),
    bounds=(0.0, 1.0),
    slope_range=(0.0, 0.25),
    inverse_slope=sigmoid_inverse,
    error_floor=0.0,
    slope_floor=0.0,
)
_TANH = ScalarFunction(
    name="Tanh",
    value=torch.tanh,
    slope=_tanh_slope,
    breakpoints=(0.0,),
    curvature=(1, -1),
    bounds=(-1.0, 1.0),
    slope_range=(0.0, 1.0),
    inverse_slope=lambda k, piece: 0.5 * sigmoid_inverse(0.25 * k, piece),
    error_floor=0.0,
    slope_floor=0.0,
)

register("Sigmoid", constant(_SIGMOID))
register("Tanh", constant(_TANH))
