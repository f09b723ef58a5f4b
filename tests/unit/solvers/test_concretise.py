"""Bounds over a box cut by half-spaces: never above the exact optimum, close to it, and what leaves make of them."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from scipy.optimize import linprog
from verinet.solvers.branching import deepen
from verinet.solvers.branching.clip import LeafClipper
from verinet.solvers.branching.concretise import AffineNodes, HalfSpaces, below, constrained_least
from verinet.solvers.branching.leaves import ClauseRows, Engines, Leaves
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End
from verinet.solvers.query import Clock, Query

from tests.soundness.networks import random_graph, samples
from tests.unit.solvers.queries import Referee, one_row, silent
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.dense import Dense
from verinet.propagation.backward import Backward, InputRows
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward

ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)


def _case(seed: int, inputs: int, spaces: int, rows: int = 40) -> tuple[InputRows, HalfSpaces, torch.Tensor]:
    """Random rows, half-spaces through the neighbourhood of a point of the box, and the box (2, inputs)."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    size = 10.0 ** float(torch.randint(-3, 4, (1,), generator=draw))
    low = normal(inputs) * size
    box = torch.stack([low, low + normal(inputs).abs() * size])
    slopes = InputRows(normal(rows, inputs), normal(rows))
    point = box[0] + torch.rand(rows, 1, inputs, generator=draw, dtype=torch.float64) * (box[1] - box[0])
    directions = normal(rows, spaces, inputs)
    directions[:, :, 0] *= (torch.rand(rows, spaces, generator=draw) > 0.3).double()  # some zeros
    return slopes, HalfSpaces(directions, -(directions * point).sum(2)), box


def _exact_least(slope: torch.Tensor, normal: torch.Tensor, offset: float, box: torch.Tensor) -> Fraction:
    """min slope.x over the box with normal.x + offset <= 0, in rational numbers: every corner of the dual is tried."""
    a, g = [Fraction(v) for v in slope.tolist()], [Fraction(v) for v in normal.tolist()]
    low, high = ([Fraction(v) for v in end.tolist()] for end in box)
    betas = [Fraction(0)] + [-p / q for p, q in zip(a, g, strict=True) if q and -p / q > 0]

    def dual(beta: Fraction) -> Fraction:
        total = [p + beta * q for p, q in zip(a, g, strict=True)]
        return sum((min(t * lo, t * hi) for t, lo, hi in zip(total, low, high, strict=True)), beta * Fraction(offset))

    return max(dual(b) for b in betas)


@pytest.mark.parametrize("seed", range(12))
def test_one_half_space_gives_the_exact_optimum_from_below(seed: int) -> None:
    rows, spaces, box = _case(seed, 1 + seed % 6, 1)
    found = constrained_least(rows, spaces, box[:1], box[1:])
    for r in range(len(found)):
        exact = _exact_least(rows.coefficients[r], spaces.normal[r, 0], float(spaces.offset[r, 0]), box)
        exact += Fraction(float(rows.constant[r]))
        assert Fraction(float(found[r])) <= exact
        scale = 1 + float((rows.coefficients[r].abs() * box.abs().amax(0)).sum())
        assert float(found[r]) >= float(exact) - 1e-2 * scale * (box.shape[1] > 5) - 1e-9 * scale


@pytest.mark.parametrize("seed", range(6))
def test_several_half_spaces_lie_between_the_box_and_the_linear_program(seed: int) -> None:
    rows, spaces, box = _case(100 + seed, 8, 3, rows=20)
    found = constrained_least(rows, spaces, box[:1], box[1:])
    alone = torch.where(rows.coefficients >= 0, rows.coefficients * box[0], rows.coefficients * box[1]).sum(1)
    better = 0
    for r in range(len(found)):
        answer = linprog(
            rows.coefficients[r].numpy(),
            A_ub=spaces.normal[r].numpy(),
            b_ub=-spaces.offset[r].numpy(),
            bounds=box.T.numpy(),
        )
        plain = float(alone[r] + rows.constant[r])
        scale = 1 + abs(plain)
        if answer.status == 0:
            assert float(found[r]) <= answer.fun + float(rows.constant[r]) + 1e-7 * scale
        assert float(found[r]) >= plain - 1e-9 * scale
        better += float(found[r]) > plain + 1e-6 * scale
    assert better >= 10  # the half-spaces are used


