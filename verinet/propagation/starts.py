"""A second place to start the optimisation of multipliers from: the fixed lines of CROWN, in our own parameters.

Our default lines leave the least area, entry by entry, which is best on average; a single row may still like the
published lines better. A row that starts from the better of the two and keeps its best value is never looser than CROWN
with the same intermediate bounds, wherever CROWN's lines are among ours (not for softmax, where ours are of another
kind). What other methods do is no property of an operator, so it stands here.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from verinet.ops.base import Frame, NonlinearOp
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.mixed import Mixed
from verinet.ops.bilinear.product import Product
from verinet.ops.bilinear.squared import MatMulSquared
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_ends import end_slopes

Values = tuple[Tensor, ...]


@singledispatch
def published(op: NonlinearOp, frame: Frame, default: Values) -> Values | None:
    """The multipliers of CROWN's lines, shaped like `default`; None where those are the default, or not among ours."""
    return None


@published.register
def _(op: Elementwise, frame: Frame, default: Values) -> Values | None:
    """Tangents from an end where the function bends both ways; hinges have CROWN's adaptive slope by default."""
    if len(default) != 2:
        return None
    lower, upper = frame.lowers[0], frame.uppers[0]
    return end_slopes(op.function, lower, upper, (default[0], default[1]))


@published.register
def _(op: Product, frame: Frame, default: Values) -> Values | None:
    """The planes of Shi et al. 2020, appendix A: y_l x + x_l y - x_l y_l below, y_u x + x_l y - x_l y_u above."""
    return tuple(torch.ones_like(v) for v in default)


@published.register
def _(op: MatMulTwo, frame: Frame, default: Values) -> Values | None:
    """The same planes for every scalar product: tilts of -1 below and of 1 above."""
    half = len(default) // 2
    return (*(-torch.ones_like(v) for v in default[:half]), *(torch.ones_like(v) for v in default[half:]))


@published.register
def _(op: Mixed, frame: Frame, default: Values) -> Values | None:
    """The same planes for every mixture, whose range is at most that of the box."""
    return tuple(-torch.ones_like(v) for v in default)


@published.register
def _(op: MatMulSquared, frame: Frame, default: Values) -> Values | None:
    """The planes of the two factors, and no share of those that are parallel."""
    *tilts, share = default
    half = len(tilts) // 2
    signs = (*(-torch.ones_like(v) for v in tilts[:half]), *(torch.ones_like(v) for v in tilts[half:]))
    return *signs, torch.zeros_like(share)
