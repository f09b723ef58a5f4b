"""The exact least value of a . softmax(x) over a box of logits.

a . softmax(x) >= t holds if and only if sum_k (a_k - t) exp(x_k) >= 0, and that sum is least where every logit with
a_k < t is at its upper end and the others are at their lower ends. So the minimum is at a corner that is given by a
threshold on the coefficients, and there are only K + 1 of those.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 1e-20
"""Below this sum of exponentials (the largest one is 1) the trivial bound is taken."""


def least(rows: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """A lower bound of rows . p with p on the simplex, and the p of the corner; all (..., K), the bound (..., 1).

    `low` and `high` are exp(l - top) and exp(u - top), each with a relative error of at most `eps` (..., 1).
    """
    values, order = rows.sort(-1)
    low, high = (t.expand(rows.shape).gather(-1, order) for t in (low, high))
    above, below = (_sums(values * t, t, reverse) for t, reverse in ((high, False), (low, True)))
    numerator, denominator = above[0] + below[0], above[1] + below[1]
    good = denominator > _SMALL
    ratio = numerator / torch.where(good, denominator, torch.ones_like(denominator))
    ratio = torch.where(good, ratio, values[..., :1])
    best, threshold = ratio.min(-1, keepdim=True)
    place = torch.arange(rows.shape[-1], device=rows.device)
    weights = torch.where(place < threshold, high, low)
    share = weights / weights.sum(-1, keepdim=True).clamp(min=_SMALL)
    unsure = (4 * eps + (4 * rows.shape[-1] + 16) * torch.finfo(rows.dtype).eps) * 1.01
    size = torch.maximum(values[..., :1].abs(), values[..., -1:].abs())
    return best - size * unsure, torch.zeros_like(share).scatter(-1, order, share)


def _sums(weighted: Tensor, weights: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Sums over the first j entries (over the entries from j on, if `reverse`) for j = 0 .. K."""
    pad = torch.nn.functional.pad
    if reverse:
        flipped = (pad(t.flip(-1).cumsum(-1), (1, 0)).flip(-1) for t in (weighted, weights))
        first, second = flipped
        return first, second
    return pad(weighted.cumsum(-1), (1, 0)), pad(weights.cumsum(-1), (1, 0))
