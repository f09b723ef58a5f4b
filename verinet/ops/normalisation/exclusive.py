"""Sums over all entries of the last axis but one, without the cancellation of subtracting it from the total."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_of_others(values: Tensor) -> Tensor:
    """Entry k: sum over j != k. For entries of one sign the relative error is that of the additions alone."""
    before = torch.nn.functional.pad(values[..., :-1].cumsum(-1), (1, 0))
    after = torch.nn.functional.pad(values[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
    return before + after


def log_sum_of_others(values: Tensor) -> Tensor:
    """Entry k: log of the sum over j != k of exp(values_j), in the logarithm throughout so that nothing underflows."""
    pad = torch.nn.functional.pad
    before = pad(values[..., :-1].logcumsumexp(-1), (1, 0), value=-torch.inf)
    after = pad(values[..., 1:].flip(-1).logcumsumexp(-1).flip(-1), (0, 1), value=-torch.inf)
    return torch.logaddexp(before, after)
