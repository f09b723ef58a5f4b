"""Split literals: padding, clipping of intervals, rows for the backward pass."""

from __future__ import annotations

import torch
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.stack import join_parents

from tests.unit.solvers.queries import CPU
from verinet.propagation.ends import HalfOpen
from verinet.propagation.rows import RowMap

LIKE = torch.zeros(1, dtype=torch.float64)


def _split(literals: Literals, node: list[int], index: list[int], sign: list[float], point: list[float]) -> Literals:
    return literals.extended(
        torch.tensor(node),
        torch.tensor(index),
        torch.tensor(sign, dtype=torch.float64),
        torch.tensor(point, dtype=torch.float64),
    )


def _two_deep() -> Literals:
    """Domain 0: z1[0] >= 0.5, then z3[2] <= -1; domain 1: z1[0] <= 0.5, then z1[1] >= 2."""
    first = _split(Literals.none(2, LIKE), [1, 1], [0, 0], [1.0, -1.0], [0.5, 0.5])
    return _split(first, [3, 1], [2, 1], [-1.0, 1.0], [-1.0, 2.0])


def _bounds(domains: int, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
    low = torch.full((domains, entries), -5.0, dtype=torch.float64)
    return low, -low


def test_none_has_no_literals() -> None:
    nothing = Literals.none(3, LIKE)
    assert nothing.depth == 0
    known = {1: _bounds(3, 2)}
    clipped = nothing.clip(known)
    assert clipped[1][0] is known[1][0]
    rows, places = nothing.rows(RowMap.regular(3, 2, CPU), torch.float32)
    assert rows == {} and places == {}


def test_join_pads_to_the_deepest() -> None:
    deep = _two_deep()
    shallow = _split(Literals.none(1, LIKE), [3], [0], [1.0], [0.25])
    both = Literals.join([shallow, deep])
    assert both.depth == 2
    assert both.node.tolist() == [[3, -1], [1, 3], [1, 1]]
    assert both.point.tolist() == [[0.25, 0.0], [0.5, -1.0], [0.5, 2.0]]
    again = both.take(torch.tensor([2, 0]))
    assert again.node.tolist() == [[1, 1], [3, -1]]
    assert again.beta.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_clip_cuts_only_the_own_entry_of_the_own_domain() -> None:
    known = {1: _bounds(2, 2), 3: _bounds(2, 3), 5: _bounds(2, 1)}
    clipped = _two_deep().clip(known)
    assert clipped[1][0].tolist() == [[0.5, -5.0], [-5.0, 2.0]]
    assert clipped[1][1].tolist() == [[5.0, 5.0], [0.5, 5.0]]
    assert clipped[3][0].tolist() == [[-5.0] * 3] * 2
    assert clipped[3][1].tolist() == [[5.0, 5.0, -1.0], [5.0] * 3]
    assert clipped[5] is known[5]
    assert known[1][0].tolist() == [[-5.0, -5.0], [-5.0, -5.0]]  # the caller's bounds stay


def test_clip_keeps_the_tightest_of_several_literals_and_the_shape() -> None:
    twice = _split(Literals.none(1, LIKE), [1], [3], [1.0], [0.5])
    twice = _split(twice, [1], [3], [1.0], [0.25])
    twice = _split(twice, [1], [3], [-1.0], [0.75])
    low, high = (t.reshape(1, 2, 2) for t in _bounds(1, 4))
    clipped = twice.clip({1: (low, high)})[1]
    assert clipped[0].tolist() == [[[-5.0, -5.0], [-5.0, 0.5]]]
    assert clipped[1].tolist() == [[[5.0, 5.0], [5.0, 0.75]]]


def test_crossing_literals_leave_an_empty_interval() -> None:
    empty = _split(Literals.none(1, LIKE), [1], [0], [1.0], [1.0])
    empty = _split(empty, [1], [0], [-1.0], [-1.0])
    low, high = empty.clip({1: _bounds(1, 1)})[1]
    assert float(low) > float(high)


def test_rows_repeat_the_literals_for_every_row_of_the_domain() -> None:
    literals = _two_deep()
    literals.beta[:] = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    rows, places = literals.rows(RowMap.regular(2, 2, CPU), torch.float32)
    assert set(rows) == {1, 3}
    found = zip(*(t.tolist() for t in (rows[1].row, rows[1].index, rows[1].sign, rows[1].point)), strict=True)
    expected = {(0, 0, 1, 0.5), (1, 0, 1, 0.5), (2, 0, -1, 0.5), (3, 0, -1, 0.5), (2, 1, 1, 2), (3, 1, 1, 2)}
    assert set(found) == expected
    assert rows[3].row.tolist() == [0, 1] and rows[3].index.tolist() == [2, 2]
    assert rows[1].beta.dtype == torch.float32
    for node, (domain, slot) in places.items():
        assert torch.equal(literals.beta[domain, slot].float(), rows[node].beta)
        assert torch.equal(literals.node[domain, slot], torch.full_like(domain, node))


def test_rows_of_ragged_maps_follow_the_owner() -> None:
    rows, _ = _two_deep().rows(RowMap.ragged(torch.tensor([0, 1, 1]), 2), torch.float64)
    assert rows[3].row.tolist() == [0]
    assert sorted(rows[1].row.tolist()) == [0, 1, 1, 2, 2]


def test_strict_literals_mark_the_ends_that_they_exclude() -> None:
    """Domain 0: z1[0] > 0; domain 1: z1[0] < 0, and z1[1] <= 2 (not strict)."""
    first = Literals.none(2, LIKE).extended(
        torch.tensor([1, 1]),
        torch.tensor([0, 0]),
        torch.tensor([1.0, -1.0], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        torch.tensor([True, True]),
    )
    both = _split(first, [-1, 1], [0, 1], [1.0, -1.0], [0.0, 2.0])
    pair = both.clip({1: _bounds(2, 2)})[1]
    assert isinstance(pair, HalfOpen)
    assert pair[0].tolist() == [[0.0, -5.0], [-5.0, -5.0]] and pair[1].tolist() == [[5.0, 5.0], [0.0, 2.0]]
    assert pair.open_low.tolist() == [[True, False], [False, False]]
    assert pair.open_high.tolist() == [[False, False], [True, False]]
    # A bound that is tighter already is no end that the literal excludes.
    low, high = _bounds(2, 2)
    low[0, 0] = 1.0
    tighter = both.clip({1: (low, high)})[1]
    assert isinstance(tighter, HalfOpen) and not bool(tighter.open_low.any())
    joined = Literals.join([both, Literals.none(1, LIKE)])
    assert joined.strict.tolist() == [[True, False], [True, False], [False, False]]
    assert not isinstance(_two_deep().clip({1: _bounds(2, 2), 3: _bounds(2, 3)})[1], HalfOpen)


def test_parents_that_are_in_use_are_put_side_by_side() -> None:
    """Positions count over what is kept; a part without parents leaves everybody without."""
    first, second = torch.tensor([10, 11, 12, 13]), torch.tensor([20, 21])
    parts = [(first, torch.tensor([3, 1, 3])), (second, torch.tensor([1]))]
    found = join_parents(parts, lambda state, used: state[used])
    assert found is not None
    kept, place = found
    assert [k.tolist() for k in kept] == [[11, 13], [21]]
    assert torch.cat(kept)[place].tolist() == [13, 11, 13, 21]
    assert join_parents([*parts, (None, None)], lambda state, used: state[used]) is None
