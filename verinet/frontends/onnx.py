"""The ONNX reader: a file becomes a `Model`, or a list of what can and cannot be bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.builder import Constant, GraphBuilder, Value, Variable
from verinet.frontends.call import Call, OnnxNode
from verinet.frontends.elementwise import by_table
from verinet.frontends.folding import evaluate, run_node, shape_of
from verinet.frontends.handlers import HANDLERS
from verinet.frontends.integer_results import guarded
from verinet.frontends.model import Model, OperatorRecord, RecordStatus
from verinet.frontends.outline import Outline, outline_of
from verinet.frontends.patterns import recognise
from verinet.frontends.simplify import simplify
from verinet.frontends.source import Source, read_source
from verinet.frontends.tabulated import Tabulated, continued, resolved
from verinet.frontends.tensors import Array
from verinet.ir.check import check_structure
from verinet.ir.graph import total
from verinet.ir.passes.dead import drop_dead

__all__ = ["Model", "OperatorRecord", "inspect_onnx", "load_onnx"]


def load_onnx(given: str | Path | bytes | Any) -> Model:
    """Read a network: a path (.onnx or .onnx.gz), the bytes of such a file, or an `onnx.ModelProto`.

    Symbolic extents, such as a batch size, are fixed to 1. All inputs together are one flat vector, in the order of the
    file, and so are all outputs.

    Raises:
        UsageError: no such file.
        ModelError: not an ONNX model, truncated, or of a kind that cannot be reasoned about.
        UnsupportedOperatorError: an operator without bounds; `inspect_onnx` lists all of them.
    """
    source = read_source(given)
    outline = outline_of(source)
    reader = _Reader(source, outline)
    reader.run()
    return _finished(source, outline, reader)


def inspect_onnx(given: str | Path | bytes | Any) -> tuple[OperatorRecord, ...]:
    """What becomes of every ONNX node of a file, in order. Unsupported operators are listed, not raised.

    Raises:
        UsageError, ModelError: the file itself cannot be read.
    """
    source = read_source(given)
    outline = outline_of(source)
    reader = _Reader(source, outline, lenient=True)
    reader.run()
    unneeded = [node for node in outline.unneeded if node.op != "Constant"]
    dropped = [OperatorRecord(n.label, n.op, "folded", "not needed for the outputs") for n in unneeded]
    return (*reader.records, *dropped)


@dataclass
class _Reader:
    """Walks the nodes of a file once, in order, and grows the graph. With `lenient`, it goes on after a gap."""

    source: Source
    outline: Outline
    lenient: bool = False
    values: dict[str, Value | Tabulated | None] = field(default_factory=dict)
    records: list[OperatorRecord] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = GraphBuilder(sum(total(port.shape) for port in self.outline.inputs))
        self.values.update(self.outline.constants)
        self.values[""] = None
        self.original = {node.outputs[0]: node.op for node in self.outline.nodes}

    def run(self) -> None:
        self._enter()
        found = recognise(self.outline)
        for node in found.nodes:
            self._read(node, found.notes.get(node.outputs[0], ""))
        self.records += [OperatorRecord(node.label, node.op, "folded", note) for node, note in found.absorbed]

    def _enter(self) -> None:
        """Network inputs are pieces of the flat vector."""
        offset = 0
        flat = Variable(0, self.builder.nodes[0].shape, np.dtype(np.float64))
        for port in self.outline.inputs:
            index = np.arange(offset, offset + total(port.shape), dtype=np.int64).reshape(port.shape)
            start = len(self.builder.nodes)
            piece = self.builder.index(flat, index)
            self.builder.rename(start, port.name)
            self.values[port.name] = Variable(piece.node, piece.shape, port.dtype)
            self.makers[port.name] = f"input '{port.name}'"
            offset += total(port.shape)

    def _read(self, node: OnnxNode, note: str) -> None:
        for output in node.outputs:
            self.makers[output] = f"{node.op} '{node.label}'"
        unknown = [name for name in node.inputs if name not in self.values]
        if unknown and not self.lenient:
            raise ModelError(f"node '{node.label}' reads '{unknown[0]}', which nothing makes", where=self.source.name)
        if unknown:
            self._guess(node)
            return
        try:
            status, outputs = self._outputs(node)
        except ModelError as error:
            if not self.lenient:
                raise
            outputs, status, note = self._stand_ins(node), "unsupported", _reason(error, node)
        self._record(node, status, note)
        self.values.update(zip(node.outputs, outputs, strict=False))
        self.values[""] = None  # also an output that is left out has this name

    def _stand_ins(self, node: OnnxNode) -> Sequence[Value]:
        """Constant nodes in place of outputs that cannot be bounded, so that the nodes behind them can be looked at."""
        arrays = [_sample(self.settled(name)) for name in node.inputs]
        try:
            found = run_node(node, arrays, self.outline.opset, node.label)
        except ModelError:
            return []
        variables = [self.builder.constant(np.ones(a.shape, a.dtype)) for a in found]
        return [Variable(v.node, v.shape, a.dtype) for v, a in zip(variables, found, strict=True)]

    def _record(self, node: OnnxNode, status: RecordStatus, detail: str) -> None:
        op = self.original.get(node.outputs[0], node.op)
        self.records.append(OperatorRecord(node.label, op, status, detail))

    def _guess(self, node: OnnxNode) -> None:
        """After a gap shapes are unknown, so only the operator itself can be looked up."""
        from verinet.ops.activations.registry import table

        known = node.domain == "" and (node.op in HANDLERS or node.op in table() or node.op in ("Shape", "Size"))
        detail = "behind an unsupported operator, so its use was not checked" if known else "no bounds yet"
        self._record(node, "bounded" if known else "unsupported", detail)

    def settled(self, name: str) -> Value | None:
        """A tensor by name; what is tabulated becomes a graph value where something else reads it."""
        value = self.values.get(name)
        if isinstance(value, Tabulated):
            self.builder.scope, start = name, len(self.builder.nodes)
            value = self.values[name] = resolved(value, self.builder, self.outline.opset, self.source.name)
            self.builder.rename(start, name)
        return value

    def _outputs(self, node: OnnxNode) -> tuple[RecordStatus, Sequence[Value | Tabulated]]:
        tables = continued(node, self.values, self.builder.nodes)
        if tables is not None:
            return "bounded", tables
        inputs = [self.settled(name) for name in node.inputs]
        where = f"node '{node.label}' of {self.source.name}"
        if all(value is None or isinstance(value, Constant) for value in inputs):
            arrays = [None if v is None else v.array for v in inputs if not isinstance(v, Variable)]
            found = evaluate(node, arrays, self.outline.opset, where)
            return "folded", [Constant(a, name) for a, name in zip(found, node.outputs, strict=False)]
        if node.op in ("Shape", "Size") and inputs[0] is not None:
            extents = shape_of(node, inputs[0].shape)
            size = np.asarray(total(inputs[0].shape), dtype=np.int64)
            return "folded", [Constant(extents if node.op == "Shape" else size, node.outputs[0])]
        return "bounded", self._built(node, inputs)

    def _built(self, node: OnnxNode, inputs: Sequence[Value | None]) -> Sequence[Value]:
        producers = tuple(self.makers[n] for n in node.inputs if n in self.makers)
        call = Call(node, tuple(inputs), self.builder, self.outline.opset, self.source.name, producers)
        start = len(self.builder.nodes)
        self.builder.scope = node.outputs[0] or node.label
        try:
            found = _handled(call)
        except (ValueError, IndexError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"the operator {node.op} does not fit its inputs: {error}", where=call.where) from error
        outputs = [found] if isinstance(found, Constant | Variable) else list(found)
        self.builder.rename(start, node.outputs[0] or node.label)
        for output, value in zip(node.outputs, outputs, strict=False):
            if output and len(outputs) > 1 and isinstance(value, Variable) and value.node >= start:
                self.builder.rename_one(value.node, output)
        return outputs


def _handled(call: Call) -> Value | Sequence[Value]:
    """The outputs of a node, from its handler or the table of activations."""
    if call.node.domain:
        raise call.unsupported(f"of the domain {call.node.domain}")
    if call.node.op in HANDLERS:
        return guarded(call, HANDLERS[call.node.op](call))
    found = by_table(call)
    if found is None:
        raise call.unsupported()
    return guarded(call, found)


def _sample(value: Value | None) -> Array | None:
    if isinstance(value, Variable):
        return np.zeros(value.shape, value.dtype)
    return None if value is None else value.array


def _reason(error: ModelError, node: OnnxNode) -> str:
    if not isinstance(error, UnsupportedOperatorError):
        return error.fact
    return error.op.removeprefix(node.op).strip(" ()") or "no bounds yet"


def _finished(source: Source, outline: Outline, reader: _Reader) -> Model:
    builder = reader.builder
    ends = [_end(reader, name) for name in outline.outputs]
    builder.scope = "output"
    variables = [v if isinstance(v, Variable) else builder.constant(v.array) for v in ends]
    last = builder.concat([builder.reshape(v, (total(v.shape),)) for v in variables], 0)
    nodes, aliases = simplify(builder.nodes)
    graph, moved = drop_dead(nodes, aliases.get(last.node, last.node))
    check_structure(graph, "ONNX reader")
    places = {
        name: moved[aliases.get(value.node, value.node)]
        for name, value in reader.values.items()
        if isinstance(value, Variable) and aliases.get(value.node, value.node) in moved
    }
    return Model(
        graph=graph,
        input_names=tuple(port.name for port in outline.inputs),
        input_shapes=tuple(port.shape for port in outline.inputs),
        input_dtypes=tuple(port.dtype for port in outline.inputs),
        output_names=outline.outputs,
        output_shapes=tuple(v.shape for v in ends),
        output_dtypes=tuple(v.dtype for v in ends),
        sha256=source.sha256,
        raw=source.raw,
        path=source.path,
        opset=outline.opset,
        records=tuple(reader.records),
        tensors=places,
    )


def _end(reader: _Reader, name: str) -> Value:
    value = reader.settled(name)
    if value is None:
        raise ModelError(f"nothing makes the output '{name}'", where=reader.source.name)
    return value
