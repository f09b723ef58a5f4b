"""Our relaxations beside CROWN's standard ones (`tests/kits/crown.py`): same boxes, same intermediate bounds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.bench_bounds import Tally, Task, compared, least_sampled, our_bounds, tasks
from tests.kits.crown import SCALAR, crown, product_planes
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


def test_the_standard_lines_hold() -> None:
    """Otherwise the comparison would be with bounds that are too good to be true."""
    low, high = intervals(2)
    x = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64).reshape(-1, 1)
    for name, rule in SCALAR.items():
        function = find(NAMES[name], {})
        assert function is not None
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


GROUPS = ["Relu chain", "Relu product", "Sigmoid chain", "Sigmoid product", "Tanh chain", "Tanh product"]
GROUPS += ["Gelu chain", "Gelu product", "softmax", "attention"]


@pytest.mark.parametrize("group", GROUPS)
def test_rows_are_never_looser_with_the_same_lines(tallies: dict[str, Tally], group: str) -> None:
    """Every standard line of an activation or a product is one of ours, and rounding charges are all that it costs.

    So the better of two optimisations, one of which starts there, is never looser either.
    """
    tally = tallies[group]
    assert tally.rows >= 80
    assert tally.looser["from both"] == 0
    if group not in ("softmax", "attention"):
        assert tally.looser["same lines"] == 0


@pytest.mark.parametrize("group", GROUPS)
def test_gaps_are_no_larger_than_the_standard_ones(tallies: dict[str, Tally], group: str) -> None:
    """Median over rows, before and after optimisation; softmax and attention lose most of their gap."""
    plain = float(torch.cat(tallies[group].ratios["plain"]).median())
    best = float(torch.cat(tallies[group].ratios["optimised"]).median())
    limits = {"softmax": (0.4, 0.3), "attention": (0.3, 0.1)}.get(group, (1.0 + 1e-9, 0.95))
    assert plain <= limits[0] and best <= limits[1]


def test_relu_rows_are_the_same_before_optimisation(tallies: dict[str, Tally]) -> None:
    assert tallies["Relu chain"].looser["plain"] == 0
    assert tallies["Relu chain"].looser["optimised"] == 0


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
    bound = crown(task.graph, task.rows, known, task.lower, task.upper)
    assert bool((bound <= least_sampled(task) + 1e-9).all())
