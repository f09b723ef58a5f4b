"""Bounds of whole networks: enclosure of samples, adjoint gradients, split multipliers, stale planes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kits.strategies import SEEDS
from tests.soundness.networks import STRUCTURES, random_boxes, random_graph, samples
from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.propagation.backward import Backward, InputRows, Relaxation, SplitRows
from verinet.propagation.forward import ForwardPass
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import RowProblem, Step, default_multipliers, evaluate, gradients, optimize
from verinet.propagation.planes import fresh_planes, scatter
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "Gelu", "Sin", "Softplus", "Elu", "Abs", "Mish", "HardSwish")
RADII = st.sampled_from([1e-4, 0.05, 0.5, 3.0])


def _engine(graph: Graph, lower: torch.Tensor, upper: torch.Tensor) -> Backward:
    return build_backward(graph, lower.amin(0), upper.amax(0))


def _swept(graph: Graph, lower: torch.Tensor, upper: torch.Tensor, step: Step | None = None) -> tuple[Backward, Layers]:
    backward = _engine(graph, lower, upper)
    return backward, Sweeper(backward).sweep(lower, upper, SweepOptions(step=step))


def _exceeds(low: torch.Tensor, value: torch.Tensor) -> float:
    """How far a bound is above a value that the network reaches; float evaluation may blur the last digits."""
    return float((low - value - 1e-11 * (1 + value.abs())).max())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=4)
@given(seed=SEEDS, radius=RADII)
def test_layer_bounds_enclose_samples(activation: str, structure: str, seed: int, radius: float) -> None:
    graph = random_graph(seed, activation, structure, depth=2)
    lower, upper = random_boxes(seed, 3, radius)
    _, layers = _swept(graph, lower, upper)
    intervals = interval_pass(graph, lower, upper)
    points = samples(lower, upper, seed, 120)
    values = graph.forward_all(points.reshape(-1, 3))
    for position, (low, high) in enumerate(intervals):
        value = values[position].reshape(120, 3, *graph.nodes[position].shape)
        assert _exceeds(low, value) <= 0 and _exceeds(-high, -value) <= 0
        if position in layers.known:
            low, high = layers.known[position]
            assert _exceeds(low, value) <= 0 and _exceeds(-high, -value) <= 0


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=4)
@given(seed=SEEDS, radius=RADII)
def test_optimised_rows_stay_below_samples(activation: str, structure: str, seed: int, radius: float) -> None:
    graph = random_graph(seed, activation, structure, depth=2)
    lower, upper = random_boxes(seed, 2, radius)
    backward, layers = _swept(graph, lower, upper)
    rows = torch.tensor([[1.0, -1.0], [-1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    owners = RowMap.regular(2, 3, rows.device)
    problem = RowProblem(graph.output, rows.repeat(2, 1), owners, lower, upper, layers.known)
    plain = optimize(problem, backward, step=Step(iterations=0)).bound
    best = optimize(problem, backward, step=Step(iterations=6)).bound
    assert bool((best >= plain).all())
    outputs = graph.forward(samples(lower, upper, seed).reshape(-1, 3)).reshape(-1, 2, 2)
    value = torch.einsum("sdm,rm->sdr", outputs, rows).reshape(len(outputs), -1)
    assert _exceeds(best, value) <= 0


def _gradient_case(
    activation: str, structure: str, seed: int
) -> tuple[RowProblem, Backward, dict[int, tuple[torch.Tensor, ...]]]:
    graph = random_graph(seed, activation, structure, depth=2)
    lower, upper = random_boxes(seed, 2, 0.7)
    backward, layers = _swept(graph, lower, upper)
    rows = torch.tensor([[1.0, -1.0], [-1.0, 0.3]], dtype=torch.float64).repeat(2, 1)
    problem = RowProblem(graph.output, rows, RowMap.regular(2, 2, rows.device), lower, upper, layers.known)
    draw = torch.Generator().manual_seed(seed)
    multipliers: dict[int, tuple[torch.Tensor, ...]] = {}
    for position, values in default_multipliers(problem, backward).items():
        op = graph.nodes[position].op
        assert isinstance(op, NonlinearOp)
        bounds = [problem.known[i] for i in graph.nodes[position].inputs]
        moved = [v * 0.8 + 0.1 * torch.rand(v.shape, generator=draw, dtype=v.dtype) for v in values]
        gathered = [[problem.owners.gather(pair[side]) for pair in bounds] for side in (0, 1)]
        multipliers[position] = op.project(moved, gathered[0], gathered[1])
    return problem, backward, multipliers


@pytest.mark.parametrize("structure", ("chain", "residual", "product"))
def test_gradients_equal_autograd(structure: str) -> None:
    """Where the intercepts are plain formulas of the slopes (ReLU, products) autograd sees the same function."""
    assert sum(_compare_with_autograd(structure, seed) for seed in range(4)) > 20


def _compare_with_autograd(structure: str, seed: int) -> int:
    problem, backward, multipliers = _gradient_case("Relu", structure, seed)
    leaves = {v: tuple(m.detach().clone().requires_grad_(True) for m in ms) for v, ms in multipliers.items()}
    evaluate(problem, backward, leaves, {}).bound.sum().backward()
    closed, _ = gradients(problem, backward, evaluate(problem, backward, multipliers, {}))
    compared = 0
    for position, ms in leaves.items():
        for leaf, mine in zip(ms, closed[position], strict=True):
            automatic = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            free = (automatic != 0) & (mine != 0)  # decided neurons have clamped slopes: no derivative through them
            compared += int(free.sum())
            assert torch.allclose(automatic[free], mine.expand_as(leaf)[free], rtol=1e-6, atol=1e-8)
    return compared


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ("Relu", "Sigmoid", "Gelu", "Sin", "Elu", "Tanh"))
def test_gradients_equal_difference_quotients(activation: str, structure: str) -> None:
    compared = 0
    for seed in range(2):
        problem, backward, multipliers = _gradient_case(activation, structure, seed)
        state = evaluate(problem, backward, multipliers, {})
        closed, _ = gradients(problem, backward, state)
        for position, values in multipliers.items():
            for number in range(len(values)):
                compared += _compare_quotients((problem, backward), multipliers, closed[position], (position, number))
    assert compared > 10


def _compare_quotients(
    case: tuple[RowProblem, Backward],
    multipliers: dict[int, tuple[torch.Tensor, ...]],
    closed: tuple[torch.Tensor, ...],
    which: tuple[int, int],
) -> int:
    """Check three entries of one multiplier; entries at a kink (one-sided quotients differ) are skipped."""
    problem, backward = case
    position, number = which
    step, compared = 1e-5, 0
    flat = multipliers[position][number].reshape(multipliers[position][number].shape[0], -1)
    for entry in range(min(3, flat.shape[1])):
        bounds = []
        for shift in (-step, 0.0, step):
            moved = flat.clone()
            moved[:, entry] += shift
            changed = list(multipliers[position])
            changed[number] = moved.reshape(multipliers[position][number].shape)
            bounds.append(evaluate(problem, backward, {**multipliers, position: tuple(changed)}, {}).bound)
        left, right = (bounds[1] - bounds[0]) / step, (bounds[2] - bounds[1]) / step
        mine = closed[number].reshape(flat.shape[0], -1)[:, entry]
        smooth = ((left - right).abs() < 1e-4 * left.abs() + 1e-7) & (left.abs() + right.abs() > 1e-12)
        compared += int(smooth.sum())
        assert torch.allclose(((left + right) / 2)[smooth], mine[smooth], rtol=2e-3, atol=2e-4)
    return compared


@pytest.mark.parametrize("activation", ("Relu", "Sigmoid", "Sin", "Gelu"))
@given(seed=SEEDS, radius=st.sampled_from([0.3, 2.0]))
def test_split_multipliers_stay_below_samples_that_obey_the_split(activation: str, seed: int, radius: float) -> None:
    graph = random_graph(seed, activation, "residual", depth=2)
    lower, upper = random_boxes(seed, 1, radius)
    backward, layers = _swept(graph, lower, upper)
    node = min(v for v in layers.known if v > 1)  # a hidden pre-activation that is not affine in the input
    low, high = layers.known[node]
    point = (low + high)[0, 0] * 0.5
    for sign in (1.0, -1.0):
        known = dict(layers.known)
        clipped = (low.clone(), high.clone())
        clipped[0 if sign > 0 else 1][0, 0] = point
        known[node] = clipped
        one = torch.ones(2, dtype=torch.float64)
        index = torch.zeros(2, dtype=torch.int64)
        split = SplitRows(torch.tensor([0, 1]), index, one * sign, one * point, one * 0.2)
        rows = torch.tensor([[1.0, -1.0], [-1.0, 0.4]], dtype=torch.float64)
        owners = RowMap.regular(1, 2, rows.device)
        problem = RowProblem(graph.output, rows, owners, lower, upper, known, {node: split})
        best = optimize(problem, backward, step=Step(iterations=8)).bound
        points = samples(lower, upper, seed)[:, 0]
        values = graph.forward_all(points)
        obeys = sign * (values[node][:, 0] - point) >= 0
        if bool(obeys.any()):
            assert _exceeds(best, values[-1][obeys] @ rows.T) <= 0


@pytest.mark.parametrize("activation", ("Relu", "Sigmoid", "Sin"))
@settings(max_examples=4)
@given(seed=SEEDS, radius=RADII)
def test_stale_planes_hold_on_every_sub_box(activation: str, seed: int, radius: float) -> None:
    graph = random_graph(seed, activation, "residual", depth=2)
    lower, upper = random_boxes(seed, 2, radius)
    backward = _engine(graph, lower, upper)
    sweeper = Sweeper(backward)
    found: list[tuple[int, torch.Tensor, torch.Tensor, InputRows]] = []
    layers = sweeper.sweep(lower, upper, SweepOptions(), None, lambda *item: found.append(item))
    axes = torch.tensor([0, 2])  # the middle input is concretised into the constants
    shapes = {v: graph.nodes[v].shape for v in layers.known}
    planes = fresh_planes(axes, layers.known, 2)
    for position, domain, index, rows in found:
        scatter(planes, position, (domain, index), rows, (lower, upper))
    draw = torch.Generator().manual_seed(seed)
    ends = torch.rand(2, 2, 3, generator=draw, dtype=torch.float64).sort(0).values
    low, high = lower + ends[0] * (upper - lower), lower + ends[1] * (upper - lower)
    points = samples(low, high, seed, 100)
    values = graph.forward_all(points.reshape(-1, 3))
    for position, (least, most) in planes.concretize(low, high, shapes).items():
        value = values[position].reshape(100, 2, *shapes[position])
        assert _exceeds(least, value) <= 0 and _exceeds(-most, -value) <= 0


def test_a_dropped_rounding_charge_is_noticed() -> None:
    """Cancelling weights of size 1e8: the computed bound alone is too high in float32, the charge covers it."""
    from verinet.ir.graph import InputOp, Node
    from verinet.ops.linear.dense import Dense

    draw = torch.Generator().manual_seed(1)
    first = torch.randn(3, 64, generator=draw)
    second = torch.randn(64, 1, generator=draw) * 1e4
    nodes = (
        Node(InputOp(3), (), (3,), "x"),
        Node(Dense(first), (0,), (64,), "h"),
        Node(Dense(second), (1,), (1,), "y"),
    )
    graph = Graph(nodes)
    lower = torch.full((1, 3), -1.0)
    backward = build_backward(graph, lower[0], -lower[0])
    rows = backward.run(2, torch.ones(1, 1), RowMap.regular(1, 1, lower.device), _no_lines())
    exact = (first.double() @ second.double()).squeeze(1)
    drift = float((rows.coefficients[0].double() - exact).abs().sum())
    assert drift > 0
    assert float(-rows.constant[0]) >= drift


def _no_lines() -> Relaxation:
    return Relaxation({})


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ("Relu", "Sigmoid", "Sin", "Gelu"))
@settings(max_examples=6)
@given(seed=SEEDS, radius=RADII)
def test_forward_planes_enclose_samples(activation: str, structure: str, seed: int, radius: float) -> None:
    graph = random_graph(seed, activation, structure, depth=2)
    lower, upper = random_boxes(seed, 2, radius)
    forward = ForwardPass(graph, torch.tensor([0, 2]), (lower, upper))
    points = samples(lower, upper, seed, 120)
    values = graph.forward_all(points.reshape(-1, 3))
    shapes = {v: graph.nodes[v].shape for v in range(1, len(graph.nodes))}
    planes = forward.stale(tuple(shapes)).concretize(lower, upper, shapes)
    for position, shape in shapes.items():
        value = values[position].reshape(120, 2, *shape)
        for low, high in (forward.values[position], planes[position]):
            assert _exceeds(low, value) <= 0 and _exceeds(-high, -value) <= 0
