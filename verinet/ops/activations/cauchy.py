"""Cauchy activation l1 x / (x^2 + d^2) + l2 / (x^2 + d^2) (Li, Xia and Zhang 2024, arXiv 2409.19221)."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _cauchy(attributes: Attributes) -> ScalarFunction | None:
    """Parameters "l1", "l2", "d" (not 0), each a number or one per channel."""
    width = torch.as_tensor(attributes.get("d", 1.0), dtype=torch.float64)
    if bool((width == 0).any()):
        return None
    numbers = {"l1": attributes.get("l1", 0.01), "l2": attributes.get("l2", 0.01), "d": width}
    return from_expression("Cauchy", "(l1 * x + l2) / (x**2 + d**2)", **numbers)


register("Cauchy", _cauchy, ({}, {"l1": 1.0, "l2": -0.5, "d": 0.5}, {"l1": torch.tensor([1.0, -1.0, 0.0]), "l2": 0.25}))
