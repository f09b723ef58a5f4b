"""Copies of a network with further outputs, or with open sizes fixed. Its weights and operators stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from verinet.errors import PropertyError
from verinet.frontends.model import Model
from verinet.frontends.source import read_source
from verinet.ir.graph import Shape


def with_outputs(model: Model, names: Sequence[str]) -> tuple[Model, Mapping[str, str]]:
    """The network with some inner tensors as further outputs, and the tensor that each name stands for.

    A name is that of a tensor, or of a node with one output. Raises PropertyError for an unknown name, and ModelError
    or UnsupportedOperatorError where a tensor that the outputs do not need cannot be bounded.
    """
    proto = _proto(model)
    tensors = {name: _tensor(proto, name, model.name) for name in names}
    present = {output.name for output in proto.graph.output}
    wanted = [tensor for tensor in dict.fromkeys(tensors.values()) if tensor not in present]
    if not wanted:
        return model, tensors
    for tensor in wanted:
        proto.graph.output.add().name = tensor
    return _reread(proto, model), tensors


def with_sizes(model: Model, shapes: Sequence[Shape]) -> Model:
    """The network with the open extents of its inputs fixed to `shapes`; unchanged where those do not fit."""
    proto = _proto(model)
    initialised = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initialised]
    for value, shape in zip(inputs, shapes, strict=True):
        extents = value.type.tensor_type.shape.dim
        if len(extents) != len(shape):
            return model
        for extent, size in zip(extents, shape, strict=True):
            if extent.dim_value > 0 and extent.dim_value != size:
                return model
            extent.dim_value = size
    del proto.graph.value_info[:]  # shapes inferred for the open sizes
    return _reread(proto, model)


def _proto(model: Model) -> Any:
    """A fresh, complete copy of the file."""
    return read_source(model.raw if model.raw is not None else model.path).proto


def _reread(proto: Any, model: Model) -> Model:
    from verinet.frontends.onnx import load_onnx

    return replace(load_onnx(proto), path=model.path, sha256=model.sha256)


def _tensor(proto: Any, name: str, where: str) -> str:
    made = {output for node in proto.graph.node for output in node.output if output}
    if name in made:
        return name
    nodes = [node for node in proto.graph.node if node.name == name]
    if len(nodes) == 1 and len([output for output in nodes[0].output if output]) == 1:
        return str(nodes[0].output[0])
    inputs = {value.name for value in proto.graph.input}
    hint = "declare it with declare-input" if name in inputs else f"it has {_some(sorted(made))}"
    raise PropertyError(f"the network has no hidden tensor '{name}'", where=where, hint=hint)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
