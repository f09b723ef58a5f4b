"""Zonotopes around inner nodes, and networks whose products know them: enclosures on random networks with attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verinet.solvers.correlated import with_hulls

from tests.soundness.test_attention import attention, inside
from tests.unit.ops_bilinear.test_factors import normalised
from verinet.ir.graph import Graph, total
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.mixed import MatMulMixed, Mixed, ProductMixed
from verinet.ops.bilinear.squared import MatMulSquared
from verinet.ops.normalisation.squares import SumOfSquares
from verinet.ops.rewrites import for_verification
from verinet.propagation.backward import Backward
from verinet.propagation.generators import Generators
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.parallel import parallel
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward, ranges

SEEDS = st.integers(0, 10_000)
RADII = st.sampled_from([0.0, 1e-4, 0.05, 0.3, 0.8])
NETWORKS: dict[str, Callable[[int], Graph]] = {"attention": attention, "normalised": normalised}


def network(name: str, seed: int) -> Graph:
    return for_verification(NETWORKS[name](seed))


def box(graph: Graph, seed: int, radius: float) -> Interval:
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(1, graph.input_size, generator=draw, dtype=torch.float64)
    half = torch.rand(1, graph.input_size, generator=draw, dtype=torch.float64) * radius
    half[torch.rand(half.shape, generator=draw) < 0.2] = 0.0
    return centre - half, centre + half


def bounded(graph: Graph, ends: Interval, rows: bool = True) -> dict[int, Interval]:
    backward = build_backward(graph, ends[0][0], ends[1][0])
    return Sweeper(backward).sweep(*ends, SweepOptions(rows=rows)).known


def informed(graph: Graph, ends: Interval) -> tuple[Graph, dict[int, Interval]]:
    known = bounded(graph, ends)
    return with_hulls(graph, ranges(graph, *ends, known), known, lambda: False), known


@settings(max_examples=8)
@given(seed=SEEDS, radius=RADII, name=st.sampled_from(sorted(NETWORKS)), rows=st.booleans())
def test_zonotopes_hold_all_values(seed: int, radius: float, name: str, rows: bool) -> None:
    """In random directions: the values of a node, and of two nodes at once with symbols in common."""
    graph = network(name, seed)
    ends = box(graph, seed, radius)
    known = bounded(graph, ends, rows)
    engine = Generators(graph, ranges(graph, *ends, known), known)
    values = graph.forward_all(inside(*ends, seed, 300)[:, 0])
    draw = torch.Generator().manual_seed(seed)
    nodes = [v for v in range(len(graph.nodes)) if total(graph.nodes[v].shape) > 1]
    for node in [0, *nodes[1::3], 0]:
        middle, generators = engine.around(node)
        other = nodes[(seed + node) % len(nodes)]
        (one, first), (two, second) = engine.pair(node, other)
        assert torch.equal(one, middle)
        both = torch.cat([values[node].flatten(1), values[other].flatten(1)], 1)
        _holds(values[node].flatten(1), middle, generators, draw)
        _holds(both, torch.cat([one, two]), torch.cat([first, second]), draw)


def _holds(values: Tensor, middle: Tensor, generators: Tensor, draw: torch.Generator) -> None:
    directions = torch.randn(40, middle.numel(), generator=draw, dtype=torch.float64)
    directions = torch.cat([directions, torch.eye(middle.numel(), dtype=torch.float64)])
    reach = (directions @ generators).abs().sum(1)
    found = (values - middle) @ directions.T
    slack = 1e-12 * (1 + (values.abs() @ directions.T.abs()).amax(0))
    assert bool((found.abs() <= reach + slack).all())


@settings(max_examples=6)
@given(seed=SEEDS, radius=st.sampled_from([0.0, 0.1, 1.0]), name=st.sampled_from(sorted(NETWORKS)))
def test_parallel_planes_hold_on_boxes(seed: int, radius: float, name: str) -> None:
    """Of every kind of operator in the networks, at corners and inside of the box of its own inputs."""
    graph = network(name, seed)
    known = bounded(graph, box(graph, seed, radius))
    draw = torch.Generator().manual_seed(seed)
    for node in graph.nodes:
        if not isinstance(node.op, NonlinearOp) or node.op.kind in ("Shares", "Either"):  # promises about their inputs
            continue
        ends = [known[i] for i in node.inputs]
        planes = parallel(node.op, ends)
        points = []
        for low, high in ends:
            share = torch.rand(200, *low.shape[1:], generator=draw, dtype=torch.float64)
            share[::2] = share[::2].round()
            points.append(low + share * (high - low))
        rows = torch.randn(30, *node.shape, generator=draw, dtype=torch.float64)
        truth = node.op.forward(*points).flatten(1) @ rows.flatten(1).T
        middle, radii, size = (t.expand(1, *node.shape).flatten(1) for t in planes[1:])
        value = middle @ rows.flatten(1).T
        for part, point in zip(planes.pull(rows), points, strict=True):
            value = value + point.flatten(1) @ part.flatten(1).T
        room = radii @ rows.flatten(1).abs().T + 1e-13 * (1 + size @ rows.flatten(1).abs().T)
        assert bool(((truth - value).abs() <= room).all()), node.op.kind


@settings(max_examples=8)
@given(seed=SEEDS, radius=RADII, name=st.sampled_from(sorted(NETWORKS)))
def test_informed_networks_bound_samples(seed: int, radius: float, name: str) -> None:
    """Layer bounds and optimised rows, on the box and on parts of it, against samples moved towards the worst."""
    graph = network(name, seed)
    ends = box(graph, seed, radius)
    other, known = informed(graph, ends)
    points = inside(*ends, seed, 200)[:, 0]
    assert torch.equal(other.forward(points), graph.forward(points))
    draw = torch.Generator().manual_seed(seed)
    backward = Backward(other, ranges(other, *ends, known))
    cut = ends[0] + (ends[1] - ends[0]) * torch.rand(1, graph.input_size, generator=draw, dtype=torch.float64)
    for part in (ends, (ends[0], cut)):
        layers = Sweeper(backward).sweep(*part, SweepOptions(step=Step(iterations=4)), known)
        assert not bool(layers.infeasible.any())
        rows = torch.randn(6, graph.output_size, generator=draw, dtype=torch.float64)
        problem = RowProblem(graph.output, rows, RowMap.regular(1, 6, rows.device), *part, layers.known)
        best = optimize(problem, backward, step=Step(iterations=10))
        worst = (_descended(graph, part, rows) * rows).sum(1)
        assert bool((best.bound <= worst + 1e-11).all())
        inner = inside(*part, seed, 200)[:, 0]
        assert bool((best.bound.unsqueeze(1) <= rows @ graph.forward(inner).T + 1e-11).all())
        for position, (low, high) in layers.known.items():
            value = graph.forward_all(inner)[position]
            assert bool((low <= value + 1e-11).all() and (value <= high + 1e-11).all())


def _descended(graph: Graph, ends: Interval, rows: Tensor) -> Tensor:
    """Outputs at points that make the rows small, by signed gradient steps."""
    low, high = ends
    x = ((low + high) * 0.5).repeat(rows.shape[0], 1)
    for step in (1.0, 0.5, 0.25, 0.1):
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((graph.forward(x) * rows).sum(), x)
        x = torch.minimum(torch.maximum(x - step * (high - low) * slope.sign(), low), high)
    return graph.forward(x.detach())


def test_products_are_informed_where_that_narrows_them() -> None:
    """Values and normalised tokens get hulls; bounds of the outputs get better for a seed and radius like any other."""
    gains = {}
    for name in NETWORKS:
        graph = network(name, 3)
        ends = box(graph, 3, 0.3)
        other, known = informed(graph, ends)
        kinds = {type(n.op) for n in other.nodes}
        expected = {"attention": {MatMulMixed}, "normalised": {ProductMixed, SumOfSquares}}
        assert kinds >= expected[name]
        rows = torch.cat([torch.eye(graph.output_size), -torch.eye(graph.output_size)]).double()
        widths = []
        for this in (graph, other):
            backward = Backward(this, ranges(this, *ends, known))
            layers = Sweeper(backward).sweep(*ends, SweepOptions(step=Step(iterations=10)), known)
            owners = RowMap.regular(1, rows.shape[0], rows.device)
            problem = RowProblem(this.output, rows, owners, *ends, layers.known)
            widths.append(-float(optimize(problem, backward, step=Step(iterations=30)).bound.sum()))
        gains[name] = widths[1] / widths[0]
    assert gains["attention"] < 0.99
    assert gains["normalised"] < 0.98


def test_networks_without_such_products_stay_what_they_are() -> None:
    from verinet.ir.graph import InputOp, Node
    from verinet.ops.linear.dense import Dense

    graph = Graph((Node(InputOp(3), (), (3,), "x"), Node(Dense(torch.eye(3, dtype=torch.float64)), (0,), (3,), "y")))
    ends = box(graph, 0, 0.1)
    assert with_hulls(graph, ranges(graph, *ends), {}, lambda: False) is graph


def test_no_time_leaves_the_network_as_it_is() -> None:
    graph = network("attention", 0)
    ends = box(graph, 0, 0.1)
    known = bounded(graph, ends)
    assert with_hulls(graph, ranges(graph, *ends, known), known, lambda: True) is graph


def test_a_second_time_renews_what_is_known() -> None:
    """Products stay of their kind, so multipliers that were found still fit, and hulls shrink with the bounds."""
    graph = network("attention", 3)
    ends = box(graph, 3, 0.3)
    other, known = informed(graph, ends)
    inner = (ends[0] * 0.75 + ends[1] * 0.25, ends[0] * 0.25 + ends[1] * 0.75)
    tighter = bounded(other, inner)
    again = with_hulls(other, ranges(other, *inner, tighter), tighter, lambda: False)
    for old, new in zip(other.nodes, again.nodes, strict=True):
        assert type(old.op) is type(new.op) or not isinstance(old.op, Mixed | MatMulSquared | SumOfSquares)
        if isinstance(new.op, SumOfSquares) and isinstance(old.op, SumOfSquares):
            assert float(new.op.most.sum()) < float(old.op.most.sum())
        if isinstance(new.op, Mixed) and isinstance(old.op, Mixed):
            assert float(new.op.factor.abs().sum()) < float(old.op.factor.abs().sum())


def test_bounds_without_end_tell_nothing() -> None:
    """Infinite bounds of what is multiplied leave the products as they are; nothing is raised."""
    graph = network("attention", 0)
    ends = box(graph, 0, 0.1)
    known = bounded(graph, ends)
    wide = {v: (torch.full_like(lo, -torch.inf), torch.full_like(hi, torch.inf)) for v, (lo, hi) in known.items()}
    sizes = ranges(graph, *ends, known)
    other = with_hulls(graph, sizes, wide, lambda: False)
    points = inside(*ends, 0, 50)[:, 0]
    assert torch.equal(other.forward(points), graph.forward(points))
    for node in other.nodes:
        if isinstance(node.op, Mixed):
            assert bool(torch.isfinite(node.op.factor).all() and torch.isfinite(node.op.middle).all())
