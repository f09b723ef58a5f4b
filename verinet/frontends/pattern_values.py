"""Values of elementwise ONNX operators in float64, to confirm patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from verinet.frontends.call import OnnxNode

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
    "Identity": lambda x: x,
}
_BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
    "Max": torch.maximum,
    "Min": torch.minimum,
}
_COMPARISONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_FLOATS = (1, 11)  # ONNX codes of float32 and float64


def can_compute(node: OnnxNode) -> bool:
    """True for elementwise operators whose values `compute` knows."""
    if node.domain:
        return False
    if node.op in _BINARY or node.op in _COMPARISONS:
        return len(node.inputs) == 2
    if node.op == "Cast":
        return node.attributes.get("to") in _FLOATS
    return node.op in _UNARY or node.op in ("Clip", "HardSigmoid", "Where")


def compute(node: OnnxNode, inputs: Sequence[Tensor | None]) -> Tensor:
    """Value of one node; scalars broadcast."""
    given = [x for x in inputs if x is not None]
    if node.op in _UNARY:
        return _UNARY[node.op](given[0])
    if node.op in _BINARY:
        return _BINARY[node.op](given[0], given[1])
    if node.op in _COMPARISONS:
        return _COMPARISONS[node.op](given[0], given[1]).double()  # arithmetic may follow, behind a cast
    if node.op == "Where":
        return torch.where(given[0].bool(), given[1], given[2])
    if node.op == "HardSigmoid":
        slope, offset = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        return torch.clamp(given[0] * slope + offset, 0, 1)
    if node.op == "Clip":
        return _clip(node, inputs)
    return given[0]


def _clip(node: OnnxNode, inputs: Sequence[Tensor | None]) -> Tensor:
    ends = list(inputs[1:]) + [None, None]
    for place, name in enumerate(("min", "max")):
        if ends[place] is None and name in node.attributes:
            ends[place] = torch.tensor(float(node.attributes[name]), dtype=torch.float64)
    low, high = ends[0], ends[1]
    result = inputs[0]
    if result is None:
        raise ValueError("Clip without an input")
    result = result if low is None else torch.maximum(result, low)
    return result if high is None else torch.minimum(result, high)