def test_no_half_space_and_idle_ones_give_the_box() -> None:
    rows, _, box = _case(3, 4, 1, rows=5)
    alone = torch.where(rows.coefficients >= 0, rows.coefficients * box[0], rows.coefficients * box[1]).sum(1)
    for count, offset in ((0, 0.0), (2, -1.0)):
        idle = HalfSpaces(torch.zeros(5, count, 4, dtype=torch.float64), torch.full((5, count), offset).double())
        found = constrained_least(rows, idle, box[:1], box[1:])
        assert bool((found <= alone + rows.constant).all())
        assert torch.allclose(found, alone + rows.constant, rtol=1e-10)


def test_numbers_that_overflow_bound_nothing() -> None:
    rows, spaces, box = _case(4, 3, 1, rows=3)
    spaces.offset[0], spaces.normal[1, 0, 0], spaces.offset[2] = torch.nan, torch.inf, torch.inf
    found = constrained_least(rows, spaces, box[:1], box[1:])
    assert found[:2].tolist() == [-torch.inf] * 2 or bool((found[:2] <= 0).all())
    assert not bool(found.isnan().any())


def test_below_is_at_most_the_difference() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 500, generator=draw, dtype=torch.float64)
    for a, b, value in zip(first.tolist(), second.tolist(), below(first, second).tolist(), strict=True):
        assert Fraction(value) <= Fraction(a) - Fraction(b)


