"""Estimates of tree sizes against trees that are counted."""

from __future__ import annotations

import math

import pytest
import torch
from verinet.solvers.branching.treesize import log_tree_size


def counted(first: int, second: int, missing: int) -> int:
    """Leaves of the tree in which every split gains these whole numbers."""
    leaves = [1] * (missing + 1)
    for gap in range(1, missing + 1):
        leaves[gap] = leaves[max(0, gap - first)] + leaves[max(0, gap - second)]
    return leaves[missing]


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 2), (2, 3), (1, 10), (3, 3), (5, 20)])
def test_growth_is_that_of_counted_trees(first: int, second: int) -> None:
    small, large = 120, 240
    growth = (math.log(counted(first, second, large)) - math.log(counted(first, second, small))) / (large - small)
    found = log_tree_size(*(torch.tensor(float(n)).double() for n in (first, second, large))) / large
    assert found == pytest.approx(growth, rel=0.03)


def test_a_closed_child_is_worth_nothing_where_the_other_gains_nothing() -> None:
    missing = torch.ones(3, dtype=torch.float64)
    size = log_tree_size(torch.tensor([0.0, 0.1, 0.01]).double(), torch.tensor([5.0, 0.1, 1.0]).double(), missing)
    assert size[2] < size[1] < size[0]


def test_sides_do_not_matter_and_everything_is_finite() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second, missing = (torch.randn(500, generator=draw, dtype=torch.float64) for _ in range(3))
    size = log_tree_size(first, second, missing)
    assert torch.isfinite(size).all() and torch.equal(size, log_tree_size(second, first, missing))
    better = log_tree_size(first + 0.1, second, missing.abs() + 0.2)
    assert (better <= log_tree_size(first, second, missing.abs() + 0.2) + 1e-9).all()
