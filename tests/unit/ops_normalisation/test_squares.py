"""Sums of squares of entries that move together: enclosures, second order, gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.ops_bilinear.enclosure import Case, charged, multipliers, rows_of
from tests.unit.ops_bilinear.test_hulls import SYMBOLS, Long, long, symbols
from verinet.ops.activations import find
from verinet.ops.normalisation.squares import SumOfSquares, greatest_square, is_square
from verinet.ops.scalar import Elementwise, ScalarFunction

SEEDS = st.integers(0, 10_000)
GROUPS, WIDTH = 3, 5


def scene(seed: int, radius: float, keepdims: bool) -> tuple[Case, Tensor, Tensor]:
    """An operator, and middle and generators of what is squared."""
    draw = torch.Generator().manual_seed(seed)
    middle = torch.randn(GROUPS, WIDTH, generator=draw, dtype=torch.float64)
    generators = torch.randn(GROUPS, WIDTH, SYMBOLS, generator=draw, dtype=torch.float64) * radius
    generators[torch.rand(GROUPS, WIDTH, generator=draw) < 0.2] = 0.0
    most = greatest_square(generators)
    out = (GROUPS, 1) if keepdims else (GROUPS,)
    op = SumOfSquares(len(out), keepdims, middle, most)
    shape = (GROUPS, WIDTH)
    return Case(op, (shape, shape), out, lambda s, d: s.sum(-1, keepdims=keepdims)), middle, generators


def values(middle: Tensor, generators: Tensor, chosen: Tensor) -> Long:
    return long(middle)[None] + np.einsum("gks,ns->ngk", long(generators), long(chosen))


def ends(middle: Tensor, generators: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes of the squares and of what is squared, rounded outward."""
    radius = generators.abs().sum(-1) * (1 + 1e-12) + 1e-15
    low, high = ((middle + sign * radius).to(dtype).unsqueeze(0) for sign in (-1, 1))
    low, high = torch.nextafter(low, low - 1), torch.nextafter(high, high + 1)
    corner = torch.maximum(low.abs(), high.abs())
    square = Elementwise(find_square(), 2).interval([low], [high])
    assert bool((square[1] >= corner * corner).all())
    return [square[0], low], [square[1], high]


def find_square() -> ScalarFunction:
    found = find("Pow", {"exponent": 2.0})
    assert found is not None
    return found


