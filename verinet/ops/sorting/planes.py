"""Planes around sums of the largest entries of a group, and around single order statistics.

With S_m the sum of the m largest of x_1..x_n and h_t(x) = max(x - t, 0):

    sum_i w_i x_i <= S_m <= m t + sum_i h_t(x_i)

for every w in [0, 1]^n with sum m, and every t (Ogryczak and Tamir 2003, "Minimizing the sum of the k largest functions
in linear time": S_m is the minimum over t of the right side). Above, each h_t is replaced by its chord over [l, u].
All tensors are (..., n) over groups, with any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny


def chord(threshold: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope in [0, 1] and an intercept such that max(x - t, 0) <= slope * x + intercept on [low, high].

    The left side minus slope * x is convex in x, so its maximum over the interval is at an end: the intercept is
    computed there for the rounded slope. Rounding of the intercept itself is charged by `chord_slack`.
    """
    at_low, at_high = (low - threshold).clamp(min=0), (high - threshold).clamp(min=0)
    width = high - low
    slope = ((at_high - at_low) / torch.where(width > 0, width, 1.0)).clamp(0, 1)
    slope = torch.where(width > 0, slope, (low > threshold).to(low.dtype))
    return slope, torch.maximum(at_low - slope * low, at_high - slope * high)


def chord_slack(threshold: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """At least the rounding error of a sum over the last axis of intercepts from `chord` and of multiples of t."""
    count = low.shape[-1]
    terms = (torch.maximum(low.abs(), high.abs()) + threshold.abs()).sum(-1)
    return terms * ((2 * count + 12) * torch.finfo(low.dtype).eps) + tiny(low.dtype)


def sums(count: int, like: Tensor) -> Tensor:
    """m of every top sum in the order used here: n-1, n-2, .., 1."""
    return torch.arange(count - 1, 0, -1, dtype=like.dtype, device=like.device)


def top_weights(low: Tensor, high: Tensor) -> Tensor:
    """(..., n-1, n): ones at the m entries with the largest middles (those that surely dominate come first)."""
    count = low.shape[-1]
    place = (low + high).argsort(-1).argsort(-1)  # 0 for the smallest
    least = torch.arange(1, count, device=low.device)
    return (place.unsqueeze(-2) >= least.unsqueeze(-1)).to(low.dtype)


def top_thresholds(low: Tensor, high: Tensor) -> Tensor:
    """(..., n-1): the t for which the upper plane of S_m is lowest at the middle of the box.

    There the plane is m t + sum ((u - t)+ + (l - t)+) / 2, which is least between the (2m+1)-th and the 2m-th largest
    of all ends.
    """
    count = low.shape[-1]
    ends = torch.cat([low, high], -1).sort(-1, descending=True).values
    m = torch.arange(count - 1, 0, -1, device=low.device)
    return (ends[..., 2 * m - 1] + ends[..., 2 * m]) * 0.5


def lower_sums(weights: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (..., n-1, n) and offsets (..., n-1) of planes below the top sums, for any weights.

    With w in [0, 1]^n, S_m >= sum w_i x_i - |m - sum w_i| max |x_i|.
    """
    count = low.shape[-1]
    eps = torch.finfo(low.dtype).eps
    weights = torch.nan_to_num(weights, nan=0.0).clamp(0, 1)
    total, wanted = weights.sum(-1), sums(count, low)
    size = torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True)
    exact = ((weights == 0) | (weights == 1)).all(-1) & (total == wanted)
    drift = torch.where(exact, 0.0, (wanted - total).abs() * (1 + 8 * eps) + 4 * count * count * eps)
    return weights, -(drift * size * (1 + 4 * eps))


def upper_sums(threshold: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (..., n-1, n) and offsets (..., n-1) of planes above the top sums, for any thresholds."""
    t = threshold.unsqueeze(-1)
    spread_low, spread_high = low.unsqueeze(-2), high.unsqueeze(-2)
    slopes, intercepts = chord(t, spread_low, spread_high)
    offset = threshold * sums(low.shape[-1], low) + intercepts.sum(-1)
    return slopes, offset + chord_slack(t, spread_low, spread_high)


def upper_members(high: Tensor) -> Tensor:
    """(..., n, n) boolean: for the k-th smallest entry, the k inputs with the smallest upper ends.

    The k-th smallest of all is at most the largest of any k of them.
    """
    count = high.shape[-1]
    place = high.argsort(-1).argsort(-1)
    return place.unsqueeze(-2) <= torch.arange(count, device=high.device).unsqueeze(-1)


def member_thresholds(low: Tensor, high: Tensor) -> Tensor:
    """(..., n): default t for `upper_entries`: the second largest end of the members, where the middle is lowest."""
    members = upper_members(high)
    ends = torch.cat([low.unsqueeze(-2).expand(members.shape), high.unsqueeze(-2).expand(members.shape)], -1)
    hidden = ends.masked_fill(~torch.cat([members, members], -1), -torch.inf)
    return hidden.topk(2, dim=-1).values[..., 1]


def upper_entries(threshold: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (..., n, n) and offsets (..., n) of planes above the order statistics: t + sum of chords over members."""
    t, members = threshold.unsqueeze(-1), upper_members(high)
    spread_low, spread_high = low.unsqueeze(-2), high.unsqueeze(-2)
    slopes, intercepts = chord(t, spread_low, spread_high)
    slopes, intercepts = slopes * members, intercepts * members
    return slopes, threshold + intercepts.sum(-1) + chord_slack(t, spread_low, spread_high)


def rate(threshold: Tensor, low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    """Derivative of the chord of max(x - t, 0), evaluated at x, with respect to t: (..., k, n)."""
    t, low, high = threshold.unsqueeze(-1), low.unsqueeze(-2), high.unsqueeze(-2)
    width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
    inside = (low < t) & (t < high)
    sloped = (x.unsqueeze(-2) - low) / width
    return torch.where(inside, -sloped, torch.where(t <= low, -torch.ones_like(sloped), torch.zeros_like(sloped)))


def capped_simplex(values: Tensor, total: Tensor) -> Tensor:
    """Projection of the last axis on {0 <= w <= 1, sum w = total}, by bisection for the common shift."""
    low, high = values.amin(-1) - 1, values.amax(-1)
    for _ in range(50):
        middle = (low + high) * 0.5
        above = (values - middle.unsqueeze(-1)).clamp(0, 1).sum(-1) > total
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (values - low.unsqueeze(-1)).clamp(0, 1)
