"""All networks of a query as one graph, so that searches and bounds see a single function.

The graph maps the free inputs of a property to its columns: hidden and output entries of all networks in order of
declaration, then products of those and of inputs. A plain query on one network keeps that network's graph as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from verinet.errors import InternalError, PropertyError
from verinet.frontends.builder import GraphBuilder, Variable
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.interface import Fitted, fitted
from verinet.frontends.model import Model
from verinet.frontends.products import add_products
from verinet.ir.check import check_structure
from verinet.ir.graph import Graph, Node, total
from verinet.ir.passes.dead import drop_dead
from verinet.ops.base import NonlinearOp
from verinet.ops.shape.reshape import Reshape
from verinet.spec.layout import Spread, with_extras
from verinet.spec.property import Layout, Property, Query2

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One declared network. `first` is the position of its first declared input, `size` their number.

    `reading` has the hidden tensors as further outputs; `original` is the file as it is. `order` holds, for each hidden
    and output entry in order of declaration, its position in the flat outputs of `reading`.
    """

    name: str
    original: Model
    reading: Model
    first: int
    size: int
    order: Ints

    @property
    def inputs(self) -> slice:
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Composite:
    """A query as one function. `dtypes` are the element types of the declared inputs, (size, name) in order."""

    graph: Graph
    parts: tuple[Part, ...]
    dtypes: tuple[tuple[int, str], ...]
    layout: Layout | None = None
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the network files, in order of declaration, each once."""
        return ", ".join(dict.fromkeys(part.original.sha256 for part in self.parts))

    @property
    def double(self) -> bool:
        """Whether some input is float64."""
        return any(name == "float64" for _, name in self.dtypes)

    @cached_property
    def spread(self) -> Spread:
        size = sum(size for size, _ in self.dtypes)
        return Spread(self.layout if self.layout is not None else Layout(size, self.graph.output_size))


def alone(model: Model) -> Composite:
    """One network by itself, with its own inputs and outputs."""
    size, outputs = sum(total(s) for s in model.input_shapes), sum(total(s) for s in model.output_shapes)
    part = Part("", model, model, 0, size, np.arange(outputs, dtype=np.int64))
    kinds = zip(model.input_shapes, model.input_dtypes, strict=True)
    dtypes = tuple((total(s), np.dtype(d).name) for s, d in kinds)
    return Composite(_apart(model.graph), (part,), dtypes)


def compose(networks: Model | Mapping[str, Model], prop: Property) -> Composite:
    """The networks of a query under its property.

    `networks` maps the names that the query declares to networks; one `Model` alone stands for the only network, or for
    the one that all others are equal to. Raises PropertyError where networks and declarations do not fit.
    """
    if prop.v2 is None:
        model = _only(networks, prop)
        whole = alone(model)
        if prop.layout is None:
            return whole
        _check_sizes(prop, model)
        return replace(whole, graph=_joined(whole.parts, prop.layout), layout=prop.layout)
    fits = fitted(prop.v2, networks, prop.name)
    parts = _parts(prop.v2, fits)
    dtypes = tuple(pair for fit in fits for pair in fit.dtypes)
    notes = tuple(dict.fromkeys(note for fit in fits for note in fit.notes))
    if prop.layout is None:
        return Composite(_apart(parts[0].reading.graph), parts, dtypes, None, notes)
    return Composite(_joined(parts, prop.layout), parts, dtypes, prop.layout, notes)


def check_composite(whole: Composite, samples: Floats) -> None:
    """Every network against ONNX Runtime, and the composed graph against the networks by themselves.

    `samples` are (k, free inputs). Raises ModelError where a file was misread, InternalError where the composition
    computes something else than its parts.
    """
    declared = np.stack([whole.spread.declared(sample) for sample in samples])
    for part in whole.parts:
        compare_with_onnxruntime(part.reading, declared[:, part.inputs])
    if whole.layout is None:
        return
    found = whole.graph.to(torch.float64).forward(torch.from_numpy(samples)).numpy()
    for sample, inputs, row in zip(samples, declared, found, strict=True):
        values = np.concatenate([_run_alone(part, inputs) for part in whole.parts])
        expected = with_extras(whole.layout, sample, values)
        scale = 1.0 + np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
        if row.shape != expected.shape or not np.allclose(row, expected, rtol=1e-9, atol=1e-9 * scale, equal_nan=True):
            raise InternalError(
                "the composed graph differs from its networks", hint="please report the query; no answer can be trusted"
            )


def _run_alone(part: Part, declared: Floats) -> Floats:
    point = torch.from_numpy(np.ascontiguousarray(declared[part.inputs])).unsqueeze(0)
    result: Floats = part.reading.graph.to(torch.float64).forward(point)[0].numpy()
    return result[part.order]


def _only(networks: Model | Mapping[str, Model], prop: Property) -> Model:
    if isinstance(networks, Model):
        return networks
    if len(networks) != 1:
        raise PropertyError(
            f"{len(networks)} networks were given, but the property speaks of one",
            where=prop.name,
            hint="several networks need a VNN-LIB 2.0 query that declares them",
        )
    return next(iter(networks.values()))


def _check_sizes(prop: Property, model: Model) -> None:
    layout = prop.layout
    sizes = (model.graph.input_size, model.graph.output_size)
    if layout is not None and (layout.inputs, layout.values) != sizes:
        raise PropertyError(
            f"the property speaks of {layout.inputs} inputs and {layout.values} outputs, the network has "
            f"{sizes[0]} and {sizes[1]}",
            where=prop.name,
            hint="check that the two files belong together",
        )


def _parts(query: Query2, fits: Sequence[Fitted]) -> tuple[Part, ...]:
    parts: list[Part] = []
    first = 0
    for network, fit in zip(query.networks, fits, strict=True):
        size = sum(variable.size for variable in network.of_role("input"))
        parts.append(Part(network.name, fit.original, fit.reading, first, size, fit.order))
        first += size
    return tuple(parts)


def _joined(parts: Sequence[Part], layout: Layout) -> Graph:
    """One graph from the free inputs to values and extras."""
    spread = Spread(layout)
    builder = GraphBuilder(spread.free)
    free = Variable(0, (spread.free,), np.dtype(np.float64))
    builder.scope = "tied inputs"
    declared = _declared(builder, free, spread)
    ties: Sequence[object] = layout.ties or range(layout.inputs)
    known: dict[tuple[int, object], Variable] = {}
    values: list[Variable] = []
    for part in parts:
        # The same network at the same inputs is one: its outputs then differ by nothing, not just by little.
        key = (id(part.reading), ties[part.inputs])
        if key not in known:
            known[key] = _add_part(builder, declared, part)
        builder.scope = f"outputs of {part.name}"
        values.append(builder.index(known[key], part.order))
    builder.scope = "outputs of all networks"
    last = builder.concat(values, 0)
    last = add_products(builder, free, last, layout.extras)
    if last.node == 0:
        last = builder.reshape(builder.reshape(last, (1, spread.free)), (spread.free,))
    graph, _ = drop_dead(builder.nodes, last.node)
    check_structure(graph, "composition of networks")
    return _apart(graph)


def _apart(graph: Graph) -> Graph:
    """The graph with a copy of the input between it and nonlinear nodes that read it.

    Searches bound the nodes that nonlinear ones read, and the input itself has no bounds but the region's.
    """
    if not any(isinstance(node.op, NonlinearOp) and 0 in node.inputs for node in graph.nodes):
        return graph
    size = graph.input_size
    later = [
        replace(node, inputs=tuple(i + 1 if i or isinstance(node.op, NonlinearOp) else 0 for i in node.inputs))
        for node in graph.nodes[1:]
    ]
    return Graph((graph.nodes[0], Node(Reshape((size,)), (0,), (size,), "input copy"), *later))


def _declared(builder: GraphBuilder, free: Variable, spread: Spread) -> Variable:
    """The declared inputs, each a free input times a number plus a number."""
    if spread.is_identity:
        return free
    picked = builder.index(free, spread.sources)
    if spread.copies_only:
        return picked
    return builder.shift(builder.scale(picked, spread.scale), spread.offset)


def _add_part(builder: GraphBuilder, declared: Variable, part: Part) -> Variable:
    """Append a network that reads its slice of the declared inputs; returns its flat outputs."""
    builder.scope = f"inputs of {part.name}"
    source = builder.index(declared, np.arange(part.first, part.first + part.size, dtype=np.int64))
    moved = {0: source.node}
    for position, node in enumerate(part.reading.graph.nodes[1:], start=1):
        name = f"{part.name}: {node.name}" if part.name else node.name
        builder.nodes.append(replace(node, inputs=tuple(moved[i] for i in node.inputs), name=name))
        moved[position] = len(builder.nodes) - 1
    end = part.reading.graph.output
    return Variable(moved[end], part.reading.graph.nodes[end].shape, np.dtype(np.float64))
