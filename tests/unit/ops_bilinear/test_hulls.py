"""Products that know how the entries of their factors move together: hulls, second order, planes and gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.ops_bilinear.enclosure import Case, charged, multipliers, rows_of
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear import ellipsoids
from verinet.ops.bilinear.ellipsoids import around, hull_of, support
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.mixed import MatMulMixed, Mixed, mixed, takes_rows
from verinet.ops.bilinear.product import Product
from verinet.ops.bilinear.squared import MatMulSquared, second_order

SEEDS = st.integers(0, 10_000)
SYMBOLS = 8
FORMS = ("values", "wide", "scaled", "scores", "full")
KINDS = ("none", "default", "random", "projected")
Long = np.ndarray


def long(values: Tensor) -> Long:
    return values.double().numpy().astype(np.longdouble)


@dataclass(frozen=True)
class Scene:
    """An operator, and both factors as functions of symbols in [-1, 1]: middle and generators (*shape, SYMBOLS)."""

    case: Case
    middles: tuple[Tensor, Tensor]
    generators: tuple[Tensor, Tensor]

    def values(self, symbols: Tensor) -> tuple[Long, Long]:
        """Factors (samples, *shape) in long double."""
        pairs = zip(self.middles, self.generators, strict=True)
        first, second = (long(m)[None] + np.einsum("...s,ns->n...", long(g), long(symbols)) for m, g in pairs)
        return first, second

    def boxes(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        lowers, uppers = [], []
        for middle, generators in zip(self.middles, self.generators, strict=True):
            radius = generators.abs().sum(-1) * (1 + 1e-12) + 1e-15
            low, high = (middle - radius).to(dtype), (middle + radius).to(dtype)
            lowers.append(torch.nextafter(low, torch.full_like(low, -torch.inf)).unsqueeze(0))
            uppers.append(torch.nextafter(high, torch.full_like(high, torch.inf)).unsqueeze(0))
        return lowers, uppers


def _matmul(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[NonlinearOp, Callable[..., Long]]:
    return MatMulTwo(left, right), np.matmul


def scene(form: str, seed: int, radius: float, apart: bool = False) -> Scene:
    """Symbols are shared: some move one factor, some both, some hardly anything; or one factor each (`apart`)."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "values": ((2, 3, 3), (2, 3, 4)),
        "wide": ((2, 9), (9, 40)),  # more scalar products than get tilts of their own
        "scaled": ((3, 1), (3, 5)),
        "scores": ((2, 3, 4), (2, 4, 3)),
        "full": ((2, 2), (2, 2)),
    }
    left, right = shapes[form]
    op, reference = (Product(left, right), np.multiply) if form == "scaled" else _matmul(left, right)
    out = right if form == "scaled" else (*left[:-1], right[-1])
    middles = tuple(torch.randn(s, generator=draw, dtype=torch.float64) for s in (left, right))
    parts = []
    for shape in (left, right):
        spread = torch.randn(*shape, SYMBOLS, generator=draw, dtype=torch.float64) * radius
        spread *= (torch.rand(SYMBOLS, generator=draw) < 0.7).double()
        spread[torch.rand(shape, generator=draw) < 0.1] = 0.0
        parts.append(spread)
    first, second = parts
    if apart:
        first[..., : SYMBOLS // 2], second[..., SYMBOLS // 2 :] = 0.0, 0.0
    if form in ("scores", "full"):
        least, most = second_order(first, second.movedim(-2, -3))
        op = MatMulSquared(left, right, p=middles[0], q=middles[1], least=least, most=most)
    else:
        found = mixed(op, middles[1], hull_of(second))
        assert found is not None
        op = found
    return Scene(Case(op, shapes[form], out, reference), (middles[0], middles[1]), (first, second))


def symbols(seed: int) -> Tensor:
    """All corners, and points inside."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * SYMBOLS)
    inner = torch.rand(200, SYMBOLS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return torch.cat([corners, inner])


def violation(this: Scene, dtype: torch.dtype, kind: str, seed: int) -> float:
    """How far a row's bound exceeds the value at some symbols; above 0 is unsound."""
    case = dataclasses.replace(this.case, op=this.case.op.to(dtype, torch.device("cpu")))
    lowers, uppers = this.boxes(dtype)
    rows = rows_of(case.out, 9, seed, dtype)
    lines = case.op.lines(lowers, uppers, multipliers(case.op, lowers, uppers, kind, seed))
    parts, constant = charged(case, rows, lines, lowers, uppers)
    factors = this.values(symbols(seed))
    truth = case.reference(*factors).reshape(factors[0].shape[0], -1) @ long(rows).reshape(rows.shape[0], -1).T
    bound = long(constant)[None]
    for part, value in zip(parts, factors, strict=True):
        bound = bound + value.reshape(value.shape[0], -1) @ long(part).reshape(rows.shape[0], -1).T
    return float((bound - truth).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_enclosed(form: str, kind: str, dtype: torch.dtype) -> None:
    for seed, radius in enumerate((0.0, 1e-7, 1e-2, 0.3, 3.0)):
        assert violation(scene(form, seed, radius), dtype, kind, seed) <= 0


@settings(max_examples=25)
@given(seed=SEEDS, form=st.sampled_from(FORMS), kind=st.sampled_from(KINDS), radius=st.floats(1e-6, 10.0))
def test_rows_are_enclosed_for_any_seed(seed: int, form: str, kind: str, radius: float) -> None:
    assert violation(scene(form, seed, radius), torch.float64, kind, seed) <= 0


@pytest.mark.parametrize(("form", "field"), [("scaled", "factor"), ("scaled", "middle")])
def test_hulls_made_wrong_on_purpose_are_found(form: str, field: str) -> None:
    """Rows of one entry attain their bounds at corners."""
    worst = -1.0
    for seed in range(6):
        this = scene(form, seed, 0.5, apart=True)
        wrong = getattr(this.case.op, field) * (0.99 if field == "factor" else 1.01)
        case = dataclasses.replace(this.case, op=dataclasses.replace(this.case.op, **{field: wrong}))  # type: ignore[type-var]
        worst = max(worst, violation(dataclasses.replace(this, case=case), torch.float64, "default", seed))
    assert worst > 0


@pytest.mark.parametrize("field", ["least", "most", "p", "q"])
def test_second_orders_made_wrong_on_purpose_are_found(field: str) -> None:
    """With one symbol for everything the second order is attained."""
    ones = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    generators = torch.cat([ones, torch.zeros(2, SYMBOLS - 1, dtype=torch.float64)], 1)
    first, second = generators.reshape(1, 2, -1), generators.reshape(2, 1, -1)
    least, most = second_order(-first, second.movedim(-2, -3))
    middles = torch.tensor([[0.5, -1.0]], dtype=torch.float64), torch.tensor([[2.0], [1.0]], dtype=torch.float64)
    op = MatMulSquared((1, 2), (2, 1), p=middles[0], q=middles[1], least=least, most=most)
    share = [torch.ones(1, 1, 1, dtype=torch.float64)]

    def exceeds(op: MatMulSquared) -> float:
        this = Scene(Case(op, ((1, 2), (2, 1)), (1, 1), np.matmul), middles, (-first, second))
        lowers, uppers = this.boxes(torch.float64)
        rows = torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64)
        zero = list(op.multipliers(lowers, uppers)[:-1])
        parts, constant = charged(this.case, rows, op.lines(lowers, uppers, zero + share), lowers, uppers)
        x, y = this.values(symbols(0))
        truth = np.matmul(x, y).reshape(-1, 1) @ long(rows).reshape(2, -1).T
        bound = sum(v.reshape(len(v), -1) @ long(p).reshape(2, -1).T for v, p in zip((x, y), parts, strict=True))
        return float((bound + long(constant) - truth).max())

    assert exceeds(op) <= 0
    assert float(least) == pytest.approx(-5.0)
    moved = getattr(op, field) + (0.05 if field == "least" else -0.05)
    if field == "most":
        moved = getattr(op, field) - 0.05 - float(most)
    assert exceeds(dataclasses.replace(op, **{field: moved})) > 0


@settings(max_examples=60)
@given(
    seed=SEEDS,
    axes=st.integers(1, 6),
    count=st.integers(1, 60),
    scale=st.sampled_from([1e-9, 1.0, 1e6]),
    rank=st.integers(0, 3),
)
def test_hulls_reach_as_far_as_zonotopes(seed: int, axes: int, count: int, scale: float, rank: int) -> None:
    """In random directions, along generators, and across them; with columns of zeros and generators in a plane."""
    draw = torch.Generator().manual_seed(seed)
    generators = torch.randn(3, axes, count, generator=draw, dtype=torch.float64) * scale
    if rank:
        generators = generators[:, :, :rank] @ torch.randn(
            3, min(rank, count), count, generator=draw, dtype=torch.float64
        )
    generators[:, :, ::3] = 0.0
    columns = hull_of(generators)
    rows = torch.randn(3, 40, axes, generator=draw, dtype=torch.float64)
    rows = torch.cat(
        [rows, generators.mT, torch.linalg.qr(generators @ generators.mT + torch.eye(axes).double())[0]], 1
    )
    reach, point = support(rows @ columns, axes)
    true = (rows.double().numpy().astype(np.longdouble) @ long(generators)).__abs__().sum(-1)
    slack = 1e-13 * (rows.abs() @ generators.abs()).sum(-1)
    assert bool((long(reach + slack) >= true).all())
    assert torch.allclose((rows @ columns * point).sum(-1), reach, rtol=1e-10)
    assert bool((point[..., :-axes].abs() <= 1).all() and (point[..., -axes:].square().sum(-1) <= 1 + 1e-9).all())
    if count > ellipsoids.KEPT:
        alone = torch.einsum("gra,gam->grm", rows, around(generators)).square().sum(-1).sqrt()
        assert bool((long(alone + slack) >= true).all())


@settings(max_examples=60)
@given(seed=SEEDS, inner=st.integers(1, 5), scale=st.sampled_from([1e-8, 1.0, 1e5]))
def test_second_orders_hold_at_all_corners_and_inside(seed: int, inner: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(2, n, inner, SYMBOLS, generator=draw, dtype=torch.float64) for n in (2, 3))
    first, second = first * scale, second / scale
    least, most = second_order(first, second)
    chosen = long(symbols(seed))
    value = np.einsum(
        "bijn->nbij", np.einsum("biks,ns,bjkt,nt->bijn", long(first), chosen, long(second), chosen, optimize=True)
    )
    assert bool((value >= long(least) - 1e-15).all() and (value <= long(most) + 1e-15).all())
    assert bool((least <= 0).all() and (most >= 0).all())


@pytest.mark.parametrize("form", FORMS)
def test_pull_and_push_are_adjoint_and_gradients_are_derivatives(form: str) -> None:
    """Rows times push are the bound at a point; differences of the bound are what gradients and push say."""
    this = scene(form, 3, 0.4)
    op, (lowers, uppers) = this.case.op, this.boxes(torch.float64)
    rows = rows_of(this.case.out, 6, 5, torch.float64)
    inputs = [torch.from_numpy(v.astype(np.float64)) for v in this.values(symbols(1)[300:306])]
    draw = torch.Generator().manual_seed(7)
    chosen = [
        torch.rand(6, *m.shape[1:], generator=draw, dtype=torch.float64) * 0.8 + 0.1
        for m in op.multipliers(lowers, uppers)
    ]

    def bound(rows: Tensor, chosen: list[Tensor]) -> Tensor:
        pulled = op.pull(rows, op.lines(lowers, uppers, chosen))
        return sum(((p * x).reshape(6, -1).sum(1) for p, x in zip(pulled.rows, inputs, strict=True)), pulled.offset)

    lines = op.lines(lowers, uppers, chosen)
    pushed = op.push(rows, lines, *inputs)
    assert torch.allclose((rows * pushed).reshape(6, -1).sum(1), bound(rows, chosen), atol=1e-9)
    step = torch.randn(rows.shape, generator=draw, dtype=torch.float64) * 1e-6 * rows.abs()
    slope = (bound(rows + step, chosen) - bound(rows - step, chosen)) * 0.5
    assert torch.allclose(slope, (step * pushed).reshape(6, -1).sum(1), atol=1e-10)
    gradient = op.gradient(rows, lines, *inputs)
    for k, part in enumerate(gradient):
        if isinstance(op, MatMulSquared) and k < len(gradient) - 1:
            part = part * _rest(op, lines)  # what is left of these planes is left out of the step's direction
        move = torch.randn(part.shape, generator=draw, dtype=torch.float64) * 1e-6
        moved = [[m + (sign * move if n == k else 0) for n, m in enumerate(chosen)] for sign in (1, -1)]
        slope = (bound(rows, moved[0]) - bound(rows, moved[1])) * 0.5
        assert torch.allclose(slope, (move * part).reshape(6, -1).sum(1), atol=1e-10), k


def _rest(op: MatMulSquared, lines: tuple[Tensor, ...]) -> Tensor:
    """One minus the share, per scalar product."""
    del op
    return (1.0 - lines[-1]).unsqueeze(-2)


def test_a_hull_beats_the_box_where_entries_move_together() -> None:
    """Four entries that one symbol moves: any mixture with sum 0 is a point, and its product is exact."""
    left, right = (1, 2), (2, 4)
    middle = torch.randn(right, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = hull_of(torch.ones(*right, 1, dtype=torch.float64))
    op = mixed(MatMulTwo(left, right), middle, factor)
    assert isinstance(op, MatMulMixed)
    lowers = [torch.zeros(1, *left, dtype=torch.float64), (middle - 1).unsqueeze(0)]
    uppers = [torch.ones(1, *left, dtype=torch.float64), (middle + 1).unsqueeze(0)]
    rows = torch.tensor([[[1.0, -1.0, 2.0, -2.0]]], dtype=torch.float64)
    lost = []
    for this in (op, MatMulTwo(left, right)):
        lines = this.lines(lowers, uppers)
        value = (rows * this.push(rows, lines, lowers[0] + 0.5, middle.unsqueeze(0))).sum()
        lost.append(float((rows * (this.forward(lowers[0] + 0.5, middle.unsqueeze(0)))).sum() - value))
    assert lost[0] < 1e-6
    assert lost[1] == pytest.approx(2 * 0.5 * 6)


def test_only_products_with_rows_take_hulls() -> None:
    assert takes_rows(MatMulTwo((2, 3), (3, 2)))
    assert takes_rows(Product((1, 4, 1), (1, 4, 6)))
    assert not takes_rows(MatMulTwo((2, 3), (5, 3, 2)))
    assert not takes_rows(Product((4, 6), (4, 6)))
    assert not takes_rows(Product((1, 4, 1), (4, 6)))
    assert not issubclass(Product, Mixed)
