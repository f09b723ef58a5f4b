"""Products of matrices and gated functions: planes and intervals enclose, gradients and adjoints are exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kits.strategies import DTYPES, KINDS, SEEDS
from tests.unit.ops_bilinear.enclosure import (
    Case,
    boxes,
    charged,
    gradient_error,
    interval_violation,
    multipliers,
    points,
    rows_of,
    worst_violation,
)
from verinet.ops.activations import find
from verinet.ops.bilinear import matmul
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.scalar_function import DomainError, ScalarFunction

RADII = st.sampled_from([0.0, 1e-30, 1e-7, 1e-3, 0.1, 1.0, 30.0])
MANY = max(1, settings().max_examples // 2)


def function(op: str, **attributes: float) -> ScalarFunction:
    found = find(op, attributes)
    assert found is not None
    return found


PRODUCTS = [
    Case(MatMulTwo((3, 4), (4, 2)), ((3, 4), (4, 2)), (3, 2), np.matmul),
    Case(MatMulTwo((2, 3, 4), (2, 4, 1)), ((2, 3, 4), (2, 4, 1)), (2, 3, 1), np.matmul),
    Case(
        MatMulTwo((2, 1, 3, 4), (3, 4, 2)),
        ((2, 1, 3, 4), (3, 4, 2)),
        (2, 3, 3, 2),
        lambda x, y: np.matmul(x, y[:, None]),
    ),
]
GATES = {
    "Sigmoid": Case(
        Gate(function("Sigmoid"), (2, 1), (2, 3)), ((2, 1), (2, 3)), (2, 3), lambda x, y: y / (1 + np.exp(-x))
    ),
    "Tanh": Case(Gate(function("Tanh"), (3,), (2, 3)), ((3,), (2, 3)), (2, 3), lambda x, y: np.tanh(x)[:, None] * y),
    "Reciprocal": Case(Gate(function("Reciprocal"), (2, 1), (2, 3)), ((2, 1), (2, 3)), (2, 3), lambda x, y: y / x),
    "Pow": Case(
        Gate(function("Pow", exponent=-0.5), (2, 1), (2, 3)), ((2, 1), (2, 3)), (2, 3), lambda x, y: y / np.sqrt(x)
    ),
}
CASES = [*PRODUCTS, *GATES.values()]
NAMES = [*(f"matmul{i}" for i in range(len(PRODUCTS))), *GATES]


def boxes_for(
    case: Case, count: int, radius: float, seed: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes inside the operator's domain: on one side of 0 for a quotient, positive below a root."""
    lowers, uppers = boxes(case.shapes, count, radius, seed, dtype)
    if isinstance(case.op, Gate) and case.op.function.name in ("Reciprocal", "Pow"):
        width = uppers[0] - lowers[0]
        low = lowers[0].abs() + 0.05
        lowers[0], uppers[0] = low, low + width
        if case.op.function.name == "Reciprocal":
            lowers[0][::2], uppers[0][::2] = -uppers[0][::2].clone(), -lowers[0][::2].clone()
    return lowers, uppers


