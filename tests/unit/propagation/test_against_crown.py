"""Our relaxations beside CROWN's standard ones (`tests/kits/crown.py`): same boxes, same intermediate bounds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.bench_bounds import Tally, Task, compared, least_sampled, our_bounds, tasks
from tests.kits.crown import SCALAR, SMOOTH, Rules, crown, product_planes
from verinet.ops.activations import find
from verinet.ops.bilinear.product import Product
from verinet.ops.scalar import Elementwise
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

NAMES = {"ReLU": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "GELU": "Gelu"}


def intervals(seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    """(1, count) intervals of widths from 1e-3 to 12, many of them across 0."""
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(1, count, generator=draw, dtype=torch.float64) * 2
    radius = 6 * torch.rand(1, count, generator=draw, dtype=torch.float64) ** 3 + 5e-4
    return centre - radius, centre + radius


@pytest.mark.parametrize("name", NAMES)
def test_lines_leave_no_more_area_than_the_standard_ones(name: str) -> None:
    """The area between a line and the function is the width times a constant plus the line in the middle."""
    function = find(NAMES[name], {})
    assert function is not None
    low, high = intervals(1)
    lines, theirs = Elementwise(function, 1).lines([low], [high]), SCALAR[name](low, high)
    middle = (low + high) * 0.5
    ours = lines[0] * middle + lines[1], lines[2] * middle + lines[3]
    below, above = (line.slope * middle + line.offset for line in theirs)
    assert bool((ours[0] >= below - 1e-9).all()) and bool((ours[1] <= above + 1e-9).all())
    better = (ours[0] > below + 1e-6) | (ours[1] < above - 1e-6)
    assert int(better.sum()) >= (0 if name == "ReLU" else 40)


@pytest.mark.parametrize("rules", [SCALAR, SMOOTH], ids=["published", "smooth"])
def test_the_standard_lines_hold(rules: Rules) -> None:
    """Otherwise the comparison would be with bounds that are too good to be true."""
    functions = {name: find(known, {}) for name, known in NAMES.items()} | {"Sin": find("Sin", {})}
    functions |= {"Square": find("Pow", {"exponent": 2.0}), "InverseRoot": find("Pow", {"exponent": -0.5})}
    for name, rule in rules.items():
        function = functions[name]
        assert function is not None
        low, high = (t.abs().sort(0).values + 1e-3 if name == "InverseRoot" else t for t in intervals(2))
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        x = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64).reshape(-1, 1)
        pair, value = rule(low, high), function.at(x)
        assert bool((pair.below.slope * x + pair.below.offset <= value + 1e-9).all()), name
        assert bool((pair.above.slope * x + pair.above.offset >= value - 1e-9).all()), name


def _plane(slopes: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    return slopes[0] * x + slopes[1] * y + slopes[2]


def test_planes_of_products_are_as_high_in_the_middle_as_the_standard_ones() -> None:
    (xl, xu), (yl, yu) = intervals(3), intervals(4)
    lines = Product((400,), (400,)).lines([xl, yl], [xu, yu])
    below, above = product_planes((xl, yl), (xu, yu))
    middle = (xl + xu) * 0.5, (yl + yu) * 0.5
    assert bool((_plane(lines[0:3], *middle) >= _plane(below, *middle) - 1e-9).all())
    assert bool((_plane(lines[3:6], *middle) <= _plane(above, *middle) + 1e-9).all())


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    return compared(None, seeds=2)


NEVER_LOOSER = ["Relu chain", "Relu product", "Sigmoid chain", "Sigmoid product", "Tanh chain", "Tanh product"]
NEVER_LOOSER += ["Gelu chain", "Gelu product", "product", "MatMul"]
GROUPS = [*NEVER_LOOSER, "Sin chain", "softmax", "attention", "LayerNorm"]


@pytest.mark.parametrize("group", NEVER_LOOSER)
def test_no_row_is_looser(tallies: dict[str, Tally], group: str) -> None:
    """Every standard line is one of ours, so the better of two starts is never looser, nor is what grows from it."""
    tally = tallies[group]
    assert tally.rows >= 80
    assert tally.looser["plain"] == 0
    assert tally.looser["optimised"] == 0


@pytest.mark.parametrize("group", GROUPS)
def test_gaps_are_smaller_than_the_standard_ones(tallies: dict[str, Tally], group: str) -> None:
    """Mean over rows, before and after optimisation; softmax and attention lose most of their gap."""
    limits = {"softmax": (0.5, 0.3), "attention": (0.5, 0.3), "Gelu chain": (0.999, 0.8), "Sin chain": (1.02, 0.95)}
    plain, best = limits.get(group, (1.0 + 1e-9, 0.95))
    assert tallies[group].mean("plain") <= plain
    assert tallies[group].mean("optimised") <= best


def _first(group: str) -> Task:
    return next(task for task in tasks(None) if task.group == group)


@pytest.mark.parametrize("group", ["Tanh product", "attention"])
def test_the_comparison_sees_a_looser_bound(group: str) -> None:
    """A bound that gives away a thousandth of CROWN's gap counts as looser."""
    task = _first(group)
    ours, theirs = our_bounds(task)
    truth = least_sampled(task)
    tally = Tally.empty()
    tally.add({c: theirs - 1e-3 * (truth - theirs) - 1e-5 for c in ours}, theirs, truth)
    assert set(tally.looser.values()) == {task.rows.shape[0]}


@pytest.mark.parametrize("group", GROUPS)
def test_the_independent_bounds_hold(group: str) -> None:
    task = _first(group)
    backward = build_backward(task.graph, task.lower, task.upper)
    known = Sweeper(backward).sweep(task.lower[None], task.upper[None], SweepOptions()).known
    for rules in (SCALAR, SMOOTH):
        bound = crown(task.graph, task.rows, known, (task.lower, task.upper), rules)
        assert bool((bound <= least_sampled(task) + 1e-9).all())
