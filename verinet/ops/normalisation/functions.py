"""The scalar functions of w_k = x_k - log(sum_{j != k} exp x_j) that softmax and its logarithm are."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ops.activations import find
from verinet.ops.scalar_function import ScalarFunction


def logistic() -> ScalarFunction:
    """The registered logistic function."""
    found = find("Sigmoid", {})
    if found is None:
        raise InternalError("the logistic function is not registered")
    return found


def _inverse(slope: Tensor, piece: int) -> Tensor:
    return torch.log1p(-slope.clamp(0, 1)) - torch.log(slope.clamp(0, 1))


LOG_LOGISTIC = ScalarFunction(
    name="LogSoftmax",
    value=torch.nn.functional.logsigmoid,
    slope=lambda w: torch.sigmoid(-w),
    curvature=(-1,),
    bounds=(-float("inf"), 0.0),
    slope_range=(0.0, 1.0),
    inverse_slope=_inverse,
    error_floor=1e-30,
    slope_floor=0.0,
)
"""log(1 / (1 + exp(-w))): concave and rising, with f' = 1 / (1 + exp w)."""
