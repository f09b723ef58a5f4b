"""Snake x + sin^2(a x) / a (Ziyin et al. 2020), with one a or one per channel: increasing, wavy."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _snake(attributes: Attributes) -> ScalarFunction:
    return from_expression("Snake", "x + sin(a * x)**2 / a", a=attributes.get("alpha", 1.0))


register("Snake", _snake, ({}, {"alpha": 5.0}, {"alpha": torch.tensor([0.5, 1.0, 3.0, -1.0, 0.5])}))
