"""Splits at jumps with one open side: nothing is lost, whatever the network does at the jump, and it closes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from verinet.solvers.arms import NeuronArm
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.splits import Literals

from tests.kits.flat_networks import chain, enumerated, flat_functions, shared
from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows, silent
from verinet.ops.activations import find
from verinet.ops.scalar import Elementwise
from verinet.propagation.ends import HalfOpen, carried, seen, within
from verinet.spec.property import Clause

FLAT = pytest.mark.parametrize("name", sorted(flat_functions()))
REAL = {"dtype": torch.float64}


def op_of(name: str) -> Elementwise:
    return Elementwise(flat_functions()[name], 1)


def mask(flag: bool, like: Tensor) -> Tensor:
    return torch.full(like.shape, flag)


def exact_gap(line: tuple[Tensor, Tensor], x: float, value: Tensor) -> Fraction:
    """Function minus line, without rounding."""
    slope, offset = (Fraction(float(t)) for t in line)
    return Fraction(float(value)) - slope * Fraction(x) - offset


@FLAT
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
@pytest.mark.parametrize("slope", (0.0, 0.37, -2.5, 1e60, -1e20))
def test_lines_hold_up_to_an_open_end(name, dtype, slope):
    """At the open end itself with the value that the function has just before it: the limit of what is covered."""
    op = op_of(name)
    slope = max(-1e20, min(1e20, slope)) if dtype == torch.float32 else slope
    for jump in (-3.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 7.5, 1000.0):
        for opened in ((True, False), (False, True), (True, True)):
            ends = tuple(torch.tensor([v], dtype=dtype) for v in (jump - 0.25 * opened[1], jump + 0.25 * opened[0]))
            low, high = op.inside(ends, tuple(mask(flag, ends[0]) for flag in opened))
            inner = [torch.nextafter(ends[0], ends[1]), torch.nextafter(ends[1], ends[0])]
            k = torch.tensor([slope], dtype=dtype)
            lines = op.lines([low], [high], (k, k))
            for end, beside in zip(ends, inner, strict=True):
                value = op.forward(beside)
                assert op.interval([low], [high])[0] <= value <= op.interval([low], [high])[1]
                for x in (end, beside):
                    assert exact_gap(lines[:2], float(x), value) >= 0 >= exact_gap(lines[2:4], float(x), value)


@FLAT
def test_only_jumps_with_exact_numbers_are_left_out(name):
    op = op_of(name)
    for low, high in ((0.3, 0.7), (-0.2, 0.25), (2.0**30, 2.0**30 + 1)):
        ends = torch.tensor([low], **REAL), torch.tensor([high], **REAL)
        moved = op.inside(ends, (mask(True, ends[0]), mask(True, ends[0])))
        assert all(torch.equal(a, b) for a, b in zip(moved, ends, strict=True))
    steep = find("ThresholdedRelu", {"alpha": 1.0})
    assert steep is not None
    other = Elementwise(steep, 1)
    zero, one = torch.zeros(1, **REAL), torch.ones(1, **REAL)
    assert other.inside((zero, one), (mask(True, zero), mask(True, zero))) == (zero, one)


def test_masks_stay_only_with_their_ends():
    low, high = torch.tensor([[0.0, 0.0, -1.0]], **REAL), torch.tensor([[1.0, 2.0, 0.0]], **REAL)
    known = HalfOpen((low, high), torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
    tighter = within((torch.tensor([[-1.0, 0.5, -1.0]], **REAL), high), known)
    assert isinstance(tighter, HalfOpen)
    assert tighter.open_low.tolist() == [[True, False, False]] and tighter.open_high.tolist() == [[False, False, True]]
    single = carried((low.float(), high.float() + 1e-3), known)
    assert isinstance(single, HalfOpen) and not bool(single.open_high.any()) and bool(single.open_low[0, :2].all())
    lows, highs = seen(op_of("Sign"), [known])
    assert lows[0][0, 0] > 0 and highs[0][0, 2] < 0 and lows[0][0, 2] == -1.0


def corner_signs(name: str, count: int, shift: float, scale: float):
    """sum 2^i f(x_i + shift) on [0, scale]^count: at a wall of the box f takes a value that it has nowhere else."""
    weights = (2.0 ** np.arange(count)).reshape(1, -1)
    layers = [(np.eye(count), np.full(count, shift)), (weights, np.zeros(1))]
    return chain(layers, flat_functions()[name]), np.zeros(count), np.full(count, scale)


@pytest.mark.parametrize(
    ("name", "shift", "scale"),
    [("Sign", 0.0, 1.0), ("Sign", -1.0, 1.0), ("Floor", 0.0, 1.0), ("Ceil", 0.0, 1.0), ("Round", 1.0, 0.5)],
)
def test_values_that_only_a_wall_has_are_told_apart(name, shift, scale):
    """No sum lies strictly between two neighbouring values. With closed sides this was never proved: the piece beside
    the wall kept the value at the wall, and no further split could take it away."""
    graph, lower, upper = corner_signs(name, 3, shift, scale)
    clause = Clause(0, rows([[1.0], [-1.0]], [value_of(graph, upper) - 0.25, 0.75 - value_of(graph, upper)]))
    query = query_of(graph, property_of([(lower, upper)], [clause], 1), seconds=20.0)
    outcome = NeuronArm(query, Referee(query), silent).run(query.clock)
    assert outcome.end is End.CLOSED and outcome.domains <= 30


def value_of(graph, point) -> float:
    return float(graph.forward(torch.from_numpy(point).unsqueeze(0))[0, 0])


@FLAT
@pytest.mark.parametrize("inputs", (1, 2))
def test_values_that_are_taken_are_never_excluded(name, inputs):
    """The exact least and greatest values of random networks, wherever they are taken: nobody confirms a witness, so a
    search that closed would have lost a point."""
    random = np.random.default_rng([inputs, sorted(flat_functions()).index(name)])
    for sign in (1.0, -1.0):
        case = enumerated(flat_functions()[name], random, inputs)
        least = case.values[0] if sign > 0 else -case.values[-1]
        box = torch.full((inputs,), -1.0, **REAL), torch.full((inputs,), 1.0, **REAL)
        query = one_row(case.graph, box, torch.tensor([sign], **REAL), least, seconds=0.25)
        outcome = NeuronArm(query, lambda points: False, silent).run(query.clock)
        assert outcome.end is not End.CLOSED, (name, case.values, sign)


@pytest.mark.parametrize("inputs", (1, 2))
def test_several_functions_of_one_neuron_keep_its_points(inputs):
    """Jumps of several functions at the same place, and functions that bend there: a split serves all of them."""
    random = np.random.default_rng(inputs)
    names = sorted(flat_functions())
    for _ in range(6):
        chosen = [flat_functions()[names[i]] for i in random.choice(len(names), 2, replace=False)]
        relu = find("Relu", {})
        assert relu is not None
        case = shared([*chosen, relu], random, inputs)
        box = torch.full((inputs,), -1.0, **REAL), torch.full((inputs,), 1.0, **REAL)
        query = one_row(case.graph, box, torch.ones(1, **REAL), case.values[0], seconds=0.25)
        outcome = NeuronArm(query, lambda points: False, silent).run(query.clock)
        assert outcome.end is not End.CLOSED, ([f.name for f in chosen], case.values[0])


def test_a_split_without_the_point_on_any_side_would_be_noticed(monkeypatch):
    """Only at 0 the sign is near 0. The search must not close, and does where both sides lose the point."""
    one = (np.ones((1, 1)), np.zeros(1))
    clause = Clause(0, rows([[1.0], [-1.0]], [0.25, 0.25]))
    prop = property_of([(np.array([-0.5]), np.array([0.6]))], [clause], 1)

    def end(seconds: float) -> End:
        query = query_of(chain([one, one], flat_functions()["Sign"]), prop, seconds=seconds)
        return NeuronArm(query, lambda points: False, silent).run(query.clock).end

    assert end(1.0) is not End.CLOSED
    extended = Literals.extended

    def careless(self, node, index, side, point, strict=None):
        return extended(self, node, index, side, point, torch.ones_like(node, dtype=torch.bool))

    monkeypatch.setattr(Literals, "extended", careless)
    assert end(30.0) is End.CLOSED
