"""SIREN sine sin(w x) (Sitzmann et al. 2020), with one w or one per channel."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _siren(attributes: Attributes) -> ScalarFunction:
    """The default rate 30 is that of the paper's first layer."""
    return from_expression("SIREN", "sin(w * x)", w=attributes.get("w", 30.0))


register("Siren", _siren, ({}, {"w": 1.5}, {"w": torch.tensor([1.0, 0.25, -2.0, 6.0, 1.0])}))
