"""Instances for bench_branching.py: seeded random networks of every kind of nonlinearity, and shipped models.

An instance asks whether a linear function of the outputs stays above a threshold on a box. The threshold does not
depend on any way of branching: a share of the distance from the root's lower bound up to the least sampled value, the
same share for all networks of a kind, so that most take between 20 and 500 domains. All instances hold as far as
sampling can tell, so a search that closes them has proved something, and one that does not has run out of domains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph, InputOp, Node, Op
from verinet.ops.activations import find
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.network import with_comparators
from verinet.ops.sorting.sort import SortLast
from verinet.spec.reader import read_property

TOP = Path(__file__).parents[1]


@dataclass(frozen=True)
class Problem:
    """A linear function `weights @ outputs` of a network on a box; `share` places the threshold, see above."""

    group: str
    name: str
    graph: Graph
    lower: Tensor  # (inputs,)
    upper: Tensor
    weights: Tensor  # (outputs,)
    share: float


@dataclass(frozen=True)
class Kind:
    """Random networks of one kind: what makes them, half the width of the box, and the share of the distance."""

    group: str
    make: Callable[[int], Graph]
    radius: float
    share: float
    seeds: tuple[int, ...] = (2, 1)


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

    def product(self, left: int, right: int) -> int:
        shape = self.nodes[left].shape
        return self.add(Product(shape, shape), (left, right), shape)

    def end(self, source: int) -> Graph:
        self.dense(source, 1)
        return Graph(tuple(self.nodes))


def activations(name: str, widths: tuple[int, int, int], gain: float = 2.0) -> Callable[[int], Graph]:
    """Two layers of one activation; `widths` are inputs and neurons."""

    def make(seed: int) -> Graph:
        maker = Maker(seed, widths[0])
        source = 0
        for width in widths[1:]:
            source = maker.scalar(maker.dense(source, width, gain), name)
        return maker.end(source)

    return make


def gated(seed: int) -> Graph:
    """A gated layer, sigmoid times tanh, and a ReLU layer."""
    make = Maker(seed, 6)
    gate, value = make.scalar(make.dense(0, 8, 2.0), "Sigmoid"), make.scalar(make.dense(0, 8, 2.0), "Tanh")
    return make.end(make.scalar(make.dense(make.product(gate, value), 8), "Relu"))


def quadratic(seed: int) -> Graph:
    """Products of linear functions, and products of those: nothing of one variable."""
    make = Maker(seed, 5)
    first = make.product(make.dense(0, 6, 1.2), make.dense(0, 6, 1.2))
    return make.end(make.product(make.dense(first, 4), make.dense(0, 4)))


def cell(seed: int) -> Graph:
    """Two steps of a cell with forget, input and output gates, in the manner of an LSTM."""
    make = Maker(seed, 6)
    state = make.scalar(make.dense(0, 4), "Tanh")
    for _ in range(2):
        forget, write, out = (make.scalar(make.dense(0, 4, 2.0), "Sigmoid") for _ in range(3))
        fresh = make.scalar(make.dense(state, 4, 2.0), "Tanh")
        kept = make.add(Add(), (make.product(forget, state), make.product(write, fresh)), (4,))
        state = make.product(out, make.scalar(kept, "Tanh"))
    return make.end(state)


def attention(seed: int) -> Graph:
    """One head of self-attention over three tokens, and a ReLU layer."""
    make, shape = Maker(seed, 6), (3, 2)
    tokens = make.dense(make.add(Reshape(shape), (0,), shape), 3)
    query, key, value = (make.dense(tokens, 3) for _ in range(3))
    turned = make.add(Index(torch.arange(9).reshape(3, 3).T.contiguous(), 9), (key,), (3, 3))
    scores = make.add(MatMulTwo((3, 3), (3, 3)), (query, turned), (3, 3))
    mixed = make.add(MatMulTwo((3, 3), (3, 3)), (make.add(Softmax(2), (scores,), (3, 3)), value), (3, 3))
    flat = make.add(Reshape((9,)), (mixed,), (9,))
    return make.end(make.scalar(make.dense(flat, 8), "Relu"))


def pairs(seed: int) -> Graph:
    """Three layers of MaxMin: the entries of each pair in order."""
    make, source = Maker(seed, 6), 0
    for _ in range(3):
        split = make.add(Reshape((6, 2)), (make.dense(source, 12),), (6, 2))
        source = make.add(Reshape((12,)), (make.add(SortLast(1), (split,), (6, 2)),), (12,))
    return make.end(source)


RELU, SMOOTH, WIDE, SEVERAL = "ReLU", "smooth", "smooth, wide", "several variables"
KINDS = {
    "relu": Kind(RELU, activations("Relu", (10, 40, 20)), 0.5, 0.65),
    "sigmoid": Kind(SMOOTH, activations("Sigmoid", (6, 10, 10)), 0.8, 0.85),
    "tanh": Kind(SMOOTH, activations("Tanh", (6, 10, 10)), 0.4, 0.65),
    "sin": Kind(SMOOTH, activations("Sin", (6, 10, 10)), 0.3, 0.75),
    "gelu": Kind(SMOOTH, activations("Gelu", (6, 10, 10)), 0.6, 0.8),
    "sigmoid wide": Kind(WIDE, activations("Sigmoid", (3, 8, 8), 4.0), 1.5, 0.65),
    "tanh wide": Kind(WIDE, activations("Tanh", (3, 8, 8), 3.0), 0.7, 0.5),
    "sin wide": Kind(WIDE, activations("Sin", (3, 8, 8), 2.0), 0.7, 0.4),
    "gelu wide": Kind(WIDE, activations("Gelu", (3, 8, 8), 3.0), 1.5, 0.75),
    "gated": Kind(SEVERAL, gated, 0.7, 0.7),
    "quadratic": Kind(SEVERAL, quadratic, 0.5, 0.75),
    "cell": Kind(SEVERAL, cell, 0.7, 0.35),
    "attention": Kind(SEVERAL, attention, 0.35, 0.25),
    "pairs": Kind(SEVERAL, pairs, 0.5, 0.9),
}
DIGITS = {
    "relu": (RELU, 0.1, 0.9),
    "cnn": (RELU, 0.08, 0.85),
    "residual": (RELU, 0.1, 0.6),
    "sigmoid": (SMOOTH, 0.05, 0.95),
    "tanh": (SMOOTH, 0.05, 0.8),
    "gelu": (SMOOTH, 0.1, 0.9),
}
"""Shipped classifiers: group, radius in pixels of [0, 1], share."""
SHIPPED = {
    "opf_3bus balance": ("opf_3bus", "opf_3bus_balance_wide", 0, 0.25),
    "pendulum_lyapunov": ("pendulum_lyapunov", "pendulum_lyapunov_stays", 0, 0.6),
    "opf_3bus_jacobian": ("opf_3bus_jacobian", "opf_3bus_jacobian_rises", 0, 0.3),
}
"""Other shipped models: files, the output that shall stay small, share."""


def problems(quick: bool) -> Iterator[Problem]:
    """All of them, or with `quick` one random network of each kind."""
    for kind_name, kind in KINDS.items():
        for seed in kind.seeds[:1] if quick else kind.seeds:
            graph = kind.make(seed)
            draw = torch.Generator().manual_seed(seed)
            centre = torch.randn(graph.input_size, generator=draw, dtype=torch.float64)
            box = (centre - kind.radius, centre + kind.radius)
            ones = torch.ones(1, dtype=torch.float64)
            yield Problem(kind.group, f"{kind_name} {seed}", with_comparators(graph), *box, ones, kind.share)
    for name, (group, radius, share) in DIGITS.items():
        yield _classifier(f"digits_{name}", group, radius, share)
    for name, (model, spec, output, share) in SHIPPED.items():
        yield _shipped(name, (model, spec), output, share)


def _classifier(model: str, group: str, radius: float, share: float) -> Problem:
    """The label's score minus the runner-up's, around the image of the shipped properties."""
    graph = load_onnx(TOP / "models" / f"{model}.onnx").graph.to(torch.float64)
    box = read_property(TOP / "vnnlib_specs" / f"{model}_radius_0.02.vnnlib").boxes[0]
    centre = torch.from_numpy((box.lower + box.upper) / 2)
    first, second = graph.forward(centre[None])[0].topk(2).indices.tolist()
    weights = torch.zeros(graph.output_size, dtype=torch.float64)
    weights[first], weights[second] = 1.0, -1.0
    lower, upper = (centre - radius).clamp(0, 1), (centre + radius).clamp(0, 1)
    return Problem(group, model, with_comparators(graph), lower, upper, weights, share)


def _shipped(name: str, files: tuple[str, str], output: int, share: float) -> Problem:
    graph = load_onnx(TOP / "models" / f"{files[0]}.onnx").graph.to(torch.float64)
    box = read_property(TOP / "vnnlib_specs" / f"{files[1]}.vnnlib").boxes[0]
    weights = torch.zeros(graph.output_size, dtype=torch.float64)
    weights[output] = -1.0
    lower, upper = torch.from_numpy(box.lower), torch.from_numpy(box.upper)
    return Problem(SEVERAL, name, with_comparators(graph), lower, upper, weights, share)


def least_sampled(problem: Problem) -> float:
    """The least value found by descent along signs of gradients, from random points."""
    draw = torch.Generator().manual_seed(7)
    shares = torch.rand(256, problem.graph.input_size, generator=draw, dtype=torch.float64)
    best = torch.full((256,), torch.inf, dtype=torch.float64)
    for step in range(60):
        shares.requires_grad_(True)
        points = problem.lower + (problem.upper - problem.lower) * shares
        values = problem.graph.forward(points) @ problem.weights
        (slope,) = torch.autograd.grad(values.sum(), shares)
        best = torch.minimum(best, values.detach())
        shares = (shares.detach() - slope.sign() * 0.3 * 0.93**step).clamp(0, 1)
    return float(best.min())
