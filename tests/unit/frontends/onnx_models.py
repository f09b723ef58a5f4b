"""Small ONNX models for the reader's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Spec:
    """One node (or a chain of them) over one or more inputs."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    inputs: Mapping[str, Sequence[int | str]]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    opset: int = 13
    outputs: Sequence[str] = ("y",)
    dtype: int = TensorProto.FLOAT
    out_type: int | None = None

    def model(self) -> onnx.ModelProto:
        ins = [helper.make_tensor_value_info(n, self.dtype, list(s)) for n, s in self.inputs.items()]
        kind = self.dtype if self.out_type is None else self.out_type
        outs = [helper.make_tensor_value_info(n, kind, None) for n in self.outputs]
        fixed = [numpy_helper.from_array(np.asarray(a), n) for n, a in self.constants.items()]
        graph = helper.make_graph(list(self.nodes), "test", ins, outs, fixed)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def node(op: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `outputs` are separated by blanks; "_" leaves one out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def single(op: str, shape: Sequence[int], name: str = "", opset: int = 13, **rest: Any) -> Spec:
    """One node on one input; capitalised keywords are constant inputs in order, the others are attributes."""
    constants = {k: v for k, v in rest.items() if k[0].isupper()}
    attributes = {k: v for k, v in rest.items() if not k[0].isupper()}
    label = f"{op} {name or ' '.join(f'{k}={v}' for k, v in attributes.items())} opset {opset}"
    made = node(op, " ".join(["x", *constants]), "y", **attributes)
    return Spec(label, [made], {"x": shape}, constants, opset)