def _wide(seed: int, width: int = 16, inputs: int = 4) -> Graph:
    """One hidden layer of ReLU."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(inputs, width, generator=draw, dtype=torch.float64) / inputs**0.5
    last = torch.randn(width, 2, generator=draw, dtype=torch.float64) / width**0.5
    shift = torch.randn(width, generator=draw, dtype=torch.float64) * 0.3
    relu = find("Relu", {})
    assert relu is not None
    from verinet.ops.scalar import Elementwise

    return Graph(
        (
            Node(InputOp(inputs), (), (inputs,), "input"),
            Node(Dense(first, shift), (0,), (width,), "hidden"),
            Node(Elementwise(relu, 1), (1,), (width,), "relu"),
            Node(Dense(last, torch.zeros(2, dtype=torch.float64)), (2,), (2,), "output"),
        )
    )


def _query(seed: int, share: float, graph: Graph | None = None) -> Query:
    """Threshold this share of the sampled range above (share > 0) or below the sampled minimum."""
    graph = _wide(seed) if graph is None else graph
    low = torch.full((graph.input_size,), -1.0, dtype=torch.float64)
    values = graph.forward(samples(low[None], -low[None], seed, 20_000)[:, 0]) @ ROW
    threshold = float(values.min()) + share * float(values.max() - values.min())
    return one_row(graph, (low, -low), ROW, threshold, seconds=20.0)


def _search(query: Query) -> NeuronSplit:
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    return NeuronSplit(query, Engines(backward, backward), layers, [ClauseRows(0, 0, 1)], batch=8)


@pytest.mark.parametrize("seed", range(3))
def test_cuts_hold_wherever_the_intervals_do(seed: int) -> None:
    graph = random_graph(seed)
    low = torch.full((3,), -1.0, dtype=torch.float64)
    backward = build_backward(graph, low, -low)
    nodes = AffineNodes(backward, tuple(Sweeper(backward).exact & {1}))
    assert set(nodes.planes) == {1}
    points = samples(low[None], -low[None], seed, 4000)[:, 0]
    z = graph.nodes[1].op.forward(points)
    wide = (z.amin(0, keepdim=True) - 1, z.amax(0, keepdim=True) + 1)
    cut = (wide[0].clone(), wide[1].clone())
    cut[0][0, 0], cut[1][0, 1] = float(z[:, 0].median()), float(z[:, 1].median())
    spaces = nodes.cuts({1: wide}, {1: cut})
    assert spaces is not None and int((spaces.normal != 0).any(2).sum()) == 2
    assert nodes.cuts({1: wide}, {1: wide}) is None
    inside = ((z >= cut[0]) & (z <= cut[1])).all(1)
    values = points @ spaces.normal[0].T + spaces.offset[0]
    assert bool((values[inside] <= 0).all()) and bool((values[~inside] > 0).any(1).all())
    tight = nodes.tighten({1: cut}, {1: torch.ones_like(cut[0], dtype=torch.bool)}, spaces, (low[None], -low[None]))[1]
    assert bool((z[inside] >= tight[0]).all() and (z[inside] <= tight[1]).all())
    assert float((tight[1] - tight[0]).sum()) < float((cut[1] - cut[0]).sum())


def _violations_stay_inside(search: NeuronSplit, points: torch.Tensor) -> int:
    """Checks the bounds of all open leaves at the given violations; returns how many (leaf, point) pairs it saw."""
    seen, first = 0, search.query.graph.nodes[1].op.forward(points)
    covered = torch.zeros(len(points), dtype=torch.bool)
    for part in (*search.stack, *search.stuck):
        for leaf in range(len(part)):
            one = part.literals.take(torch.tensor([leaf]))
            here = torch.ones(len(points), dtype=torch.bool)
            for node, index, sign, point in zip(one.node[0], one.index[0], one.sign[0], one.point[0], strict=True):
                if int(node) >= 0:
                    assert int(node) == 1
                    here &= sign * (first[:, int(index)] - point) >= 0
            covered |= here
            if part.inner is not None:
                low, high = part.inner[1][0][leaf], part.inner[1][1][leaf]
                assert bool((first[here] >= low - 1e-12).all() and (first[here] <= high + 1e-12).all())
                seen += int(here.sum())
    assert bool(covered.all())  # no violation was closed away
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_bounds_of_leaves_hold_at_every_violation(seed: int) -> None:
    query = _query(seed, 0.03)
    search = _search(query)
    points = samples(query.lower, query.upper, seed + 50, 60_000)[:, 0]
    points = points[(query.graph.forward(points) @ ROW) <= query.table.bounds[0]]
    points = points[:1500]
    assert len(points) > 0
    seen = 0
    for _ in range(8):
        search.deepener.sharpen([search.stack], query.clock)
        _one_batch(search)
        seen += _violations_stay_inside(search, points)
    assert seen > 0


def _one_batch(search: NeuronSplit) -> None:
    """Run until one batch was bounded, without asking anybody about candidates."""
    ticks = itertools.count()
    search.run(Clock(lambda: float(next(ticks)), 0.5), lambda _: False, silent)


@pytest.mark.parametrize("seed", range(6))
def test_a_violation_just_inside_is_never_closed(seed: int) -> None:
    query = _query(seed, 1e-6)
    referee = Referee(query)
    outcome = _search(query).run(query.clock, referee, silent)
    assert outcome.end is End.CANDIDATE and referee.confirmed


def test_clipping_saves_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    def domains() -> int:
        total = 0
        for seed in range(3):
            query = _query(seed, -0.1)
            outcome = _search(query).run(query.clock, lambda _: False, silent)
            assert outcome.end is End.CLOSED
            total += outcome.domains
        return total

    clipped = domains()
    monkeypatch.setattr(LeafClipper, "useful", property(lambda self: False))
    assert clipped < domains()


def test_inexact_weights_are_not_used() -> None:
    query = _query(0, -0.02)
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    known = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions()).known
    assert LeafClipper(query, backward, known).affine.planes
    from dataclasses import replace

    inexact = replace(query, table=replace(query.table, weight_error=1e-9))
    assert not LeafClipper(inexact, backward, known).useful


def test_a_clipper_that_wins_nothing_rests_for_longer_and_longer() -> None:
    query = _query(0, -0.02)
    backward: Backward = build_backward(query.graph, query.lower[0], query.upper[0])
    layers: Layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    clipper = LeafClipper(query, backward, layers.known)
    idle = InputRows(torch.zeros(1, 4, dtype=torch.float64), torch.full((1,), -1e3, dtype=torch.float64))
    used = []
    for turn in range(20):
        if clipper.useful:
            used.append(turn)
            clipper.sharpen(layers.known, None, idle, torch.zeros(1, dtype=torch.int64), (query.lower, query.upper))
        else:
            clipper.skip()
    assert used == [0, 1, 2, 4, 8, 16]


def test_leaves_carry_their_bounds() -> None:
    query = _query(0, -0.02)
    search = _search(query)
    _one_batch(search)
    part: Leaves = search.stack[-1]
    assert part.inner is not None and len(part) == len(part.inner[1][0])
    half = part.take(torch.tensor([1]))
    assert half.inner is not None and torch.equal(half.inner[1][0][0], part.inner[1][0][1])
    root = Sweeper(search.engines.gate).sweep(query.lower, query.upper, SweepOptions()).known[1]
    assert bool((part.inner[1][0] >= root[0]).all()) and bool((part.inner[1][1] <= root[1]).all())


def test_sharpening_a_node_of_the_tree_forgets_what_only_its_leaves_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf's own bounds assume its literals, and bounds of a node go only to leaves that have the node's literals."""
    query = _query(0, 0.03)
    search = _search(query)
    for _ in range(2):
        _one_batch(search)
    part = max(search.stack, key=len)
    assert part.inner is not None and len(part) > 1
    part.literals.point[1, 0] += 0.25  # now this leaf is below another node
    seen: list[Leaves] = []

    def rounds(root: Leaves, prefix: int) -> deepen._Result:
        seen.append(root)
        return deepen._Result(True, None, 1.0)

    monkeypatch.setattr(search.deepener, "_rounds", rounds)
    everything = torch.ones(len(part), dtype=torch.bool)
    search.deepener._renew(0, [(part, everything)], 1)
    assert seen[0].inner is None and seen[0].literals.depth == 1
    first = part.literals.take(torch.tensor([0])).first(1)
    below_it = (part.literals.first(1).sign == first.sign).all(1) & (part.literals.node[:, 0] == first.node[0, 0])
    below_it[1] = False
    assert (part.anchor < 0).tolist() == below_it.tolist()


