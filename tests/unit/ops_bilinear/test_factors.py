"""Common factors taken out of linear layers: the same function, sound rows, and less loss behind a normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verinet.ir.graph import Graph, InputOp, Node, Op, Shape
from verinet.ops.activations import find
from verinet.ops.bilinear.either import Either
from verinet.ops.bilinear.factors import with_late_factors
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Scale, Shift, Subtract
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import Sum
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

TOKENS, WIDTH, HIDDEN = 2, 5, 6
INPUTS = TOKENS * WIDTH


def normalised(seed: int, shift: bool = True, offset: bool = True) -> Graph:
    """A linear layer, layer normalisation with scale (and shift), a linear layer, tanh, and two outputs."""
    draw = torch.Generator().manual_seed(seed)
    nodes = [Node(InputOp(INPUTS), (), (INPUTS,), "x")]

    def add(op: Op, inputs: tuple[int, ...], shape: Shape) -> int:
        nodes.append(Node(op, inputs, shape, f"n{len(nodes)}"))
        return len(nodes) - 1

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[0] ** 0.5

    def function(name: str, **attributes: float) -> Elementwise:
        found = find(name, attributes)
        assert found is not None
        return Elementwise(found, 2)

    from verinet.ops.shape.reshape import Reshape

    tokens, single = (TOKENS, WIDTH), (TOKENS, 1)
    start = add(Dense(random(WIDTH, WIDTH)), (add(Reshape(tokens), (0,), tokens),), tokens)
    share = torch.tensor(1 / WIDTH, dtype=torch.float64)
    mean = add(Scale(share), (add(Sum((1,)), (start,), single),), single)
    centred = add(Subtract(), (start, mean), tokens)
    square = add(Sum((1,)), (add(function("Pow", exponent=2.0), (centred,), tokens),), single)
    spread = add(Shift(torch.tensor(1e-3, dtype=torch.float64)), (add(Scale(share), (square,), single),), single)
    factor = add(function("Pow", exponent=-0.5), (spread,), single)
    last = add(Product(single, tokens, limit=float(WIDTH - 1) ** 0.5 + 1e-6), (factor, centred), tokens)
    last = add(Scale(random(WIDTH)), (last,), tokens)
    last = add(Shift(random(WIDTH)), (last,), tokens) if shift else last
    last = add(Dense(random(WIDTH, HIDDEN), random(HIDDEN) if offset else None), (last,), (TOKENS, HIDDEN))
    last = add(function("Tanh"), (last,), (TOKENS, HIDDEN))
    last = add(Reshape((TOKENS * HIDDEN,)), (last,), (TOKENS * HIDDEN,))
    add(Dense(random(TOKENS * HIDDEN, 2)), (last,), (2,))
    return Graph(tuple(nodes))


def region(seed: int, radius: float) -> tuple[Tensor, Tensor]:
    centre = torch.randn(1, INPUTS, generator=torch.Generator().manual_seed(seed + 50), dtype=torch.float64)
    return centre - radius, centre + radius


def inside(lower: Tensor, upper: Tensor, seed: int, count: int = 400) -> Tensor:
    share = torch.rand(count, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share[: count // 2] = share[: count // 2].round()
    return lower + share * (upper - lower)


def bounds(graph: Graph, lower: Tensor, upper: Tensor, rows: Tensor, steps: int) -> Tensor:
    backward = build_backward(graph, lower[0], upper[0])
    step = Step(iterations=steps) if steps else None
    layers = Sweeper(backward).sweep(lower, upper, SweepOptions(step=step))
    owners = RowMap.regular(1, rows.shape[0], rows.device)
    problem = RowProblem(graph.output, rows, owners, lower, upper, layers.known)
    return optimize(problem, backward, step=Step(iterations=steps)).bound


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_the_function_stays_the_same(shift: bool, offset: bool) -> None:
    graph = normalised(1, shift, offset)
    lowered = with_late_factors(graph)
    assert sum(isinstance(n.op, Either) for n in lowered.nodes) == 1
    x = torch.randn(60, INPUTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = lowered.forward_all(x)
    assert torch.equal(values[-1], graph.forward(x))
    for node in lowered.nodes:
        if isinstance(node.op, Either):
            direct, other = (values[i] for i in node.inputs)
            assert torch.allclose(direct, other, rtol=1e-12, atol=1e-12)


def test_graphs_without_a_common_factor_are_left_alone() -> None:
    graph = normalised(1)
    last = next(i for i, n in enumerate(graph.nodes) if isinstance(n.op, Product))
    op = graph.nodes[last].op
    assert isinstance(op, Product)
    swapped = dataclasses.replace(op, left=op.right, right=op.left)
    nodes = list(graph.nodes)
    nodes[last] = dataclasses.replace(nodes[last], op=swapped, inputs=nodes[last].inputs[::-1])
    assert with_late_factors(Graph(tuple(nodes))).nodes == tuple(nodes)


@settings(max_examples=6)
@given(
    seed=st.integers(0, 1000), radius=st.sampled_from([0.0, 1e-3, 0.05, 0.3, 1.0]), dtype=st.sampled_from(["d", "s"])
)
def test_intervals_and_rows_enclose_samples(seed: int, radius: float, dtype: str) -> None:
    graph = with_late_factors(normalised(seed)).to(torch.float64 if dtype == "d" else torch.float32)
    lower, upper = (t.to(torch.float64 if dtype == "d" else torch.float32) for t in region(seed, radius))
    rows = torch.cat([torch.eye(2), -torch.eye(2)]).to(lower.dtype)
    x = inside(lower.double(), upper.double(), seed)
    values = graph.to(torch.float64).forward_all(x)
    for position, (low, high) in enumerate(interval_pass(graph, lower, upper)):
        slack = 1e-12 * (1 + values[position].abs())
        assert bool((low.double() <= values[position] + slack).all())
        assert bool((values[position] <= high.double() + slack).all())
    found = bounds(graph, lower, upper, rows, 4).double()
    assert bool((found <= (values[-1] @ rows.double().T).amin(0) + 1e-12).all())


def _width(graph: Graph, lower: Tensor, upper: Tensor) -> float:
    """Mean width of what tanh reads, bounded by plain rows."""
    layers = Sweeper(build_backward(graph, lower[0], upper[0])).sweep(lower, upper, SweepOptions())
    read = [n.inputs[0] for n in graph.nodes if isinstance(n.op, Elementwise) and n.op.function.name == "Tanh"]
    low, high = layers.known[read[0]]
    return float((high - low).mean())


def test_the_layer_behind_a_normalisation_gets_narrower() -> None:
    for seed in range(3):
        graph, (lower, upper) = normalised(seed), region(seed, 0.2)
        assert _width(with_late_factors(graph), lower, upper) < 0.9 * _width(graph, lower, upper)


@given(seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_shares_of_both_ways_sum_to_one_exactly(seed: int, dtype: torch.dtype) -> None:
    op, draw = Either(1), torch.Generator().manual_seed(seed)
    box = [torch.zeros(7, 5, dtype=dtype)] * 2
    wild = (torch.rand(7, 5, generator=draw, dtype=torch.float64) * 3 - 1).to(dtype)
    for chosen in (wild, wild * 1e-9, 1 - wild * 1e-9):
        first, second = op.lines(box, box, (chosen,))
        assert bool((first.double() + second.double() == 1).all())
        assert bool(((first >= 0) & (second >= 0)).all())


def test_a_mixture_of_both_ways_bounds_equal_values() -> None:
    """Pull, push and gradient agree, and a mixture that does not sum to one is noticed."""
    op, draw = Either(2), torch.Generator().manual_seed(3)
    x = torch.randn(6, 2, 3, generator=draw, dtype=torch.float64)
    rows = torch.randn(6, 2, 3, generator=draw, dtype=torch.float64)
    chosen = torch.rand(6, 2, 3, generator=draw, dtype=torch.float64)

    def value(lines: Sequence[Tensor], first: Tensor, second: Tensor) -> Tensor:
        pulled = op.pull(rows, tuple(lines))
        return (pulled.rows[0] * first + pulled.rows[1] * second).sum((1, 2)) + pulled.offset

    lines = op.lines([x - 1, x - 2], [x + 1, x + 2], (chosen,))
    assert torch.allclose(value(lines, x, x), (rows * x).sum((1, 2)), atol=1e-12)
    assert not torch.allclose(value((lines[0], lines[1] + 1e-3), x, x), (rows * x).sum((1, 2)), atol=1e-6)
    other = x + 0.5
    assert torch.allclose(value(lines, x, other), (rows * op.push(rows, lines, x, other)).sum((1, 2)))
    moved = value(op.lines([x], [x], (chosen * 0.999,)), x, other) - value(lines, x, other)
    promised = (op.gradient(rows, lines, x, other)[0] * (-0.001 * chosen)).sum((1, 2))
    assert torch.allclose(moved, promised, atol=1e-9)
    low, high = op.interval([x - 1, x - 2], [x + 3, x + 2])
    assert torch.equal(low, x - 1)
    assert torch.equal(high, x + 2)
