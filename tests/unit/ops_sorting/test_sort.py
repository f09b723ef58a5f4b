"""Planes of sorted groups enclose every weighted sum of order statistics, in both precisions, for any multipliers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.strategies import CENTRES, DTYPES, RADII, SEEDS
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.sorting import planes
from verinet.ops.sorting.sort import SortLast

KINDS = st.sampled_from(["default", "random", "projected", "nan"])
GROUPS = st.lists(st.tuples(CENTRES, RADII), min_size=1, max_size=5)


def _boxes(entries: Sequence[tuple[float, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    data = torch.tensor(entries, dtype=torch.float64)
    return (data[:, 0] - data[:, 1]).to(dtype)[None], (data[:, 0] + data[:, 1]).to(dtype)[None]


def _points(low: Tensor, high: Tensor, seed: int, count: int = 12) -> Tensor:
    """(count, n) inside the box: a third of them corners, a third with ties."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *low.shape, generator=draw, dtype=torch.float64)
    share[: count // 3] = (share[: count // 3] < 0.5).double()
    inner = low + share.to(low.dtype) * (high - low)
    level = (low.amax() + high.amin()) * 0.5
    inner[count // 3 : 2 * count // 3, ::2] = level
    return torch.minimum(torch.maximum(inner, low), high)


def _multipliers(op: SortLast, low: Tensor, high: Tensor, kind: str, seed: int) -> tuple[Tensor, ...]:
    default = op.multipliers([low], [high])
    if kind == "default":
        return default
    draw = torch.Generator().manual_seed(seed)
    scale = max(1.0, float(high.abs().max()))
    random = [torch.randn(m.shape, generator=draw, dtype=torch.float64) for m in default]
    moved = [(m * scale if place in (1, 2, 3) else m).to(low.dtype) for place, m in enumerate(random)]
    if kind == "nan":
        moved = [torch.full_like(m, torch.nan) for m in moved]
    return op.project(moved, [low], [high]) if kind == "projected" else tuple(moved)


def _exact(values: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in values.double().reshape(-1).tolist()]


def _dot(left: Sequence[Fraction], right: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


@given(entries=GROUPS, kind=KINDS, dtype=DTYPES, seed=SEEDS)
@settings(max_examples=2 * settings().max_examples)
def test_rows_over_sorted_groups_are_bounded(
    entries: list[tuple[float, float]], kind: str, dtype: torch.dtype, seed: int
) -> None:
    op = SortLast(1)
    low, high = _boxes(entries, dtype)
    lines = op.lines([low], [high], _multipliers(op, low, high, kind, seed))
    draw = torch.Generator().manual_seed(seed + 1)
    rows = torch.randn(6, low.shape[-1], generator=draw, dtype=torch.float64).to(dtype)
    rows[0], rows[1] = 1.0, torch.nn.functional.one_hot(torch.tensor(seed % low.shape[-1]), low.shape[-1]).to(dtype)
    rows[2] = -rows[1]
    pulled = op.pull(rows, tuple(t.expand(6, *t.shape[1:]) for t in lines))
    bounds = [_exact(t)[0] for t in op.interval([low[:, :1]], [high[:, :1]])]
    assert bounds == [*_exact(low[:, :1]), *_exact(high[:, :1])]
    for point in _points(low[0], high[0], seed):
        x = _exact(point)
        y = sorted(x)
        for row in range(6):
            value = _dot(_exact(rows[row]), y)
            bound = _dot(_exact(pulled.rows[0][row]), x) + _exact(pulled.offset[row])[0]
            charge = _exact(pulled.magnitude[row])[0] * Fraction(gamma(low.shape[-1] + 8, dtype)) + Fraction(
                tiny(dtype)
            )
            assert bound - charge <= value


@given(entries=GROUPS, dtype=DTYPES, seed=SEEDS)
def test_intervals_hold_every_order_statistic(
    entries: list[tuple[float, float]], dtype: torch.dtype, seed: int
) -> None:
    op = SortLast(1)
    low, high = _boxes(entries, dtype)
    least, most = op.interval([low], [high])
    for point in _points(low[0], high[0], seed):
        value = op.forward(point[None])
        assert bool((least <= value).all()) and bool((value <= most).all())


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _wide(count: int, groups: int, seed: int) -> tuple[Tensor, Tensor]:
    centre, radius = _random(1, groups, count, seed=seed), _random(1, groups, count, seed=seed + 1).abs()
    return centre - radius, centre + radius


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["default", "random"])
def test_pull_and_push_are_adjoint(count: int, kind: str) -> None:
    op, (low, high) = SortLast(2), _wide(count, 3, count)
    lines = op.lines([low], [high], _multipliers(op, low, high, kind, 7))
    rows = _random(4, 3, count, seed=9)
    spread = tuple(t.expand(4, *t.shape[1:]) for t in lines)
    pulled, x = op.pull(rows, spread), _random(4, 3, count, seed=11)
    direct = (rows * op.push(rows, spread, x)).sum((-1, -2))
    assert torch.allclose(direct, (pulled.rows[0] * x).sum((-1, -2)) + pulled.offset, rtol=1e-12, atol=1e-12)
    folded = op.pull(rows.reshape(1, 4, 3, count), tuple(t.unsqueeze(1) for t in lines))
    assert torch.allclose(folded.rows[0][0], pulled.rows[0]) and torch.allclose(folded.offset[0], pulled.offset)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_gradients_agree_with_finite_differences(count: int) -> None:
    """Of the bound at a fixed point, with weights and thresholds away from the places where they bend."""
    op, (low, high) = SortLast(2), _wide(count, 2, 20 + count)
    rows, x = _random(1, 2, count, seed=3), low + (high - low) * 0.37
    draw = torch.Generator().manual_seed(4)
    multipliers = list(op.multipliers([low], [high]))
    multipliers[0] = op.project(multipliers, [low], [high])[0] * 0.9 + 0.05
    multipliers[0] *= planes.sums(count, low).unsqueeze(-1) / multipliers[0].sum(-1, keepdim=True)
    for place in (1, 2, 3):
        multipliers[place] = multipliers[place] + 0.05 * torch.rand(multipliers[place].shape, generator=draw)
    multipliers[4] = torch.full_like(multipliers[4], 0.6)

    def bound(given: Sequence[Tensor]) -> Tensor:
        pulled = op.pull(rows, op.lines([low], [high], given))
        return (pulled.rows[0] * x).sum() + pulled.offset.sum()

    found = op.gradient(rows, op.lines([low], [high], multipliers), x)
    step = 1e-6
    for place, gradient in enumerate(found):
        for entry in range(multipliers[place].numel()):
            delta = torch.zeros_like(multipliers[place])
            delta.view(-1)[entry] = step
            if place == 0:  # along the simplex, so that the drift of the weights' sum stays 0
                other = entry + 1 if (entry + 1) % count else entry - count + 1
                delta.view(-1)[other] = -step
            up, down = (
                [*multipliers[:place], multipliers[place] + s * delta, *multipliers[place + 1 :]] for s in (1, -1)
            )
            slope = (bound(up) - bound(down)) / (2 * step)
            assert float(slope) == pytest.approx(float((gradient * delta).sum()) / step, abs=2e-5), (place, entry)


def test_a_known_order_is_exact() -> None:
    op = SortLast(1)
    low = torch.tensor([[4.0, -1.0, 2.0, 0.5]], dtype=torch.float64)
    high = torch.tensor([[5.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
    assert not bool(op.undecided([low], [high])[0].any())
    lines = op.lines([low], [high])
    x = low + (high - low) * torch.tensor([0.3, 0.9, 0.1, 0.5])
    for row in (_random(1, 4, seed=1), torch.eye(4, dtype=torch.float64)[2:3], -torch.eye(4, dtype=torch.float64)[1:2]):
        pulled = op.pull(row, lines)
        assert float((pulled.rows[0] * x).sum() + pulled.offset) == pytest.approx(float((row * op.forward(x)).sum()))


def test_an_entry_apart_from_the_others_is_decided() -> None:
    op = SortLast(1)
    low = torch.tensor([[0.0, 0.5, 3.0]], dtype=torch.float64)
    assert op.undecided([low], [low + 1])[0].tolist() == [[True, True, False]]


def test_the_sum_is_kept_exactly() -> None:
    op, (low, high) = SortLast(2), _wide(5, 3, 50)
    rows = _random(1, 3, 1, seed=51).expand(1, 3, 5)
    pulled = op.pull(rows, op.lines([low], [high]))
    assert torch.equal(pulled.rows[0], rows) and float(pulled.offset.abs()) < 1e-14


@pytest.mark.parametrize("seed", range(20))
def test_two_entries_get_their_convex_envelope(seed: int) -> None:
    """A row is least at a corner of the box or where x_1 = x_2 enters it, and optimised planes reach that value."""
    op, (low, high) = SortLast(1), (t[:, 0] for t in _wide(2, 1, 100 + seed))
    row = _random(1, 2, seed=seed)
    corners = torch.cartesian_prod(*torch.stack([low[0], high[0]], 1))
    ties = torch.stack([low.amax(), high.amin()]).reshape(2, 1).expand(2, 2)
    ties = ties[((ties >= low) & (ties <= high)).all(-1)]
    truth = float((row * op.forward(torch.cat([corners, ties]))).sum(-1).min())
    best = -float("inf")
    for share in torch.linspace(0, 1, 201, dtype=torch.float64):  # only one of the two multipliers matters for a row
        given = list(op.multipliers([low], [high]))
        given[0] = torch.stack([share, 1 - share]).reshape(1, 1, 2)
        given[1] = (low.amin() + share * (high.amax() - low.amin())).reshape(1, 1)
        pulled = op.pull(row, op.lines([low], [high], given))
        slope = pulled.rows[0]
        best = max(best, float((torch.where(slope >= 0, slope * low, slope * high)).sum() + pulled.offset))
    assert truth - 0.02 * float(high.max() - low.min()) <= best <= truth + 1e-12


def test_projected_weights_lie_in_the_capped_simplex() -> None:
    values = _random(7, 3, 6, seed=5) * 3
    totals = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    found = planes.capped_simplex(values, totals)
    assert bool((found >= 0).all()) and bool((found <= 1).all())
    assert torch.allclose(found.sum(-1), totals.expand(7, 3), atol=1e-9)
    inside = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)
    assert torch.allclose(planes.capped_simplex(inside, torch.ones(1, dtype=torch.float64)), inside)


def test_looseness_points_at_undecided_entries() -> None:
    op = SortLast(1)
    low = torch.tensor([[0.0, 0.5, 3.0]], dtype=torch.float64)
    high = low + 1
    (found,) = op.looseness(torch.ones(1, 3, dtype=torch.float64), op.lines([low], [high]), [low], [high])
    assert bool((found[0, :2] > 0).all()) and float(found[0, 2]) == 0.0