@pytest.fixture(params=[True, False], ids=["full", "means"])
def tilts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both forms of the multipliers of a matrix product."""
    if not request.param:
        monkeypatch.setattr(matmul, "_FULL", 0)
    return bool(request.param)


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
@settings(max_examples=MANY)
@given(dtype=DTYPES, radius=RADII, kind=KINDS, seed=SEEDS)
def test_rows_and_intervals_enclose(
    tilts: bool, position: int, dtype: torch.dtype, radius: float, kind: str, seed: int
) -> None:
    case = CASES[position]
    lowers, uppers = boxes_for(case, 12, radius, seed, dtype)
    assert interval_violation(case, lowers, uppers, seed + 3) <= 0
    assert worst_violation(case, lowers, uppers, rows_of(case.out, 12, seed, dtype), kind, seed) <= 0


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
def test_gradients_are_derivatives(tilts: bool, position: int) -> None:
    lowers, uppers = boxes_for(CASES[position], 40, 0.5, 3, torch.float64)
    assert gradient_error(CASES[position], lowers, uppers, 1) < 1e-4


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
@pytest.mark.parametrize("kind", ["none", "projected"])
def test_pull_and_push_are_adjoint(tilts: bool, position: int, kind: str) -> None:
    case = CASES[position]
    lowers, uppers = boxes_for(case, 20, 0.7, 5, torch.float64)
    lines = case.op.lines(lowers, uppers, multipliers(case.op, lowers, uppers, kind, 4))
    rows, inputs = rows_of(case.out, 20, 2, torch.float64), [s[-1] for s in points(lowers, uppers, 8)]
    pulled = case.op.pull(rows, lines)
    through = pulled.offset.clone()
    for part, x in zip(pulled.rows, inputs, strict=True):
        assert part.shape == x.shape
        through += (part * x).reshape(20, -1).sum(-1)
    direct = (rows * case.op.push(rows, lines, *inputs)).reshape(20, -1).sum(-1)
    assert torch.allclose(direct, through, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", range(len(CASES)), ids=NAMES)
def test_folded_rows_give_what_single_rows_give(position: int) -> None:
    """(domains, rows, ...) with lines (domains, 1, ...), as the backward pass calls it, against one row at a time."""
    case = CASES[position]
    lowers, uppers = boxes_for(case, 3, 0.5, 9, torch.float64)
    lines = case.op.lines(lowers, uppers)
    rows = rows_of(case.out, 12, 4, torch.float64).reshape(3, 4, *case.out)
    folded = case.op.pull(rows, tuple(t.unsqueeze(1) for t in lines))
    for k in range(4):
        single = case.op.pull(rows[:, k], lines)
        assert torch.allclose(folded.offset[:, k], single.offset, rtol=1e-12, atol=1e-12)
        for many, one in zip(folded.rows, single.rows, strict=True):
            assert torch.allclose(many[:, k], one, rtol=1e-12, atol=1e-12)


def test_a_bound_made_wrong_on_purpose_is_found() -> None:
    """The corner where the planes touch is among the samples, so lines that are a little too high are noticed."""
    case = PRODUCTS[0]
    lowers, uppers = boxes(case.shapes, 20, 0.5, 1, torch.float64)
    rows = rows_of(case.out, 20, 1, torch.float64)

    @dataclasses.dataclass(frozen=True)
    class Wrong(MatMulTwo):
        def lines(
            self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
        ) -> tuple[Tensor, ...]:
            found = super().lines(lowers, uppers, multipliers)
            return *found[:5], found[5] * 0.5, *found[6:]

    wrong = Case(Wrong((3, 4), (4, 2)), case.shapes, case.out, case.reference)
    assert worst_violation(case, lowers, uppers, rows, "none", 3) <= 0
    assert worst_violation(wrong, lowers, uppers, rows, "none", 3) > 1e-3


@pytest.mark.parametrize("name", list(GATES))
@pytest.mark.parametrize("position", [2, 5])
def test_a_gate_made_wrong_on_purpose_is_found(name: str, position: int) -> None:
    case = GATES[name]
    assert isinstance(case.op, Gate)
    lowers, uppers = boxes_for(case, 200, 0.3, 1, torch.float64)
    rows = rows_of(case.out, 200, 1, torch.float64)

    @dataclasses.dataclass(frozen=True)
    class Wrong(Gate):
        def lines(
            self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
        ) -> tuple[Tensor, ...]:
            found = list(super().lines(lowers, uppers, multipliers))
            found[position] = found[position] + (0.01 if position == 2 else -0.01)
            return tuple(found)

    wrong = Case(Wrong(case.op.function, case.op.left, case.op.right), case.shapes, case.out, case.reference)
    assert worst_violation(case, lowers, uppers, rows, "none", 3) <= 0
    assert worst_violation(wrong, lowers, uppers, rows, "none", 3) > 1e-4


def test_a_product_with_inner_axis_one_is_mccormick() -> None:
    """x (2, 1) times y (1, 3) is an elementwise product: both operators bound rows alike in the middle of the box."""
    lowers, uppers = boxes(((2, 1), (1, 3)), 30, 1.0, 2, torch.float64)
    rows = rows_of((2, 3), 30, 6, torch.float64)
    middle = [(lo + hi) * 0.5 for lo, hi in zip(lowers, uppers, strict=True)]
    values = []
    for op in (MatMulTwo((2, 1), (1, 3)), Product((2, 1), (1, 3))):
        pulled = op.pull(rows, op.lines(lowers, uppers))
        parts = sum((p * x).reshape(30, -1).sum(-1) for p, x in zip(pulled.rows, middle, strict=True))
        values.append(pulled.offset + parts)
    assert torch.allclose(values[0], values[1], rtol=1e-9, atol=1e-9)


def test_wide_matrix_products_have_no_tensor_per_scalar_product() -> None:
    """20 x 30 x 40 scalar products, 5 rows: nothing has as many entries as rows times products."""
    op = MatMulTwo((20, 30), (30, 40))
    lowers, uppers = boxes(((20, 30), (30, 40)), 1, 0.3, 2, torch.float64)
    chosen = op.multipliers(lowers, uppers)
    assert sum(m.numel() for m in chosen) == 2 * (20 * 30 + 30 * 40)
    lines = op.lines(lowers, uppers, chosen)
    assert max(t.numel() for t in lines) <= 30 * 40
    rows = rows_of((20, 40), 5, 1, torch.float64)
    assert op.gradient(rows, lines, *lowers)[0].shape == (5, 20, 30)


@pytest.mark.parametrize("name", list(GATES))
def test_gates_are_at_least_as_tight_as_function_then_product(name: str) -> None:
    """In the middle of the box, with the intermediate bounds of h from its own interval; one x for every y."""
    gate = GATES[name].op
    assert isinstance(gate, Gate)
    op = Gate(gate.function, (2, 3), (2, 3))
    case = Case(op, ((2, 3), (2, 3)), (2, 3), np.multiply)
    lowers, uppers = boxes_for(case, 100, 0.8, 12, torch.float64)
    rows = rows_of(case.out, 100, 3, torch.float64)
    middle = [(lo + hi) * 0.5 for lo, hi in zip(lowers, uppers, strict=True)]
    direct = _at(op.pull(rows, op.lines(lowers, uppers)), middle)
    from verinet.ops.scalar import Elementwise

    inner = Elementwise(op.function, len(case.shapes[0]))
    between = inner.interval([lowers[0]], [uppers[0]])
    outer = Product(case.shapes[0], case.shapes[1])
    second = outer.pull(rows, outer.lines([between[0], lowers[1]], [between[1], uppers[1]]))
    first = inner.pull(second.rows[0], inner.lines([lowers[0]], [uppers[0]]))
    composed = _at(first, middle[:1]) + second.offset + (second.rows[1] * middle[1]).reshape(100, -1).sum(-1)
    assert float((direct - composed).mean()) > 0
    assert bool((direct >= composed - 0.01 * composed.abs() - 1e-9).all())  # slopes are found by a few bisections


def _at(pulled: object, middle: Sequence[Tensor]) -> Tensor:
    from verinet.ops.base import Pulled

    assert isinstance(pulled, Pulled)
    parts = [(p * x).reshape(p.shape[0], -1).sum(-1) for p, x in zip(pulled.rows, middle, strict=True)]
    return pulled.offset + torch.stack(parts).sum(0)


def test_a_gate_refuses_a_pole() -> None:
    op = Gate(function("Reciprocal"), (1,), (1,))
    low, high = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    with pytest.raises(DomainError):
        op.lines([low, low], [high, high])


def test_the_limit_of_a_gate_cuts_its_interval() -> None:
    op = Gate(function("Pow", exponent=-0.5), (1,), (3,), limit=1.5)
    low, high = op.interval([torch.full((1, 1), 1e-4), -torch.ones(1, 3)], [torch.ones(1, 1), torch.ones(1, 3)])
    assert float(low.min()) == -1.5
    assert float(high.max()) == 1.5


def test_charges_stay_small() -> None:
    """In float64 the rounding charge of a point box is far below what a property can notice."""
    for case in CASES:
        lowers, _ = boxes_for(case, 10, 0.0, 1, torch.float64)
        rows = rows_of(case.out, 10, 1, torch.float64)
        parts, constant = charged(case, rows, case.op.lines(lowers, lowers), lowers, lowers)
        bound = constant + sum((p * x).reshape(10, -1).sum(-1) for p, x in zip(parts, lowers, strict=True))
        value = (rows * case.op.forward(*lowers)).reshape(10, -1).sum(-1)
        assert float((value - bound).abs().max()) < 1e-9
