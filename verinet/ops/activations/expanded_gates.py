"""Gated units whose gate may leave [0, 1]: x (g(x) (1 + 2 a) - a), for xGELU, xSiLU and xATLU (Huang 2024)."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import Attributes, Builder, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction

_TEXTS = {
    "xGELU": "gelu(x) * (1 + 2 * a) - a * x",
    "xSiLU": "x * (sigmoid(x) * (1 + 2 * a) - a)",
    "xATLU": "x * ((0.5 + atan(x) / pi) * (1 + 2 * a) - a)",
}


def _builder(name: str) -> Builder:
    def build(attributes: Attributes) -> ScalarFunction:
        return from_expression(name, _TEXTS[name], a=attributes.get("alpha", 0.0))

    return build


for _name in _TEXTS:
    register(_name, _builder(_name), ({}, {"alpha": 0.5}, {"alpha": torch.tensor([0.25, -0.125, 0.0, 1.0])}))
