"""From a graph to the form `v = c w + d x, y = cy w + dy x`.

Every node's increment is pushed forward as columns over (x, w); linear operators act on all columns at once, nonlinear
ones add blocks. Nothing is recognised by its name: MaxMin, residual encodings of it, CReLU and max-pools become tight
because all |t| of one number t share a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from verinet.solvers.lipschitz.attention import gate, matmul, softmax
from verinet.solvers.lipschitz.channels import Channels
from verinet.solvers.lipschitz.form import Floats, Form, Ints, Matrix
from verinet.solvers.lipschitz.increments import Increment, apply_linear, identity
from verinet.solvers.lipschitz.maxima import maximum
from verinet.solvers.lipschitz.nonlinear import Walk, elementwise, product
from verinet.solvers.lipschitz.ranges import Ranges, node_ranges
from verinet.solvers.lipschitz.sorting import sort_last
from verinet.solvers.lipschitz.tracing import Tracer

from verinet.errors import ModelError, UnsupportedOperatorError, UsageError
from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma
from verinet.ops.base import LinearOp
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.remainder import Remainder
from verinet.ops.sorting.sort import SortLast

Outputs = Sequence[int] | Ints | Floats


def extract_form(
    graph: Graph,
    lower: Floats | None = None,
    upper: Floats | None = None,
    outputs: Outputs | None = None,
    ranges: Ranges | None = None,
) -> Form:
    """The form of a network, global or, with bounds (inputs,) of a box, for pairs of inputs within the box.

    `outputs` picks outputs by number, or combines them: a float matrix (rows, outputs). `ranges` replaces the bounds
    of inner nodes that `lower` and `upper` would give; they must hold on a convex set of inputs.
    Raises `UnsupportedOperatorError` or `ModelError` for a node without finite slope, naming it, and `UsageError` for
    a box or outputs that do not fit.
    """
    graph = graph.to(torch.float64)
    if (lower is None) != (upper is None):
        raise UsageError("a region needs both lower and upper bounds", hint="give both, or neither for a global bound")
    if ranges is None and lower is not None and upper is not None:
        ranges = node_ranges(graph, lower, upper)
    channels = Channels(graph.input_size)
    walk = Walk(graph, channels, Tracer(graph), ranges)
    final = push(walk, 0, graph.output, identity(graph.input_size))
    form = channels.form(final.flat())
    return form if outputs is None else select_outputs(form, outputs)


def push(walk: Walk, start: int, end: int, first: Increment) -> Increment:
    """The increment of node `end`, given that of node `start`, through which all paths from the input go."""
    graph = walk.graph
    order = needed(graph, start, end)
    last_reader: dict[int, int] = {}
    for position in order:
        last_reader.update(dict.fromkeys(graph.nodes[position].inputs, position))
    values: dict[int, Increment] = {start: first}
    for position in order:
        sources = graph.nodes[position].inputs
        values[position] = _step(walk, position, [values[i] for i in sources])
        for source in set(sources):
            if last_reader[source] == position:
                del values[source]
    return values[end]


def needed(graph: Graph, start: int, end: int) -> list[int]:
    """Positions after `start` that `end` depends on, in order."""
    wanted = {end}
    for position in range(end, start, -1):
        if position in wanted:
            wanted.update(graph.nodes[position].inputs)
    return sorted(p for p in wanted if p > start)


Handler = Callable[..., Increment]
_HANDLERS: Mapping[type, Handler] = {
    Elementwise: elementwise,
    MaxLast: maximum,
    SortLast: sort_last,
    Product: product,
    MatMulTwo: matmul,
    Softmax: softmax,
    Gate: gate,
}


def _step(walk: Walk, position: int, parts: Sequence[Increment]) -> Increment:
    node = walk.graph.nodes[position]
    if isinstance(node.op, LinearOp):
        return apply_linear(node.op, parts, walk.graph.input_shapes(position), node.shape)
    if isinstance(node.op, Remainder):
        raise refused_jump(walk.graph)
    handler = _HANDLERS.get(type(node.op))
    if handler is None:
        raise UnsupportedOperatorError(
            node.op.kind,
            node.name,
            "the network",
            [walk.graph.nodes[i].op.kind for i in node.inputs],
            "Lipschitz bounds know scalar functions, maxima, sorting, products and softmax; replace this operator",
        )
    return handler(walk, position, *parts)


def jumps_of(graph: Graph) -> list[int]:
    """Positions of the nodes that jump, among those that the output depends on."""
    return sorted(p for p in graph.ancestors(graph.output) if isinstance(graph.nodes[p].op, Remainder))


def refused_jump(graph: Graph) -> ModelError:
    """The error for a network that jumps, where nothing bounds the size of the jumps."""
    positions = jumps_of(graph)
    rates = [float((op.coefficients.abs() + op.radii).max()) for op in (remainder(graph, p) for p in positions)]
    names = ", ".join(f"'{graph.nodes[p].name}'" for p in positions[:3]) + (", ..." if len(positions) > 3 else "")
    return ModelError(
        "the network jumps, by rounding of its weights: two branches do not meet where it switches between them; they "
        f"differ there by up to {max(rates, default=0.0):.2g} times the values that come in, so no Lipschitz constant "
        "is finite",
        where=f"node {names}",
        hint="give a region: a slope and the height of the jumps are proved there; or export the activation in a form "
        "that is continuous, as v |v^T x|",
    )


def remainder(graph: Graph, position: int) -> Remainder:
    """The operator of a node that jumps."""
    op = graph.nodes[position].op
    if not isinstance(op, Remainder):
        raise TypeError(graph.nodes[position].name)
    return op


def select_outputs(form: Form, outputs: Outputs) -> Form:
    """A form with some outputs only, or with rows (rows, outputs) of a float matrix applied to them."""
    chosen = np.asarray(outputs)
    count = form.cy.value.shape[0]
    if chosen.ndim <= 1:
        index = np.atleast_1d(chosen).astype(np.int64)
        if (
            not np.array_equal(index, np.atleast_1d(chosen))
            or index.size == 0
            or index.min() < 0
            or index.max() >= count
        ):
            raise UsageError(f"no such output: {outputs}", hint=f"the network has outputs 0 .. {count - 1}")
        return _with_outputs(form, _rows(form.cy, index), _rows(form.dy, index))
    if chosen.ndim != 2 or chosen.shape[1] != count:
        raise UsageError(f"a matrix of shape {chosen.shape} does not fit {count} outputs", hint="use (rows, outputs)")
    rows = chosen.astype(np.float64)
    return _with_outputs(form, _times(rows, form.cy), _times(rows, form.dy))


def _with_outputs(form: Form, cy: Matrix, dy: Matrix) -> Form:
    parts = (form.v_block, form.w_block, form.layer, form.labels, form.implicit)
    return Form(form.c, form.d, cy, dy, *parts)


def _rows(matrix: Matrix, index: Ints) -> Matrix:
    return Matrix(matrix.value[index], None if matrix.radius is None else matrix.radius[index])


def _times(rows: Floats, matrix: Matrix) -> Matrix:
    """rows @ matrix with its rounding in the radius."""
    charge = gamma(rows.shape[1] + 4, torch.float64)
    radius = (np.abs(rows) @ np.abs(matrix.value)) * (charge * (1 + 1e-10))
    if matrix.radius is not None:
        radius += (np.abs(rows) @ matrix.radius) * (1 + 4 * charge)
    return Matrix(rows @ matrix.value, radius)
