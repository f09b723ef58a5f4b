"""Small random networks of one kind each, and neuron splitting on them without any other search."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.options import Branching
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.points import Pointing
from verinet.solvers.query import Query
from verinet.solvers.root import Root

from tests.unit.solvers.queries import silent
from verinet.ir.graph import Graph, InputOp, Node, Op
from verinet.ops.activations import find
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.sort import SortLast

KINDS = ("product", "gate", "matmul", "attention", "softmax", "maximum", "sort", "tanh")
INPUTS = 3
RADIUS = 0.5


class Maker:
    """Appends nodes to a list."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.nodes = [Node(InputOp(INPUTS), (), (INPUTS,), "input")]

    def add(self, op: Op, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        self.nodes.append(Node(op, inputs, shape, f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def dense(self, source: int, size: int, gain: float = 1.5) -> int:
        shape = self.nodes[source].shape
        weight = torch.randn(shape[-1], size, generator=self.draw, dtype=torch.float64) * (gain / shape[-1] ** 0.5)
        offset = torch.randn(size, generator=self.draw, dtype=torch.float64) * 0.3
        return self.add(Dense(weight, offset), (source,), (*shape[:-1], size))

    def folded(self, source: int, shape: tuple[int, ...]) -> int:
        return self.add(Reshape(shape), (source,), shape)

    def scalar(self, source: int, name: str = "Tanh") -> int:
        function = find(name, {})
        if function is None:
            raise ValueError(name)
        shape = self.nodes[source].shape
        return self.add(Elementwise(function, len(shape)), (source,), shape)


def network(kind: str, seed: int) -> Graph:
    """3 inputs, one layer of the kind between matrices, 1 output."""
    make = Maker(seed)
    hidden = make.dense(0, 4)
    if kind == "product":
        middle = make.add(Product((4,), (1,)), (hidden, make.dense(0, 1)), (4,))
    elif kind == "gate":
        function = find("Sigmoid", {})
        if function is None:
            raise ValueError(kind)
        middle = make.add(Gate(function, (4,), (4,)), (hidden, make.dense(0, 4)), (4,))
    elif kind in ("matmul", "attention"):
        left, right = make.folded(hidden, (2, 2)), make.folded(make.dense(0, 4), (2, 2))
        swapped = make.add(Index(torch.arange(4).reshape(2, 2).T.contiguous(), 4), (right,), (2, 2))
        middle = make.add(MatMulTwo((2, 2), (2, 2)), (left, swapped), (2, 2))
        if kind == "attention":
            middle = make.add(MatMulTwo((2, 2), (2, 2)), (make.add(Softmax(2), (middle,), (2, 2)), right), (2, 2))
        middle = make.folded(middle, (4,))
    elif kind == "softmax":
        middle = make.add(Softmax(1), (make.dense(0, 4, 4.0),), (4,))
    elif kind == "maximum":
        middle = make.add(MaxLast(1), (make.folded(make.dense(0, 6), (2, 3)),), (2,))
    elif kind == "sort":
        middle = make.folded(make.add(SortLast(2), (make.folded(make.dense(0, 6), (2, 3)),), (2, 3)), (6,))
    else:
        middle = make.scalar(make.dense(make.scalar(hidden), 4, 2.5))
    make.dense(middle, 1)
    return Graph(tuple(make.nodes))


def box() -> tuple[Tensor, Tensor]:
    one = torch.full((INPUTS,), RADIUS, dtype=torch.float64)
    return -one, one


def sampled(graph: Graph, count: int = 20_000) -> Tensor:
    """Output values (count,) at random points and all corners of the box."""
    draw = torch.Generator().manual_seed(5)
    corners = torch.cartesian_prod(*[torch.tensor([-RADIUS, RADIUS], dtype=torch.float64)] * INPUTS)
    points = torch.rand(count, INPUTS, generator=draw, dtype=torch.float64) * 2 * RADIUS - RADIUS
    return graph.forward(torch.cat([points, corners]))[:, 0]


def split(query: Query, options: Branching, most: int = 3000) -> tuple[End, int]:
    """Neuron splitting with these options until it ends, or has made `most` domains: how, and how many."""
    root = Root(query, query.clock)
    clauses = root.bound(silent)
    if not clauses:
        return End.CLOSED, 0
    search = NeuronSplit(query, root.engines(), root.layers, clauses)
    search.branching, search.pointing = options, Pointing(options.points)
    search.gauge.due = lambda anchors: anchors[:0]  # type: ignore[method-assign]
    return _limited(search, query, most), search.made


def _limited(search: NeuronSplit, query: Query, most: int) -> End:
    clock = replace(query.clock, stop=lambda: search.made > most)
    return search.run(clock, lambda points: False, silent).end