def test_final_rows_cut_exactly_what_cannot_violate() -> None:
    """y0 - y1 = x0 + x1 + 5 <= 3.5 in [-1, 1]^2 leaves x0 <= -0.5 for the one undecided neuron."""
    base = _wide(0, 2, 2).nodes
    first = Dense(torch.tensor([[1.0, 1.0], [1.0, 0.0]]).double(), torch.tensor([5.0, 0.0]).double())
    last = Dense(torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double(), torch.zeros(2, dtype=torch.float64))
    nodes = (base[0], Node(first, (0,), (2,), "hidden"), base[2], Node(last, (2,), (2,), "output"))
    low = torch.full((2,), -1.0, dtype=torch.float64)
    query = one_row(Graph(nodes), (low, -low), ROW, 3.5)
    backward = build_backward(query.graph, low, -low)
    layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    plane = backward.run(3, ROW[None], RowMap.regular(1, 1, low.device), layers.relaxation)
    clipper = LeafClipper(query, backward, layers.known)
    box = (query.lower, query.upper)
    inner, refuted = clipper.sharpen(layers.known, None, plane, torch.zeros(1, dtype=torch.int64), box)
    assert not bool(refuted.any())
    assert -0.5 <= float(inner[1][1][0, 1]) < -0.5 + 1e-9 and float(inner[1][0][0, 1]) <= -1.0
