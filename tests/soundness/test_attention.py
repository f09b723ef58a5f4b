"""Whole networks with attention and normalisation: bounds enclose samples, gradients are right, ViT files work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kits.strategies import SEEDS
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.linear.arithmetic import Add, Shift
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import Sum
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape
from verinet.propagation.backward import Backward
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import RowProblem, Step, default_multipliers, evaluate, gradients, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

TOKENS, WIDTH = 3, 4
INPUTS = TOKENS * WIDTH


def attention(seed: int, log: bool = False) -> Graph:
    """softmax(q k') v with a residual, each token divided by its root mean square, and three outputs."""
    draw = torch.Generator().manual_seed(seed)
    nodes = [Node(InputOp(INPUTS), (), (INPUTS,), "x")]

    def add(op: object, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        nodes.append(Node(op, inputs, shape, f"n{len(nodes)}"))  # type: ignore[arg-type]
        return len(nodes) - 1

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=draw, dtype=torch.float64) / rows**0.5

    shape = (TOKENS, WIDTH)
    x = add(Reshape(shape), (0,), shape)
    query, key, value = (add(Dense(matrix(WIDTH, WIDTH)), (x,), shape) for _ in range(3))
    flat = add(Reshape((WIDTH, TOKENS)), (key,), (WIDTH, TOKENS))
    scores = add(MatMulTwo(shape, (WIDTH, TOKENS)), (query, flat), (TOKENS, TOKENS))
    shares = add(Softmax(2, log), (scores,), (TOKENS, TOKENS))
    mixed = add(Add(), (add(MatMulTwo((TOKENS, TOKENS), shape), (shares, value), shape), x), shape)
    square, root = find("Pow", {"exponent": 2.0}), find("Pow", {"exponent": -0.5})
    assert square is not None
    assert root is not None
    mean = add(Sum((1,)), (add(Elementwise(square, 2), (mixed,), shape),), (TOKENS, 1))
    spread = add(Shift(torch.tensor(0.5, dtype=torch.float64)), (mean,), (TOKENS, 1))
    normal = add(Gate(root, (TOKENS, 1), shape, limit=float(WIDTH)), (spread, mixed), shape)
    last = add(Reshape((INPUTS,)), (normal,), (INPUTS,))
    add(Dense(matrix(INPUTS, 3)), (last,), (3,))
    return Graph(tuple(nodes))


def region(seed: int, radius: float, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(count, INPUTS, generator=draw, dtype=torch.float64)
    half = torch.rand(count, INPUTS, generator=draw, dtype=torch.float64) * radius
    half[torch.rand(half.shape, generator=draw) < 0.2] = 0.0
    return centre - half, centre + half


def inside(lower: torch.Tensor, upper: torch.Tensor, seed: int, count: int = 150) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *lower.shape, generator=draw, dtype=torch.float64)
    share[: count // 2] = share[: count // 2].round()
    return lower + share * (upper - lower)


def engine(graph: Graph, lower: torch.Tensor, upper: torch.Tensor) -> Backward:
    return build_backward(graph, lower.amin(0), upper.amax(0))


@settings(max_examples=8)
@given(
    seed=SEEDS, radius=st.sampled_from([0.0, 1e-4, 0.05, 0.3, 1.5]), log=st.booleans(), steps=st.sampled_from([0, 3])
)
def test_layer_bounds_enclose_samples(seed: int, radius: float, log: bool, steps: int) -> None:
    graph = attention(seed, log)
    lower, upper = region(seed, radius)
    step = Step(iterations=steps) if steps else None
    layers = Sweeper(engine(graph, lower, upper)).sweep(lower, upper, SweepOptions(step=step))
    assert not bool(layers.infeasible.any())
    points = inside(lower, upper, seed)
    values = graph.forward_all(points.reshape(-1, INPUTS))
    for position, (low, high) in enumerate(interval_pass(graph, lower, upper)):
        value = values[position].reshape(points.shape[0], 2, *graph.nodes[position].shape)
        slack = 1e-12 * (1 + value.abs())
        assert bool((low <= value + slack).all() and (value <= high + slack).all())
        if position in layers.known:
            low, high = layers.known[position]
            assert bool((low <= value + slack).all() and (value <= high + slack).all())


@settings(max_examples=8)
@given(seed=SEEDS, radius=st.sampled_from([0.02, 0.3, 1.0]), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_optimised_rows_stay_below_samples(seed: int, radius: float, dtype: torch.dtype) -> None:
    graph = attention(seed)
    lower, upper = region(seed, radius)
    low, high = lower.to(dtype), upper.to(dtype)
    single = graph.to(dtype)
    backward = engine(single, low, high)
    layers = Sweeper(backward).sweep(low, high, SweepOptions())
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    problem = RowProblem(graph.output, rows, RowMap.regular(2, 4, rows.device), low, high, layers.known)
    plain = optimize(problem, backward, step=Step(iterations=0)).bound
    best = optimize(problem, backward, step=Step(iterations=12)).bound
    assert bool((best >= plain).all())
    points = inside(low.double(), high.double(), seed)
    values = single.to(torch.float64).forward(points.reshape(-1, INPUTS)).reshape(points.shape[0], 2, 1, 3)
    reached = (values * rows.double().reshape(1, 2, 4, 3)).sum(-1).amin(0).reshape(-1)
    assert bool((best.double() <= reached + 1e-12 * (1 + reached.abs())).all())


def test_gradients_of_a_whole_network_are_ascent_directions() -> None:
    """A small step along the closed-form gradient raises the bound as much as it promises."""
    graph = attention(3)
    lower, upper = region(3, 0.3, 1)
    backward = engine(graph, lower, upper)
    layers = Sweeper(backward).sweep(lower, upper, SweepOptions())
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = RowProblem(graph.output, rows, RowMap.regular(1, 4, rows.device), lower, upper, layers.known)
    # Away from the defaults, which sit on kinks: equal candidates, signs that flip, ends of boxes.
    draw = torch.Generator().manual_seed(2)
    chosen = {
        v: tuple(m * 0 + 0.3 + 0.3 * torch.rand(m.shape, generator=draw, dtype=torch.float64) for m in values)
        for v, values in default_multipliers(problem, backward).items()
    }
    state = evaluate(problem, backward, chosen, {})
    slopes, _ = gradients(problem, backward, state)
    checked = 0
    for node, parts in slopes.items():
        for k, gradient in enumerate(parts):
            gradient = gradient.expand(chosen[node][k].shape)
            promised = gradient.square().reshape(4, -1).sum(-1)
            step = 1e-6 / promised.sqrt().clamp(min=1e-9)
            values = []
            for sign in (1, -1):
                moved = dict(chosen)
                shift = sign * step.reshape(-1, *(1,) * (gradient.dim() - 1)) * gradient
                moved[node] = tuple(m + (shift if i == k else 0) for i, m in enumerate(chosen[node]))
                values.append(evaluate(problem, backward, moved, {}).bound)
            gain = (values[0] - values[1]) / (2 * step)
            assert torch.allclose(gain, promised, rtol=1e-3, atol=1e-6), (node, k)
            checked += int((promised > 1e-12).any())
    assert checked >= 8


def networks(folder: Path) -> list[Path]:
    names = ("vit_1", "vit_1_dynamo", "vit_noln", "vit_noln_dynamo")
    found = [folder / "digits" / "onnx" / f"{name}.onnx" for name in names]
    return found + sorted((folder / "vnncomp" / "vit_2023" / "onnx").glob("*.onnx.gz"))


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_vision_transformers_are_read_and_bounded(bench_folder: Path) -> None:
    """Small boxes around random images: outputs of samples are inside the bounds of plain backward rows."""
    paths = networks(bench_folder)
    assert len(paths) == 6
    for path in paths:
        model = load_onnx(path)
        graph, size = model.graph.to(torch.float64), model.graph.input_size
        random = np.random.default_rng(5)
        centre = random.uniform(0.1, 1.0, size=(1, size))
        assert compare_with_onnxruntime(model, centre) < 1e-4
        low, high = torch.from_numpy(centre - 1e-3), torch.from_numpy(centre + 1e-3)
        backward = build_backward(graph, low[0], high[0])
        rows = torch.cat([torch.eye(10, dtype=torch.float64), -torch.eye(10, dtype=torch.float64)])
        intervals = interval_pass(graph, low, high)
        known = {i: intervals[i] for n in graph.nodes for i in n.inputs}
        owners = RowMap.regular(1, 20, rows.device)
        bound = optimize(RowProblem(graph.output, rows, owners, low, high, known), backward, step=Step(iterations=2))
        points = torch.from_numpy(centre + random.uniform(-1e-3, 1e-3, size=(50, size)))
        outputs = graph.forward(points) @ rows.T
        assert bool((bound.bound <= outputs.amin(0) + 1e-9).all()), path.name
        assert bool(torch.isfinite(bound.bound).all()), path.name
