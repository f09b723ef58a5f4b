"""Random graphs of operators that are exact in rational numbers, with weights of any size, against exact values.

Sampling in floats cannot see an error of a rounding. Here values are fractions, so a bound that is too tight by one
unit in the last place fails. Nodes are read by several others, and by one operator twice, and sums cancel.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching.outcome import End
from verinet.solvers.query import ClauseTable, Clock, Query

from verinet.ir.graph import Graph, InputOp, Node, Op
from verinet.ops.activations import find
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.dense import Dense
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.rewrites import for_verification
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.sort import SortLast
from verinet.propagation.forward import ForwardPass
from verinet.propagation.interval import Interval, interval_pass
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec.decimals import enclose
from verinet.spec.property import Property

Exact = list[Fraction]
Value = Callable[[Sequence[Exact]], Exact]
KINDS = ("dense", "relu", "abs", "leaky", "sum", "product", "max", "sort", "matmul", "scale", "residue", "residue")
WIDTH = 4  # entries of every node but the input


class Garden:
    """Grows a graph and, beside every node, its value in fractions."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.wild = int(self.random.choice([0, 3, 20]))
        self.nodes = [Node(InputOp(2), (), (2,), "x")]
        self.values: list[Value] = [lambda inputs: inputs[0]]
        self.dense(0, WIDTH)
        for _ in range(int(self.random.integers(2, 7))):
            self.grow()
        self.dense(len(self.nodes) - 1, 1)

    def numbers(self, *shape: int) -> np.ndarray:
        found = self.random.normal(size=shape)
        if self.random.random() < 0.3:
            found = np.round(found * 2)
        if self.random.random() < 0.3:
            found = found * 10.0 ** self.random.integers(-self.wild, self.wild + 1, shape)
        return found * 10.0 ** self.random.integers(-self.wild, self.wild + 1)

    def add(self, op: Op, inputs: tuple[int, ...], value: Value, width: int = WIDTH) -> int:
        self.nodes.append(Node(op, inputs, (width,), f"n{len(self.nodes)}"))
        self.values.append(value)
        return len(self.nodes) - 1

    def dense(self, source: int, width: int) -> int:
        weight, offset = self.numbers(self.nodes[source].shape[0], width), self.numbers(width)
        columns = [[Fraction(w) for w in column] for column in weight.T.tolist()]
        shift = [Fraction(b) for b in offset.tolist()]

        def value(given: Sequence[Exact]) -> Exact:
            return [
                sum((w * x for w, x in zip(c, given[0], strict=True)), b) for c, b in zip(columns, shift, strict=True)
            ]

        return self.add(Dense(torch.from_numpy(weight), torch.from_numpy(offset)), (source,), value, width)

    def grow(self) -> None:
        """One more operator on late nodes, which may be the same one twice."""
        last = len(self.nodes) - 1
        one = last
        others = [v for v, node in enumerate(self.nodes) if node.shape == (WIDTH,)]
        two = int(self.random.choice(others)) if self.random.random() < 0.7 else last
        kind = self.random.choice(KINDS)
        if kind == "dense":
            self.dense(one, WIDTH)
        elif kind == "residue":
            self._residue(one)
        elif kind in ("relu", "abs", "leaky"):
            self._hinge(kind, one)
        elif kind == "sum":
            self._sum(one, two)
        elif kind == "product":
            self.add(Product((WIDTH,), (WIDTH,)), (one, two), lambda g: [a * b for a, b in zip(*g, strict=True)])
        elif kind == "scale":
            factor = self.numbers(WIDTH)
            moved = self.add(Scale(torch.from_numpy(factor)), (one,), _scaled(factor))
            offset = self.numbers(WIDTH)
            self.add(Shift(torch.from_numpy(offset)), (moved,), _shifted(offset))
        else:
            self._joint(kind, one, two)

    def _hinge(self, kind: str, source: int) -> None:
        slopes = {"relu": (0, 1), "abs": (-1, 1), "leaky": (Fraction(float(np.float32(0.1))), 1)}[kind]
        name = {"relu": "Relu", "abs": "Abs", "leaky": "LeakyRelu"}[kind]
        function = find(name, {"alpha": float(np.float32(0.1))} if kind == "leaky" else {})
        assert function is not None
        self.add(Elementwise(function, 1), (source,), lambda g: [v * slopes[v >= 0] for v in g[0]])

    def _residue(self, source: int) -> None:
        """What the rounding of a product of two matrices leaves, magnified: rows of it are all cancellation."""
        first, second = self.dense(source, WIDTH), self.dense(len(self.nodes) - 1, WIDTH)
        matrices = [self.nodes[v].op for v in (first, second)]
        assert all(isinstance(op, Dense) for op in matrices)
        weight = matrices[0].weight @ matrices[1].weight  # type: ignore[union-attr]
        columns = [[Fraction(w) for w in column] for column in weight.T.tolist()]
        joined = self.add(
            Dense(weight), (source,), lambda g: [sum(w * x for w, x in zip(c, g[0], strict=True)) for c in columns]
        )
        apart = self.add(Subtract(), (second, joined), lambda g: [a - b for a, b in zip(*g, strict=True)])
        factor = 2.0 ** self.random.integers(0, 60, WIDTH)
        self.add(Scale(torch.from_numpy(factor)), (apart,), _scaled(factor))

    def _sum(self, one: int, two: int) -> None:
        if self.random.random() < 0.5:
            self.add(Add(), (one, two), lambda g: [a + b for a, b in zip(*g, strict=True)])
            return
        negative = self.add(Negate(), (two,), lambda g: [-v for v in g[0]])
        self.add(Subtract(), (negative, one), lambda g: [a - b for a, b in zip(*g, strict=True)])

    def _joint(self, kind: str, one: int, two: int) -> None:
        both = self.add(Concat(0), (one, two), lambda g: [*g[0], *g[1]], 2 * WIDTH)
        if kind == "sort":
            self.nodes.append(Node(SortLast(1), (both,), (2 * WIDTH,), "sort"))
            self.values.append(lambda g: sorted(g[0]))
        elif kind == "max":
            pairs = self._shaped(both, (WIDTH, 2))
            self.add(MaxLast(1), (pairs,), lambda g: [max(g[0][2 * i : 2 * i + 2]) for i in range(WIDTH)])
            return
        else:
            left, right = self._shaped(one, (2, 2)), self._shaped(two, (2, 2))
            self.nodes.append(Node(MatMulTwo((2, 2), (2, 2)), (left, right), (2, 2), "matmul"))
            self.values.append(_matmul)
            self._shaped(len(self.nodes) - 1, (WIDTH,))
            return
        self.dense(len(self.nodes) - 1, WIDTH)

    def _shaped(self, source: int, shape: tuple[int, ...]) -> int:
        self.nodes.append(Node(Reshape(shape), (source,), shape, "shaped"))
        self.values.append(lambda g: g[0])
        return len(self.nodes) - 1

    def exact(self, point: Exact) -> Exact:
        """The output at a point."""
        found: list[Exact] = [point]
        for node, value in zip(self.nodes[1:], self.values[1:], strict=True):
            found.append(value([found[i] for i in node.inputs]))
        return found[-1]


