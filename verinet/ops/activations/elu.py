"""ELU, SELU and CELU: an exponential left of 0 and a line right of it."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, number, register
from verinet.ops.scalar_function import ScalarFunction


def _range(steep: float, positive: float) -> tuple[float, float]:
    """Slopes of both pieces, widened since float32 may not hold them."""
    ends = (0.0, steep, positive)
    return min(ends) - 1e-6 * abs(min(ends)), max(ends) * (1 + 1e-6)


def exponential_unit(name: str, scale: float, rate: float, positive: float) -> ScalarFunction:
    """scale (exp(rate x) - 1) for x <= 0 and positive * x for x > 0; the kink at 0 may be of either kind.

    The rate is positive. f'(0-) = scale rate equals f'(0+) for ELU with alpha 1 and for CELU; for SELU it is larger: a
    concave kink.
    """
    steep = scale * rate
    curve = (scale > 0) - (scale < 0)

    def value(x: Tensor) -> Tensor:
        return torch.where(x > 0, x * positive, torch.expm1(x.clamp(max=0) * rate) * scale)

    def slope(x: Tensor) -> Tensor:
        return torch.where(x > 0, positive, torch.exp(x.clamp(max=0) * rate) * steep)

    def inverse(k: Tensor, piece: int) -> Tensor:
        return torch.log((k / steep).clamp(min=0)) / rate

    size = max(abs(scale), abs(steep), abs(positive), 1.0)
    return ScalarFunction(
        name=name,
        value=value,
        slope=slope,
        breakpoints=(0.0,),
        curvature=(curve, 0),
        kinks=() if steep == positive else (0.0,),
        extrema=(0.0,) if steep * positive < 0 else (),
        slope_range=_range(steep, positive),
        inverse_slope=inverse if steep else None,
        # exp(t) loses |t| ulps through the rounding of t, and |t| exp(t) <= 1/e for t <= 0.
        error_ulps=8.0,
        error_floor=size,
        slope_ulps=8.0,
        slope_floor=size,
    )


def _elu(attributes: Attributes) -> ScalarFunction:
    return exponential_unit("ELU", number(attributes, "alpha", 1.0), 1.0, 1.0)


def _selu(attributes: Attributes) -> ScalarFunction:
    # The defaults are the float32 numbers of the ONNX operator's definition.
    alpha = number(attributes, "alpha", 1.67326319217681884765625)
    gamma = number(attributes, "gamma", 1.05070102214813232421875)
    return exponential_unit("SELU", gamma * alpha, 1.0, gamma)


def _celu(attributes: Attributes) -> ScalarFunction | None:
    alpha = number(attributes, "alpha", 1.0)
    return None if alpha <= 0 else exponential_unit("CELU", alpha, 1.0 / alpha, 1.0)


register("Elu", _elu, ({}, {"alpha": 0.5}, {"alpha": 2.0}, {"alpha": -0.5}, {"alpha": 0.0}))
register("Selu", _selu, ({}, {"alpha": 0.5, "gamma": 1.25}))
register("Celu", _celu, ({}, {"alpha": 2.0}, {"alpha": 0.3}))
