"""Rounding charges. Standard model: fl(a op b) = (a op b)(1 + d), |d| <= u (Higham 2002, chapter 2).

Nothing here switches rounding modes: results are computed as usual and an error term of the right size is subtracted.
Underflow is covered by `tiny`. The bounds hold for any order of summation, with or without fused multiply-add.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    """u: 2**-53 for float64, 2**-24 for float32."""
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, dtype: torch.dtype) -> float:
    """gamma_n = n u / (1 - n u): relative error of n roundings, rounded up (Higham 2002, lemma 3.1)."""
    nu = (terms + 2) * unit_roundoff(dtype)
    if nu >= 0.5:
        raise ValueError(f"{terms} roundings are too many for {dtype}")
    return nu / (1 - nu)


def tiny(dtype: torch.dtype) -> float:
    """An absolute slack far above accumulated underflow and far below anything a bound can see."""
    return 1e-280 if dtype == torch.float64 else 1e-30


def down(value: Tensor, ulps: int = 4) -> Tensor:
    """At least `ulps` units in the last place below `value`."""
    return value - (value.abs() * (ulps * torch.finfo(value.dtype).eps) + tiny(value.dtype))


def up(value: Tensor, ulps: int = 4) -> Tensor:
    """At least `ulps` units in the last place above `value`."""
    return value + (value.abs() * (ulps * torch.finfo(value.dtype).eps) + tiny(value.dtype))
