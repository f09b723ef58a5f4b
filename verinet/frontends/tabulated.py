"""Parts of a network that depend on its input only through a few integers, such as a slice that starts at one.

Shapes inside such a part may vary, so it cannot become graph nodes one by one. Instead ONNX Runtime evaluates it for
every combination of the integers, and the graph gets a table of the results, looked up by hats (see
`handlers_selection`). From the largest sliced extent on, a slice is empty for every start, so the table is finite.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.builder import Constant, GraphBuilder, Variable, parameter
from verinet.frontends.call import OnnxNode
from verinet.frontends.tensors import Array
from verinet.frontends.whole_numbers import is_whole
from verinet.ir.graph import Node, Op, total
from verinet.ops.bilinear.product import Product
from verinet.ops.integer import IntegerRange
from verinet.ops.linear.arithmetic import Shift
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.position import position
from verinet.ops.sorting.steps import HAT

_MOST_CASES = 4096
_MOST_ENTRIES = 1 << 25


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of one integer: the value of graph node `root` plus `offset` >= 0."""

    variable: Variable
    root: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Tabulated:
    """A tensor that `nodes` compute from `sources` and `constants`, by name."""

    name: str
    nodes: tuple[OnnxNode, ...]
    sources: Mapping[str, Source]
    constants: Mapping[str, Constant]


def continued(node: OnnxNode, values: Mapping[str, Any], graph: Sequence[Node]) -> list[Tabulated] | None:
    """The outputs of a node that belongs to such a part: a slice of a constant from a computed start, or behind one."""
    inputs = {name: values[name] for name in node.inputs if name}
    tables = [v for v in inputs.values() if isinstance(v, Tabulated)]
    begins = node.op == "Slice" and isinstance(inputs.get(node.inputs[0]), Constant)
    if not tables and not begins:
        return None
    sources: dict[str, Source] = {}
    for position_, name in enumerate(node.inputs):
        value = inputs.get(name)
        if isinstance(value, Variable):
            source = _source(graph, value) if node.op == "Slice" and position_ in (1, 2) else None
            if source is None:
                return None
            sources[name] = source
    if not tables and not sources:
        return None
    nodes = {made.outputs: made for table in tables for made in table.nodes}
    constants = {name: v for name, v in inputs.items() if isinstance(v, Constant)}
    for table in tables:
        sources.update(table.sources)
        constants.update(table.constants)
    return [Tabulated(name, (*nodes.values(), node), sources, constants) for name in node.outputs]


def _source(graph: Sequence[Node], value: Variable) -> Source | None:
    """A single integer behind views and shifts by integers >= 0."""
    position_, offset = value.node, 0
    if total(value.shape) != 1 or not is_whole(graph, value):
        return None
    while _is_view(graph[position_].op) and graph[position_].shape != graph[0].shape:
        node = graph[position_]
        op = node.op
        if total(graph[node.inputs[0]].shape) != 1:
            break
        if isinstance(op, Shift):
            step = float(op.offset.reshape(-1)[0])
            if not step.is_integer():
                return None
            offset += int(step)
        elif isinstance(op, Index) and int(op.index.reshape(-1)[0]) < 0:
            return None
        position_ = node.inputs[0]
    return Source(value, position_, offset) if offset >= 0 else None


def _is_view(op: Op) -> bool:
    """Views and shifts; a check that an integer fits its type is none of the few cases' business."""
    if isinstance(op, Elementwise):
        return isinstance(op.function, IntegerRange)
    return isinstance(op, Reshape | Index | Shift)


def resolved(table: Tabulated, builder: GraphBuilder, opset: int, model: str) -> Variable | Constant:
    """The tensor as a graph value.

    Raises:
        UnsupportedOperatorError: too many cases, a result whose shape is not the same for all, or a starting point
            that the part uses in another way than as the start or end of slices.
    """
    return _Table(table, builder, opset, model).value()


