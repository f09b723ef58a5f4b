"""Every operator of several variables against dense sampling with local search, in both precisions."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import torch

import verinet.ops
from tests.kits.operator_fuzz import BOXES, KINDS, OPERATORS, RADII, check_intervals, check_rows
from tests.kits.scalar_check import CASES
from tests.soundness.test_scalar_fuzz import EACH, EXPRESSIONS, HEAVY, OF_EXPRESSION
from verinet.ops.base import Frame, NonlinearOp
from verinet.ops.bilinear.either import Either
from verinet.ops.bilinear.mixed import MatMulMixed, ProductMixed
from verinet.ops.bilinear.squared import MatMulSquared
from verinet.ops.normalisation.shares import Shares
from verinet.ops.normalisation.squares import SumOfSquares
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.position import Position, position

SEEDS = 1
ROWS_EACH = len(RADII) * len(KINDS) * BOXES * SEEDS
INTERVALS_EACH = len(RADII) * BOXES * SEEDS
both = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
every = pytest.mark.parametrize("name", OPERATORS)


@both
@every
def test_rows_are_enclosed(name: str, dtype: torch.dtype) -> None:
    """Boxes from points to wide ones; the operator's own, default, any, and projected multipliers."""
    total = 0
    found: list[str] = []
    for place, radius in enumerate(RADII):
        for kind in KINDS:
            for seed in range(SEEDS):
                queries, bad = check_rows(name, dtype, radius, kind, 100 * place + seed)
                total, found = total + queries, found + bad
    assert not found, found[0]
    assert total == ROWS_EACH


@both
@every
def test_intervals_are_enclosed(name: str, dtype: torch.dtype) -> None:
    total = 0
    found: list[str] = []
    for place, radius in enumerate(RADII):
        for seed in range(SEEDS):
            queries, bad = check_intervals(name, dtype, radius, 100 * place + seed)
            total, found = total + queries, found + bad
    assert not found, found[0]
    assert total == INTERVALS_EACH


def subclasses(base: type[object]) -> set[type[object]]:
    return {c for direct in base.__subclasses__() for c in (direct, *subclasses(direct))}


def test_no_operator_is_forgotten() -> None:
    """Every nonlinear operator is fuzzed here, or is a function of one variable, which `test_scalar_fuzz` covers."""
    for module in pkgutil.walk_packages(verinet.ops.__path__, "verinet.ops."):
        importlib.import_module(module.name)
    named = {c for c in subclasses(NonlinearOp) if c.__module__.startswith("verinet.")}
    ours = {c for c in named if not inspect.isabstract(c)}  # a shared base without a meaning of its own bounds nothing
    # Promises about their inputs: integers here, others in test_factors, test_log_odds, test_hulls and test_squares.
    promised = {Position, Either, Shares, MatMulMixed, ProductMixed, MatMulSquared, SumOfSquares}
    assert ours == {type(operator.case.op) for operator in OPERATORS.values()} | {Elementwise, *promised}


POSITIONS = 400


@both
def test_positions_are_enclosed_at_integers(dtype: torch.dtype) -> None:
    """Lines and intervals of min(x, top) at every integer of a box, any slopes; framed lines, too."""
    draw, top = torch.Generator().manual_seed(4), 9
    op = position(top, 1)
    start = torch.randint(0, 13, (1, POSITIONS), generator=draw) - 0.45 * torch.rand(1, POSITIONS, generator=draw)
    low, high = start.to(dtype), (start + 5 * torch.rand(1, POSITIONS, generator=draw) + 0.45).to(dtype)
    chosen = [torch.randn(1, POSITIONS, generator=draw).to(dtype) for _ in range(2)]
    x = torch.arange(0, 20, dtype=torch.float64).reshape(-1, 1)
    inside, value = (low.ceil() <= x) & (x <= high.floor()), x.clamp(max=top)
    assert bool(inside.any(0).all())
    least, most = op.interval([low], [high])
    framed = op.framed_lines(Frame([low], [high]), chosen)
    for lines in (op.lines([low], [high]), op.lines([low], [high], chosen), framed):
        below, above = lines[0].double() * x + lines[1].double(), lines[2].double() * x + lines[3].double()
        # The products of small integers and slopes are rounded here by 2e-15; a float32 pad is far above that.
        assert bool((~inside | ((below <= value + 1e-14) & (value <= above + 1e-14))).all())
    assert bool((~inside | ((least <= value) & (value <= most))).all())


def test_over_twenty_thousand_queries_are_checked() -> None:
    """A run checks at least this many: each part below is asserted, as a count of what was checked, by its own test."""
    activations = sum(EACH[onnx_op in HEAVY] for onnx_op, _ in CASES)
    expressions = EXPRESSIONS * OF_EXPRESSION
    operators = len(OPERATORS) * (ROWS_EACH + INTERVALS_EACH)
    assert operators >= 6_000
    assert 2 * (activations + expressions + operators) >= 20_000
