"""Linear bounds of w_k = x_k - log(sum over j != k of exp x_j), the number whose logistic function is softmax.

Below: the sum of exponentials is below the sum of their chords, and log s <= log s0 + s / s0 - 1 for any s0 > 0.
Above: log sum exp x_j >= sum_j p_j (x_j - log p_j) for any distribution p (Gibbs' inequality, the conjugate form).
Both hold for any choice of s0 and p; only additions and products of what was chosen have to be charged for rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops.normalisation.exclusive import log_sum_of_others, sum_of_others

_DEEP = {torch.float64: -600.0, torch.float32: -60.0}
"""log s0 is kept above this (relative to the largest logit), so that 1 / s0 stays finite."""
_SPREAD = 40.0
"""No weight is below exp(-40) of the largest."""


class Range(NamedTuple):
    """Rigorous bounds of w, and `top`, the largest logit of each group (..., 1), from which logs are counted."""

    lower: Tensor
    upper: Tensor
    top: Tensor

    @classmethod
    def over(cls, low: Tensor, high: Tensor) -> Range:
        """w rises with x_k and falls with all the others, so opposite ends are its extremes."""
        top = high.amax(-1, keepdim=True)
        below, above = low - log_sum_of_others(high), high - log_sum_of_others(low)
        eps, size = torch.finfo(low.dtype).eps, torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True)
        # A chain of K logarithms of sums, each off by a few units of its size (at most max|x| + log K).
        charge = (size + 8) * (8 * eps * (low.shape[-1] + 8))
        return cls(below - charge, above + charge, top)


class Chords(NamedTuple):
    """Chords of exp(x - top) over each logit's interval: below their sum lies the sum of exponentials.

    value at x: slope * (x - centre) + level.
    """

    slope: Tensor
    centre: Tensor
    level: Tensor
    others: Tensor  # sum of the levels of the other entries

    @classmethod
    def over(cls, low: Tensor, high: Tensor, top: Tensor) -> Chords:
        """Any slope would do: the level is the larger excess at the two ends, exp being convex."""
        eps, small = torch.finfo(low.dtype).eps, tiny(low.dtype)
        centre = (low + high) * 0.5
        start, stop = torch.exp(low - top), torch.exp(high - top)
        width = high - low
        noise = width <= 1e-4 * (1 + top.abs())
        slope = torch.where(noise, torch.exp(centre - top), (stop - start) / torch.where(width > 0, width, 1.0))
        # exp of a difference that was rounded: off by its last place, times exp.
        unsure = (8 + (low - top).abs() + low.abs() + top.abs()) * (4 * eps)
        ends = [e * (1 + unsure) - slope * (x - centre) for e, x in ((start, low), (stop, high))]
        level = torch.maximum(*ends) * (1 + 8 * eps) + slope * (width + centre.abs() * eps) * (8 * eps) + small
        return cls(slope, centre, level, sum_of_others(level))


class Below(NamedTuple):
    """w_k >= x_k - sum_{j != k} inverse_k slope_j x_j + offset_k.

    `base` is 1 - top - log s0; `charge` is for rounding.
    """

    inverse: Tensor
    slope: Tensor
    offset: Tensor
    base: Tensor
    charge: Tensor

    @classmethod
    def of(cls, chords: Chords, top: Tensor, level: Tensor, size: Tensor) -> Below:
        """`level` is log s0, counted from `top`; `size` is the largest |x| per entry."""
        eps, count = torch.finfo(size.dtype).eps, size.shape[-1]
        chosen = torch.exp(level.clamp(_DEEP[size.dtype], 60.0))
        base, inverse = 1.0 - top - torch.log(chosen), 1.0 / chosen
        shifted = chords.others - sum_of_others(chords.slope * chords.centre)
        offset = base - shifted * inverse
        reach = (chords.slope * (size + chords.centre.abs()) + chords.level).sum(-1, keepdim=True)
        terms = size + top.abs() + torch.log(chosen).abs() + 1.0 + offset.abs() + reach * inverse
        return cls(inverse, chords.slope, offset, base, terms * ((count + 24) * eps))

    def at(self, x: Tensor) -> Tensor:
        """The bound's value at a point, without the charge."""
        return x - self.inverse * sum_of_others(self.slope * x) + self.offset

    def pull(self, rows: Tensor) -> Tensor:
        """Coefficients of x for coefficients of w that are >= 0."""
        return rows - self.slope * sum_of_others(rows * self.inverse)

    def rate(self, x: Tensor) -> Tensor:
        """Derivative of the bound with respect to log s0: s / s0 - 1."""
        return x + self.base - self.at(x) - 1.0


class Above(NamedTuple):
    """w_k <= x_k - sum_{j != k} (weight_j / rest_k) x_j + offset_k; `charge` is for rounding."""

    weight: Tensor
    rest: Tensor
    log_weight: Tensor
    offset: Tensor
    charge: Tensor

    @classmethod
    def of(cls, logits: Tensor, size: Tensor) -> Above:
        """Weights proportional to exp(logits); for entry k the distribution is that of the others."""
        eps, count = torch.finfo(size.dtype).eps, size.shape[-1]
        log_weight = (logits - logits.amax(-1, keepdim=True)).clamp(-_SPREAD, 0.0)
        weight = torch.exp(log_weight)
        rest = sum_of_others(weight)
        # sum p log p with p = weight / rest: the logs that were chosen are exact up to rounding of exp.
        offset = sum_of_others(weight * log_weight) / rest - torch.log(rest)
        spread = size.amax(-1, keepdim=True) + log_weight.abs().amax(-1, keepdim=True)
        terms = size + spread * 2 + torch.log(rest).abs() + 4.0 + offset.abs()
        return cls(weight, rest, log_weight, offset, terms * ((count + 24) * eps))

    def at(self, x: Tensor) -> Tensor:
        """The bound's value at a point, without the charge."""
        return x - sum_of_others(self.weight * x) / self.rest + self.offset

    def pull(self, rows: Tensor) -> Tensor:
        """Coefficients of x for coefficients of w of one sign."""
        return rows - self.weight * sum_of_others(rows / self.rest)

    def logit_gradient(self, rows: Tensor, x: Tensor) -> Tensor:
        """Derivative of sum_k rows_k bound_k(x) with respect to the logits."""
        shared = rows / self.rest
        conjugate = x - self.at(x)  # sum_j p_j (x_j - log p_j)
        part = shared * (torch.log(self.rest) - conjugate)
        # The rest of an entry is its own derivative's weight: moving logit j moves p_j against all the others.
        return -self.weight * ((x - self.log_weight) * sum_of_others(shared) + sum_of_others(part))
