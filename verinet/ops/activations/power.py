"""x^p for a constant exponent p."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.scalar_function import ScalarFunction


def _affine(p: int) -> ScalarFunction:
    return ScalarFunction(
        name="Pow",
        value=(lambda x: x * 1.0) if p else torch.ones_like,
        slope=torch.ones_like if p else torch.zeros_like,
        slope_range=(float(p), float(p)),
        error_ulps=0.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


def _shape(p: float) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Breakpoints and curvature of x^p; for fractional p on x >= 0 only."""
    if not p.is_integer():
        return (), ((-1,) if 0 < p < 1 else (1,))
    if p > 0:
        return ((), (1,)) if p % 2 == 0 else ((0.0,), (-1, 1))
    return (0.0,), ((1, 1) if p % 2 == 0 else (-1, 1))


def _inverse(p: float) -> object:
    def inverse(k: Tensor, piece: int) -> Tensor:
        ratio = k / p
        size = ratio.abs().clamp(min=1e-300 if k.dtype == torch.float64 else 1e-36).pow(1 / (p - 1))
        if p > 0 and p.is_integer() and p % 2 == 0:
            return torch.where(ratio >= 0, size, -size)
        # Elsewhere the slope keeps one sign on each piece, and the piece tells the side.
        settled = torch.where(ratio > 0, size, torch.zeros_like(size) if p > 1 else torch.full_like(size, torch.inf))
        return -settled if len(_shape(p)[1]) > 1 and piece == 0 else settled

    return inverse


def power(p: float) -> ScalarFunction:
    """x^p: x in R for whole p >= 0, x != 0 for whole p < 0, x >= 0 (x > 0 if p < 0) for fractional p."""
    if p in (0.0, 1.0):
        return _affine(int(p))
    breakpoints, curvature = _shape(p)
    whole = p.is_integer()
    even = whole and p % 2 == 0
    exact = float(torch.tensor(p, dtype=torch.float32)) == p
    # An exponent that float32 rounds costs |ln x| |p| more ulps there, and |ln x| < 90.
    ulps = 8.0 + (0.0 if exact else 100 * abs(p)) + abs(p)
    return ScalarFunction(
        name="Pow",
        value=lambda x: x.pow(p),
        slope=lambda x: p * x.pow(p - 1),
        breakpoints=breakpoints,
        curvature=curvature,
        extrema=(0.0,) if even and p > 0 else (),
        bounds=(0.0 if even or not whole else -math.inf, math.inf),
        slope_range=(0.0 if p > 0 and not even else -math.inf, 0.0 if p < 0 and not even else math.inf),
        inverse_slope=_inverse(p),  # type: ignore[arg-type]
        domain=(-math.inf if whole else 0.0, math.inf),
        poles=(0.0,) if p < 0 else (),
        error_ulps=ulps,
        error_floor=0.0,
        slope_ulps=ulps + 8,
        slope_floor=0.0,
    )


def _pow(attributes: Attributes) -> ScalarFunction | None:
    exponent = attributes.get("exponent")
    if exponent is None:
        return None
    flat = torch.as_tensor(exponent, dtype=torch.float64).reshape(-1)
    if flat.numel() == 0 or not bool((flat == flat[0]).all()) or not math.isfinite(float(flat[0])):
        return None
    return power(float(flat[0]))


_EXAMPLES = (2.0, 3.0, 4.0, 7.0, 0.0, 1.0, -1.0, -2.0, -3.0, 0.5, 0.3, 1.5, 2.7, -0.5, -1.5)
register("Pow", _pow, tuple({"exponent": p} for p in _EXAMPLES))