def _scaled(factor: np.ndarray) -> Value:
    return lambda g: [v * Fraction(f) for v, f in zip(g[0], factor.tolist(), strict=True)]


def _shifted(offset: np.ndarray) -> Value:
    return lambda g: [v + Fraction(b) for v, b in zip(g[0], offset.tolist(), strict=True)]


def _matmul(given: Sequence[Exact]) -> Exact:
    a, b = given
    return [a[2 * i] * b[j] + a[2 * i + 1] * b[2 + j] for i, j in itertools.product(range(2), range(2))]


def all_bounds(graph: Graph, low: Tensor, high: Tensor) -> dict[str, Interval]:
    """Bounds of the only output: intervals, forward planes, rows with default and with optimised multipliers."""
    found = {"interval": interval_pass(graph, low, high)[-1]}
    found["forward"] = ForwardPass(graph, torch.arange(2), (low, high)).values[-1]
    engine = build_backward(graph, low[0], high[0])
    sweeper = Sweeper(engine, targets=(graph.output,))
    layers = sweeper.sweep(low, high, SweepOptions(step=Step(iterations=2)))
    assert not bool(layers.infeasible.any())
    found["sweep"] = layers.known[graph.output]
    rows = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    problem = RowProblem(graph.output, rows, RowMap.regular(1, 2, low.device), low, high, layers.known)
    bound = optimize(problem, engine, step=Step(iterations=4, rate=2.0)).bound
    found["optimised"] = bound[:1], -bound[1:]
    return found