def violation(this: tuple[Case, Tensor, Tensor], dtype: torch.dtype, kind: str, seed: int) -> float:
    case, middle, generators = this
    case = dataclasses.replace(case, op=case.op.to(dtype, torch.device("cpu")))
    lowers, uppers = ends(middle, generators, dtype)
    rows = rows_of(case.out, 9, seed, dtype)
    lines = case.op.lines(lowers, uppers, multipliers(case.op, lowers, uppers, kind, seed))
    parts, constant = charged(case, rows, lines, lowers, uppers)
    d = values(middle, generators, symbols(seed))
    truth = (d * d).sum(-1) @ long(rows).reshape(rows.shape[0], -1).T
    bound = long(constant)[None]
    for part, value in zip(parts, (d * d, d), strict=True):
        bound = bound + value.reshape(value.shape[0], -1) @ long(part).reshape(rows.shape[0], -1).T
    return float((bound - truth).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ["none", "default", "random", "projected"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_rows_are_enclosed(kind: str, dtype: torch.dtype, keepdims: bool) -> None:
    for seed, radius in enumerate((0.0, 1e-7, 1e-2, 0.3, 3.0)):
        assert violation(scene(seed, radius, keepdims), dtype, kind, seed) <= 0


@settings(max_examples=25)
@given(seed=SEEDS, radius=st.floats(1e-6, 10.0), keepdims=st.booleans())
def test_rows_are_enclosed_for_any_seed(seed: int, radius: float, keepdims: bool) -> None:
    assert violation(scene(seed, radius, keepdims), torch.float64, "random", seed) <= 0


@settings(max_examples=60)
@given(seed=SEEDS, scale=st.sampled_from([1e-8, 1.0, 1e6]), keep=st.integers(1, SYMBOLS))
def test_the_second_order_holds_at_all_corners(seed: int, scale: float, keep: int) -> None:
    """Attained where one symbol moves everything."""
    draw = torch.Generator().manual_seed(seed)
    generators = torch.randn(2, WIDTH, SYMBOLS, generator=draw, dtype=torch.float64) * scale
    generators[..., keep:] = 0.0
    most = long(greatest_square(generators))
    found = (np.einsum("gks,ns->ngk", long(generators), long(symbols(seed))) ** 2).sum(-1, keepdims=True)
    assert bool((found <= most).all())
    if keep == 1:
        assert np.allclose(found.max(0).astype(float), most.astype(float), rtol=1e-6)


@pytest.mark.parametrize("field", ["most", "middle"])
def test_planes_made_wrong_on_purpose_are_found(field: str) -> None:
    """One symbol, and all of the plane: its upper side is attained at both ends."""
    case, middle, generators = scene(1, 0.5, True)
    generators[..., 1:] = 0.0
    op = dataclasses.replace(case.op, most=greatest_square(generators))  # type: ignore[type-var]
    assert isinstance(op, SumOfSquares)
    wrong = dataclasses.replace(op, **{field: getattr(op, field) * 0.98})
    for this, sound in ((op, True), (wrong, False)):
        lowers, uppers = ends(middle, generators, torch.float64)
        rows = -torch.eye(GROUPS, dtype=torch.float64).unsqueeze(-1)
        lines = this.lines(lowers, uppers, [torch.ones(1, GROUPS, 1, dtype=torch.float64)])
        parts, constant = charged(dataclasses.replace(case, op=this), rows, lines, lowers, uppers)
        d = values(middle, generators, symbols(0))
        bound = long(constant)[None]
        for part, value in zip(parts, (d * d, d), strict=True):
            bound = bound + value.reshape(value.shape[0], -1) @ long(part).reshape(GROUPS, -1).T
        assert ((bound + (d * d).sum(-1)).max() <= 0) == sound


@pytest.mark.parametrize("keepdims", [True, False])
def test_pull_and_push_are_adjoint_and_gradients_are_derivatives(keepdims: bool) -> None:
    case, middle, generators = scene(3, 0.4, keepdims)
    op, (lowers, uppers) = case.op, ends(middle, generators, torch.float64)
    rows = rows_of(case.out, 6, 5, torch.float64)
    d = torch.from_numpy(values(middle, generators, symbols(1)[300:306]).astype(np.float64))
    inputs = [d * d * 1.1, d]
    draw = torch.Generator().manual_seed(7)
    share = torch.rand(6, GROUPS, 1, generator=draw, dtype=torch.float64) * 0.8 + 0.1

    def bound(share: Tensor) -> Tensor:
        pulled = op.pull(rows, op.lines(lowers, uppers, [share]))
        return sum(((p * x).reshape(6, -1).sum(1) for p, x in zip(pulled.rows, inputs, strict=True)), pulled.offset)

    lines = op.lines(lowers, uppers, [share])
    assert torch.allclose((rows * op.push(rows, lines, *inputs)).reshape(6, -1).sum(1), bound(share), atol=1e-9)
    (gradient,) = op.gradient(rows, lines, *inputs)
    move = torch.randn(share.shape, generator=draw, dtype=torch.float64) * 1e-6
    slope = (bound(share + move) - bound(share - move)) * 0.5
    assert torch.allclose(slope, (move * gradient).reshape(6, -1).sum(1), atol=1e-10)
    assert [b.shape for b in op.blame(rows.abs(), lowers, uppers)] == [(6, GROUPS, WIDTH)] * 2


def test_only_the_square_is_one() -> None:
    for exponent, expected in ((2.0, True), (3.0, False), (4.0, False), (1.0, False), (0.5, False)):
        found = find("Pow", {"exponent": exponent})
        assert found is not None
        assert is_square(Elementwise(found, 2)) == expected
