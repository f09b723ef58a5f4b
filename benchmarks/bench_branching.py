"""What each part of branching is worth, in counts: `python benchmarks/bench_branching.py [--quick] [--most DOMAINS]`.

Neuron splitting alone, on seeded random networks of every kind of nonlinearity and on shipped models, with one thing
changed at a time. Each instance asks for a bound a little below the least sampled value, so all of them hold; a way of
branching is the better the more instances it closes within DOMAINS domains, and the fewer domains it makes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.options import Branching, Inputs, Points, Score
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.points import Pointing
from verinet.solvers.query import Clock, Query, clause_table
from verinet.solvers.root import Root

from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph, InputOp, Node, Op
from verinet.ops.activations import find
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.network import with_comparators
from verinet.spec.property import Box, Clause, Property, Rows

MODELS = Path(__file__).parents[1] / "models"
WAYS = {
    "default": Branching(),
    "bbps": Branching(score=Score.BBPS),
    "bbps, untried": Branching(score=Score.BBPS, candidates=1),
    "dual, untried": Branching(candidates=1),
    "intercept": Branching(score=Score.INTERCEPT),
    "intercept, untried": Branching(score=Score.INTERCEPT, candidates=1),
    "babsr": Branching(score=Score.BABSR),
    "midpoints": Branching(points=Points.MIDDLE),
    "table of points": Branching(points=Points.TABLE),
    "quarters too": Branching(points=Points.WIDE),
    "one variable only": Branching(inputs=Inputs.SCALAR),
    "relu only": Branching(inputs=Inputs.HINGES),
    "three at once": Branching(together=3),
}


@dataclass(frozen=True)
class Instance:
    """Show that the first output stays above `threshold` on a box."""

    name: str
    graph: Graph
    lower: Tensor
    upper: Tensor
    threshold: float


class Maker:
    """Appends nodes to a list; weights are drawn from the seed."""

    def __init__(self, seed: int, inputs: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.nodes = [Node(InputOp(inputs), (), (inputs,), "input")]

    def add(self, op: Op, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        self.nodes.append(Node(op, inputs, shape, f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def dense(self, source: int, size: int, gain: float = 1.6) -> int:
        shape = self.nodes[source].shape
        weight = torch.randn(shape[-1], size, generator=self.draw, dtype=torch.float64) * (gain / shape[-1] ** 0.5)
        offset = torch.randn(size, generator=self.draw, dtype=torch.float64) * 0.3
        return self.add(Dense(weight, offset), (source,), (*shape[:-1], size))

    def scalar(self, source: int, name: str) -> int:
        function = find(name, {})
        if function is None:
            raise ValueError(name)
        shape = self.nodes[source].shape
        return self.add(Elementwise(function, len(shape)), (source,), shape)


def activations(name: str, seed: int) -> Graph:
    """Two layers of one activation."""
    make = Maker(seed, 6)
    hidden = make.scalar(make.dense(0, 10, 2.0), name)
    make.dense(make.scalar(make.dense(hidden, 10, 2.0), name), 1)
    return Graph(tuple(make.nodes))


def products(seed: int) -> Graph:
    """A gated layer: sigmoid times tanh, between matrices."""
    make = Maker(seed, 6)
    gate, value = make.scalar(make.dense(0, 8, 2.0), "Sigmoid"), make.scalar(make.dense(0, 8, 2.0), "Tanh")
    both = make.add(Product((8,), (8,)), (gate, value), (8,))
    make.dense(make.scalar(make.dense(both, 8), "Relu"), 1)
    return Graph(tuple(make.nodes))


def attention(seed: int) -> Graph:
    """One head of self-attention over three tokens, and a ReLU layer."""
    make, shape = Maker(seed, 6), (3, 2)
    tokens = make.dense(make.add(Reshape(shape), (0,), shape), 3)
    query, key, value = (make.dense(tokens, 3) for _ in range(3))
    turned = make.add(Index(torch.arange(9).reshape(3, 3).T.contiguous(), 9), (key,), (3, 3))
    scores = make.add(MatMulTwo((3, 3), (3, 3)), (query, turned), (3, 3))
    mixed = make.add(MatMulTwo((3, 3), (3, 3)), (make.add(Softmax(2), (scores,), (3, 3)), value), (3, 3))
    flat = make.add(Reshape((9,)), (mixed,), (9,))
    make.dense(make.scalar(make.dense(flat, 8), "Relu"), 1)
    return Graph(tuple(make.nodes))


KINDS: dict[str, tuple[Callable[[int], Graph], float, float]] = {
    "relu": (lambda seed: activations("Relu", seed), 0.8, 0.01),
    "sigmoid": (lambda seed: activations("Sigmoid", seed), 0.8, 0.02),
    "tanh": (lambda seed: activations("Tanh", seed), 0.4, 0.02),
    "sin": (lambda seed: activations("Sin", seed), 0.3, 0.03),
    "gelu": (lambda seed: activations("Gelu", seed), 0.6, 0.02),
    "product": (products, 0.7, 0.01),
    "attention": (attention, 0.35, 0.04),
}


def instances(seeds: int) -> Iterator[Instance]:
    """Random networks, then the shipped classifiers around random images (least output against the largest)."""
    for kind, (maker, radius, below) in KINDS.items():
        for seed in range(seeds):
            graph = maker(seed)
            centre = torch.randn(graph.input_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            yield _instance(f"{kind} {seed}", graph, (centre, radius), below)
    for name in ("digits_sigmoid", "digits_tanh", "digits_gelu", "digits_relu"):
        graph = load_onnx(MODELS / f"{name}.onnx").graph.to(torch.float64)
        draw = torch.Generator().manual_seed(3)
        centre = torch.rand(graph.input_size, generator=draw, dtype=torch.float64)
        yield _instance(name, graph, (centre, 0.05), 0.02)


def _instance(name: str, graph: Graph, ball: tuple[Tensor, float], below: float) -> Instance:
    lower, upper = ball[0] - ball[1], ball[0] + ball[1]
    least, most = (sign * _least(graph, lower, upper, sign) for sign in (1.0, -1.0))
    threshold = least - below * (most - least)
    return Instance(name, with_comparators(graph), lower, upper, threshold)


def _least(graph: Graph, lower: Tensor, upper: Tensor, sign: float) -> float:
    """The least sign * output found by descent along signs of gradients, from random points."""
    draw = torch.Generator().manual_seed(7)
    shares = torch.rand(64, graph.input_size, generator=draw, dtype=torch.float64)
    best = torch.full((64,), torch.inf, dtype=torch.float64)
    for step in range(40):
        shares.requires_grad_(True)
        values = sign * graph.forward(lower + (upper - lower) * shares)[:, 0]
        (slope,) = torch.autograd.grad(values.sum(), shares)
        best = torch.minimum(best, values.detach())
        shares = (shares.detach() - slope.sign() * 0.3 * 0.9**step).clamp(0, 1)
    return float(best.min())


def query_of(instance: Instance, seconds: float) -> Query:
    low, high = instance.lower.numpy(), instance.upper.numpy()
    outputs = instance.graph.output_size
    rows = Rows(
        np.array([0, 1]), np.array([0]), np.ones(1), np.array([instance.threshold]), np.zeros(1, dtype=bool), 0.0
    )
    prop = Property((Box(low, high, low, high),), (Clause(0, rows),), len(low), outputs)
    clock = Clock(time.monotonic, time.monotonic() + seconds, None)
    table = clause_table(prop, torch.device("cpu"))
    return Query(instance.graph, instance.lower[None], instance.upper[None], table, prop, clock)


def domains_of(instance: Instance, way: Branching, most: int) -> tuple[bool, int]:
    """Whether splitting closes the instance within `most` domains, and how many it made."""
    query = query_of(instance, 600.0)
    root = Root(query, query.clock)
    clauses = root.bound(_silent)
    if not clauses:
        return True, 0
    search = NeuronSplit(query, root.engines(), root.layers, clauses, batch=32)
    search.branching, search.pointing = way, Pointing(way.points)
    search.gauge.due = lambda anchors: anchors[:0]  # type: ignore[method-assign]  # no sharpening: it hides the splits
    clock = replace(query.clock, stop=lambda: search.made >= most)
    end = search.run(clock, lambda points: False, _silent).end
    return end is End.CLOSED, search.made


def _silent(phase: str, still_open: int, closed: int, bound: float | None) -> None:
    """No progress."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one random network of each kind")
    parser.add_argument("--most", type=int, default=1500, help="domains per instance")
    parser.add_argument("--ways", default="", help="only these, separated by semicolons")
    parser.add_argument("--kinds", default="", help="only instances whose names contain one of these words")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = options.kinds.split()
    chosen = [i for i in instances(1 if options.quick else 4) if not words or any(w in i.name for w in words)]
    ways = options.ways.split(";") if options.ways else list(WAYS)
    results: dict[str, list[tuple[bool, int]]] = {}
    for way in ways:
        results[way] = [domains_of(i, WAYS[way], options.most) for i in chosen]
        closed, made = sum(c for c, _ in results[way]), sum(m for _, m in results[way])
        print(f"{way:20} closed {closed:3} of {len(chosen)}  domains {made:7}", flush=True)
    print(f"\n{'instance':20}" + "".join(f"{way[:14]:>15}" for way in ways))
    for number, instance in enumerate(chosen):
        cells = (f"{m}{'' if c else ' open'}" for c, m in (results[way][number] for way in ways))
        print(f"{instance.name:20}" + "".join(f"{cell:>15}" for cell in cells))


if __name__ == "__main__":
    main()