class _Table:
    """One table under construction."""

    def __init__(self, table: Tabulated, builder: GraphBuilder, opset: int, model: str) -> None:
        self.table, self.builder, self.opset, self.model = table, builder, opset, model
        self.roots = sorted({source.root for source in table.sources.values()})
        self.slices = [node for node in table.nodes if node.op == "Slice"]

    def refused(self, why: str) -> UnsupportedOperatorError:
        first = self.slices[0]
        return UnsupportedOperatorError(f"Slice (from a computed start, {why})", first.label, self.model)

    def value(self) -> Variable | Constant:
        tops = self._tops()
        cases = list(itertools.product(*(range(top + 1) for top in tops)))
        results = [self._run(dict(zip(self.roots, case, strict=True)), tops) for case in cases]
        shapes = {result.shape for result in results}
        if len(shapes) != 1:
            raise self.refused("with a result of varying shape")
        if len(cases) * results[0].size > _MOST_ENTRIES:
            raise self.refused("with too many results")
        rows = np.stack([result.reshape(-1) for result in results]).astype(np.float64)
        return self._looked_up(rows, tops, results[0])

    def _tops(self) -> list[int]:
        """For every root a value from which on nothing changes: the largest extent that it slices."""
        found = self._outputs(dict.fromkeys(self.roots, 0))
        tops = dict.fromkeys(self.roots, 0)
        for root, extent in self._sliced(found):
            tops[root] = max(tops[root], extent)
        if np.prod([top + 1.0 for top in tops.values()]) > _MOST_CASES:
            raise self.refused("with too many cases")
        return [tops[root] for root in self.roots]

    def _sliced(self, found: Mapping[str, Array]) -> list[tuple[int, int]]:
        """Every root with the extents that it slices."""
        pairs: list[tuple[int, int]] = []
        for node in self.slices:
            data = self._array(node.inputs[0], found)
            starts, ends = node.inputs[1], node.inputs[2]
            axes = [0] if len(node.inputs) < 4 or not node.inputs[3] else self._array(node.inputs[3], found).tolist()
            steps = [1] if len(node.inputs) < 5 or not node.inputs[4] else self._array(node.inputs[4], found).tolist()
            used = [self.table.sources[name] for name in (starts, ends) if name in self.table.sources]
            if used and (len(axes) != 1 or steps != [1] or len(used) != 2):
                raise self.refused("with another step or end")
            pairs += [(source.root, int(data.shape[axes[0]])) for source in used]
        return pairs

    def _array(self, name: str, found: Mapping[str, Array]) -> Array:
        return found[name] if name in found else self.table.constants[name].array

    def _run(self, case: Mapping[int, int], tops: Sequence[int]) -> Array:
        found = self._outputs(case)
        limits = dict(zip(self.roots, tops, strict=True))
        if any(extent > limits[root] for root, extent in self._sliced(found)):
            raise self.refused("with extents that grow")
        return found[self.table.name]

    @cached_property
    def _wanted(self) -> list[str]:
        made = {output for node in self.table.nodes for output in node.outputs}
        read = [name for node in self.slices for name in node.inputs if name in made]
        return list(dict.fromkeys([self.table.name, *read]))

    def _outputs(self, case: Mapping[int, int]) -> dict[str, Array]:
        feeds = {
            name: np.full(source.variable.shape, case[source.root] + source.offset, dtype=source.variable.dtype)
            for name, source in self.table.sources.items()
        }
        return dict(zip(self._wanted, self._session.run(self._wanted, feeds), strict=True))

    @cached_property
    def _session(self) -> Any:
        import onnxruntime
        from onnx import helper, numpy_helper

        made = [
            helper.make_node(
                n.op, n.inputs, n.outputs, domain=n.domain, **{k: _attribute(v) for k, v in n.attributes.items()}
            )
            for n in self.table.nodes
        ]
        fixed = [
            numpy_helper.from_array(np.ascontiguousarray(c.array), name) for name, c in self.table.constants.items()
        ]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(s.variable.dtype), s.variable.shape)
            for name, s in self.table.sources.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self._wanted]
        graph = helper.make_graph(made, "part", inputs, outputs, fixed)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exception types are not public
            raise ModelError(f"ONNX Runtime cannot open a part of this network: {error}", where=self.model) from error

    def _looked_up(self, rows: Array, tops: Sequence[int], like: Array) -> Variable | Constant:
        """The row of the case that the integers name: the last row, plus the hats times the differences to it."""
        base = rows[-1]
        changes, place = np.unique(rows - base, axis=1, return_inverse=True)
        if not changes.any():
            return Constant(like, self.table.name)
        builder = self.builder
        chosen: Variable | None = None
        for root, top in zip(self.roots, tops, strict=True):
            hats = self._hats(root, top)
            chosen = hats if chosen is None else self._crossed(chosen, hats)
        if chosen is None:
            return Constant(like, self.table.name)
        different = builder.emit(Dense(parameter(changes)), [chosen], (changes.shape[1],), like.dtype)
        return builder.shift(
            builder.index(different, place.reshape(like.shape).astype(np.int64)), base.reshape(like.shape)
        )

    def _hats(self, root: int, top: int) -> Variable:
        """(top + 1,): 1 at min(root, top)."""
        builder, kind = self.builder, np.dtype(np.float64)
        start = builder.reshape(Variable(root, builder.nodes[root].shape, kind), (1,))
        cut = builder.emit(position(top, 1), [start], (1,))
        places = builder.shift(builder.broadcast(cut, (top + 1,)), -np.arange(top + 1.0))
        return builder.emit(Elementwise(HAT, 1), [places], (top + 1,))

    def _crossed(self, left: Variable, right: Variable) -> Variable:
        """Products of all pairs, flat, the left one slowest."""
        builder, shape = self.builder, (total(left.shape), total(right.shape))
        column, row = builder.reshape(left, (shape[0], 1)), builder.reshape(right, (1, shape[1]))
        product = builder.emit(Product(column.shape, row.shape), [column, row], shape)
        return builder.reshape(product, (shape[0] * shape[1],))


def _attribute(value: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
