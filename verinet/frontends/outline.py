"""What the reader needs of an ONNX file: inputs, constants, nodes and outputs as plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Constant
from verinet.frontends.call import OnnxNode
from verinet.frontends.folding import constant_value
from verinet.frontends.source import Source
from verinet.frontends.tensors import array_of, attributes_of, dtype_of
from verinet.ir.graph import Shape, total

_DEFAULT_DOMAINS = ("", "ai.onnx")
OPSETS = range(7, 27)
_MOST_INPUTS = 1 << 31  # what follows needs some bytes for each


@dataclass(frozen=True, slots=True)
class Port:
    """One network input: symbolic extents are fixed to 1."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Outline:
    """The main graph. `nodes` are in topological order, those that the outputs do not need left out."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[OnnxNode, ...]
    unneeded: tuple[OnnxNode, ...]
    constants: dict[str, Constant]
    opset: int


def outline_of(source: Source) -> Outline:
    """Read a parsed file.

    Raises:
        ModelError: an opset, an element type or a shape that cannot be handled, or a damaged tensor.
    """
    proto = _inlined(source.proto)
    where = source.name
    constants = {t.name: Constant(array_of(t, where), t.name) for t in proto.graph.initializer}
    if proto.graph.sparse_initializer:
        raise ModelError("sparse initialisers are not supported", where=where, hint="export dense weights")
    inputs = tuple(_port(v, where) for v in proto.graph.input if v.name not in constants)
    if not inputs:
        raise ModelError("this network has no inputs", where=where)
    outputs = tuple(v.name for v in proto.graph.output)
    nodes = [_node(node, where) for node in proto.graph.node]
    needed, unneeded = _needed(nodes, outputs)
    computed = [node for node in needed if node.op != "Constant"]
    for node in needed:
        if node.op == "Constant":
            constants[node.outputs[0]] = Constant(constant_value(node), node.outputs[0])
    return Outline(inputs, outputs, tuple(computed), tuple(unneeded), constants, _opset(proto, where))


def _inlined(proto: Any) -> Any:
    if not proto.functions:
        return proto
    from onnx import inliner

    return inliner.inline_local_functions(proto)


def _opset(proto: Any, where: str) -> int:
    versions = [int(o.version) for o in proto.opset_import if o.domain in _DEFAULT_DOMAINS]
    opset = versions[0] if versions else 1
    if opset not in OPSETS:
        raise ModelError(
            f"opset {opset} is not supported (we read {OPSETS.start} to {OPSETS.stop - 1})",
            where=where,
            hint="convert the file with onnx.version_converter",
        )
    return opset


def _port(info: Any, where: str) -> Port:
    kind = info.type.tensor_type
    place = f"input '{info.name}' of {where}"
    if not info.type.HasField("tensor_type"):
        raise ModelError("an input is not a tensor", where=place)
    dtype = dtype_of(kind.elem_type, place)
    if not kind.HasField("shape"):
        raise ModelError("an input has no shape", where=place, hint="export with a fixed input shape")
    shape = tuple(int(d.dim_value) if d.dim_value > 0 else 1 for d in kind.shape.dim)
    if total(shape) > _MOST_INPUTS:
        raise ModelError(f"an input of {total(shape)} numbers is too large", where=place, hint="is the file damaged?")
    return Port(info.name, shape, dtype)


def _node(node: Any, where: str) -> OnnxNode:
    domain = "" if node.domain in _DEFAULT_DOMAINS else node.domain
    place = f"node '{node.name or (node.output[0] if node.output else node.op_type)}' of {where}"
    attributes = attributes_of(node, place) if node.attribute else {}
    return OnnxNode(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes, domain)


def _needed(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> tuple[list[OnnxNode], list[OnnxNode]]:
    wanted = set(outputs)
    needed: list[OnnxNode] = []
    rest: list[OnnxNode] = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            needed.append(node)
        else:
            rest.append(node)
    return needed[::-1], rest[::-1]
