"""Ranges where intervals leave a function's domain: rows decide, within limits of work and time that are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.soundness.networks import samples
from verinet.ir.graph import Graph, InputOp, Node, total
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import DomainError, Elementwise
from verinet.propagation import sweep
from verinet.propagation.interval import interval_pass
from verinet.propagation.sweep import Sweeper, ranges


def _function(name: str) -> Elementwise:
    found = find(name, {})
    if found is None:
        raise ValueError(name)
    return Elementwise(found, 1)


def _graph(offset: float, layers: int = 3, width: int = 20, seed: int = 0) -> Graph:
    """x -> ReLU layers -> z, and the logarithm of (x . a + small z) - x . a + offset: correlated, so intervals fail."""
    draw = torch.Generator().manual_seed(seed)

    def matrix(n: int, m: int) -> torch.Tensor:
        return torch.randn(n, m, generator=draw, dtype=torch.float64) / n**0.5

    nodes = [Node(InputOp(4), (), (4,), "x")]
    size, current = 4, 0
    for number in range(layers):
        nodes.append(Node(Dense(matrix(size, width)), (current,), (width,), f"d{number}"))
        nodes.append(Node(_function("Relu"), (len(nodes) - 1,), (width,), f"r{number}"))
        size, current = width, len(nodes) - 1
    line = matrix(4, 1)
    nodes.append(Node(Dense(line), (0,), (1,), "line"))
    nodes.append(Node(Dense(matrix(width, 1) * 0.01), (current,), (1,), "z"))
    nodes.append(Node(Add(), (len(nodes) - 2, len(nodes) - 1), (1,), "sum"))
    nodes.append(Node(Dense(-line, torch.tensor([offset], dtype=torch.float64)), (0,), (1,), "back"))
    nodes.append(Node(Add(), (len(nodes) - 2, len(nodes) - 1), (1,), "argument"))
    nodes.append(Node(_function("Log"), (len(nodes) - 1,), (1,), "log"))
    return Graph(tuple(nodes))


BOX = (torch.full((1, 4), -1.0, dtype=torch.float64), torch.full((1, 4), 1.0, dtype=torch.float64))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each chunk had."""
    counted: list[int] = []
    original = Sweeper._rows

    def counting(self: Sweeper, position: int, entries: tuple[torch.Tensor, torch.Tensor], *rest: Any) -> Any:
        counted.append(2 * int(entries[0].numel()))
        return original(self, position, entries, *rest)

    monkeypatch.setattr(Sweeper, "_rows", counting)
    return counted


def test_rows_of_the_failing_input_alone_are_tried_first(rows: list[int]) -> None:
    graph = _graph(offset=0.2)
    with pytest.raises(DomainError):
        interval_pass(graph, *BOX)
    found = ranges(graph, *BOX)
    assert sum(rows) == 2, "one entry, two sides"
    values = graph.forward_all(samples(*BOX, 0, 500)[:, 0])
    for (low, high), value in zip(found, values, strict=True):
        assert bool((low <= value + 1e-12).all() and (value <= high + 1e-12).all())


def test_rows_of_all_layers_follow_where_that_is_not_enough(rows: list[int]) -> None:
    alone = ranges(_graph(0.2), *BOX)[-2]
    first = float(alone[0]) - 0.2  # what the rows of the argument reach without offset
    rows.clear()
    graph = _graph(-first - 1e-4)
    assert bool(torch.isfinite(ranges(graph, *BOX)[-1][0]).all())
    assert sum(rows) > 20


def test_the_work_is_limited(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows end with the budget, at most one chunk late; without a decision that is a `DomainError`."""
    graph = _graph(offset=-1.0, layers=6, width=200)  # a negative argument: no effort can help
    entries = sum(total(n.shape) for n in graph.nodes[:-1])
    with pytest.raises(DomainError):
        ranges(graph, *BOX)
    unlimited = sum(rows)
    rows.clear()
    monkeypatch.setattr(sweep, "MOST_WORK", 500 * entries)
    with pytest.raises(DomainError):
        ranges(graph, *BOX)
    assert sum(rows[:-1]) <= 500 < unlimited and sum(rows) - 500 <= rows[-1]


def test_no_rows_are_begun_when_time_is_over(rows: list[int]) -> None:
    with pytest.raises(DomainError):
        ranges(_graph(offset=0.2), *BOX, over=lambda: True)
    assert not rows
