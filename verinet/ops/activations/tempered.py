"""Tempered sigmoid s / (1 + exp(-t x)) - o (Papernot et al. 2021); tanh is s = 2, t = 2, o = 1."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _tempered(attributes: Attributes) -> ScalarFunction:
    """Parameters "scale", "temperature" and "offset", each a number or one per channel."""
    numbers = {"s": attributes.get("scale", 2.0), "t": attributes.get("temperature", 2.0)}
    return from_expression("Tempered sigmoid", "s * sigmoid(t * x) - o", **numbers, o=attributes.get("offset", 1.0))


register(
    "TemperedSigmoid",
    _tempered,
    ({}, {"scale": 1.5, "temperature": 0.75, "offset": 0.25}, {"temperature": torch.tensor([0.5, 1.0, 4.0])}),
)