def check(seed: int) -> int:
    """Returns how many of the bounds were finite."""
    garden = Garden(seed)
    random = np.random.default_rng(seed + 1)
    centre = random.normal(size=2) * 10.0 ** random.integers(-garden.wild, garden.wild + 1)
    half = np.abs(centre) * random.choice([0.0, 2.0**-52, 1e-9, 0.2, 2.0], 2)
    low, high = torch.from_numpy(centre - half).unsqueeze(0), torch.from_numpy(centre + half).unsqueeze(0)
    try:
        found = all_bounds(Graph(tuple(garden.nodes)), low, high)
    except DomainError:
        return 0
    ends = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(low[0], high[0], strict=True)]
    shares = [*itertools.product((0, 1), (0, 1)), *random.integers(0, 9, (12, 2)).tolist()]
    for share in shares:
        point = [
            a + (b - a) * Fraction(int(s), 8 if max(share) > 1 else 1) for s, (a, b) in zip(share, ends, strict=True)
        ]
        value = garden.exact(point)[0]
        for name, (least, most) in found.items():
            assert _below(float(least), value), f"seed {seed}: {name} from below"
            assert _below(-float(most), -value), f"seed {seed}: {name} from above"
    return sum(bool(torch.isfinite(side).all()) for pair in found.values() for side in pair)


def _below(bound: float, value: Fraction) -> bool:
    """Bounds that are not finite say nothing; plus infinity would say something false."""
    return not bound == float("inf") and (not np.isfinite(bound) or Fraction(bound) <= value)


@pytest.mark.parametrize("seed", range(60))
def test_bounds_hold_in_rationals(seed: int) -> None:
    check(seed)


def test_most_bounds_are_finite() -> None:
    assert sum(check(seed) for seed in range(20)) > 100


def reached(garden: Garden, low: Tensor, high: Tensor, random: np.random.Generator) -> Fraction:
    """The least value at the corners of the box and some points of a grid."""
    ends = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(low[0], high[0], strict=True)]
    shares = [(8 * a, 8 * b) for a, b in itertools.product((0, 1), (0, 1))] + random.integers(0, 9, (30, 2)).tolist()
    points = ([a + (b - a) * Fraction(int(s), 8) for s, (a, b) in zip(share, ends, strict=True)] for share in shares)
    return min(garden.exact(point)[0] for point in points)


def search(seed: int, seconds: float) -> End | None:
    """How input and neuron splitting end on `y <= d` for a d that is reached; None where d is too large for a float."""
    garden, random = Garden(seed), np.random.default_rng(seed + 2)
    centre = random.normal(size=2) * 10.0 ** random.integers(-garden.wild, garden.wild + 1)
    half = np.abs(centre) * random.choice([0.0, 2.0**-50, 1e-6, 0.3], 2)
    low, high = torch.from_numpy(centre - half).unsqueeze(0), torch.from_numpy(centre + half).unsqueeze(0)
    least = reached(garden, low, high, random)
    if abs(least) > 10**300:
        return None
    one, zero, starts = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1])
    bound = torch.tensor([enclose(least)[1]], dtype=torch.float64)
    table = ClauseTable(one, bound, torch.zeros(1, dtype=torch.bool), 0.0, zero, starts, starts[1:])
    clock = Clock(time.monotonic, time.monotonic() + seconds)
    prop = Property((), (), 2, 1)
    query = Query(for_verification(Graph(tuple(garden.nodes))), low, high, table, prop, clock)
    splits = any(isinstance(node.op, NonlinearOp) for node in query.graph.nodes)
    arms = (InputArm, NeuronArm) if splits else (InputArm,)
    ends = [arm(query, lambda _: False, lambda *_: None).run(clock).end for arm in arms]
    return End.CLOSED if End.CLOSED in ends else ends[0]


@pytest.mark.parametrize("seed", range(12))
def test_searches_close_nothing_that_is_reached(seed: int) -> None:
    assert search(seed, 0.4) is not End.CLOSED
