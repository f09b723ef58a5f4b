"""Sets around zonotopes that give ranges of any functional of correlated entries for the price of a small matrix.

A zonotope {G xi: |xi_s| <= 1} has the support function sum_s |g_s . r|. By Cauchy and Schwarz this is at most
sqrt(sum_s w_s) sqrt(sum_s (g_s . r)^2 / w_s) = |L^T r| for any w > 0, with L L^T = (sum w) sum_s g_s g_s^T / w_s.
Weights |g_s| serve all directions alike; for many generators of no particular direction 1.25 times the support
remains. So the longest generators are kept as they are, and an ellipsoid stands for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny

KEPT = 32
"""Generators that are kept; all of them where 16 pixels make a token. More would cost as much as a dense layer."""


def hull_of(generators: Tensor) -> Tensor:
    """Columns (..., J, kept + J) for G (..., J, S): G xi is in {first C + last eta: |C_s| <= 1, |eta|_2 <= 1}."""
    count = min(KEPT, generators.shape[-1])
    order = generators.square().sum(-2).argsort(-1, descending=True)
    ordered = generators.gather(-1, order.unsqueeze(-2).expand_as(generators))
    return torch.cat([ordered[..., :count], around(ordered[..., count:])], -1)


def support(reach: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """Of coefficients times columns (..., kept + J): at least the greatest value over the hull, and where it is."""
    kept = reach.shape[-1] - entries
    first, last = reach[..., :kept], reach[..., kept:]
    length = last.square().sum(-1, keepdim=True).sqrt()
    point = torch.cat([first.sign(), last / length.clamp(min=tiny(reach.dtype))], -1)
    squares: float = last.shape[-1] * tiny(reach.dtype) ** 0.5  # numbers whose squares underflow
    return first.abs().sum(-1) + length.squeeze(-1) + squares, point


def around(generators: Tensor) -> Tensor:
    """L (..., J, J) such that {L eta: |eta|_2 <= 1} holds all G xi, |xi_s| <= 1, for G (..., J, S), float64.

    Each diagonal entry is raised by more than all rounding: by gamma(S) times the trace for the products (Higham 2002,
    section 3.5), and by gamma(J) for the factorisation (theorem 10.3).
    """
    weight = generators.square().sum(-2).sqrt()
    used = weight > 0
    whole = weight.sum(-1, keepdim=True) * (1 + gamma(weight.shape[-1] + 4, weight.dtype))
    share = torch.where(used, whole / torch.where(used, weight, torch.ones_like(weight)), 0.0)
    form = (generators * share.unsqueeze(-2)) @ generators.mT
    trace = form.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(form.shape[-1], dtype=form.dtype, device=form.device)
    rounding = trace * (64 * gamma(generators.shape[-1] + 8 * form.shape[-1], form.dtype)) + tiny(form.dtype)
    factor, failed = torch.linalg.cholesky_ex(form + eye * rounding)
    plain = torch.diag_embed(_box(generators))
    failed = (failed != 0) | ~torch.isfinite(factor).all(-1).all(-1)
    return torch.where(failed[..., None, None], plain, factor)


def _box(generators: Tensor) -> Tensor:
    """Half axes of an ellipsoid around the zonotope's box."""
    terms, axes = generators.shape[-1] + 8, generators.shape[-2]
    room: float = (axes**0.5) * (1 + 4 * gamma(terms, generators.dtype))
    return generators.abs().sum(-1) * room
