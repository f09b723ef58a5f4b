"""Which node of the tree is sharpened: the deepest one that all open leaves of a group lie below."""

from __future__ import annotations

import torch
from verinet.solvers.branching.deepen import _below, _common
from verinet.solvers.branching.leaves import Leaves
from verinet.solvers.branching.splits import Literals


def leaves(*paths: list[tuple[int, int, float]]) -> Leaves:
    """Leaves with literals (node, entry, sign), all at the point 0."""
    literals = Literals.join([_literals(path) for path in paths])
    count = len(paths)
    zero = torch.zeros(count, dtype=torch.int64)
    real = torch.zeros(count, dtype=torch.float64)
    return Leaves(zero, real, real, zero.clone(), real, literals)


def _literals(path: list[tuple[int, int, float]]) -> Literals:
    found = Literals.none(1, torch.zeros(1, dtype=torch.float64))
    for node, index, sign in path:
        found = found.extended(
            torch.tensor([node]), torch.tensor([index]), torch.tensor([sign]).double(), torch.zeros(1).double()
        )
    return found


A, B, C, NOT_C, D = (2, 0, 1.0), (2, 5, -1.0), (4, 1, 1.0), (4, 1, -1.0), (4, 2, 1.0)


def test_the_literals_that_all_leaves_share_are_counted() -> None:
    first, second = leaves([A, B, C], [A, B, NOT_C, D]), leaves([A, B, C, D])
    every = [(part, torch.ones(len(part), dtype=torch.bool)) for part in (first, second)]
    one = first.take(torch.tensor([0])).literals
    assert _common(every, one, 1) == 2
    without = [(first, torch.tensor([True, False])), (second, torch.tensor([True]))]
    assert _common(without, one, 1) == 3
    assert _common([(first, torch.tensor([True, False]))], one, 0) == 3  # a single leaf is a node of its own
    node = one.first(3)
    assert _below(first, node).tolist() == [True, False] and _below(second, node).tolist() == [True]


def test_the_same_literals_in_another_order_are_another_path() -> None:
    part = leaves([A, B], [B, A])
    every = [(part, torch.ones(2, dtype=torch.bool))]
    assert _common(every, part.take(torch.tensor([0])).literals, 0) == 0
