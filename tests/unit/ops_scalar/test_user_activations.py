"""Activations that users register: expressions, claims with their checks, and the names they go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

import verinet
from tests.kits.scalar_check import Case
from tests.kits.scalar_fuzz import check_batch
from verinet.errors import UsageError
from verinet.ops.activations import find, registry
from verinet.ops.activations.user import register_activation
from verinet.ops.scalar import Elementwise


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(registry._TABLE)
    yield
    registry._TABLE.clear()
    registry._TABLE.update(before)


def intervals() -> tuple[Tensor, Tensor]:
    low = torch.linspace(-5, 3, 9, dtype=torch.float64).reshape(-1, 1)
    return low, low + torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64).repeat(3).reshape(-1, 1)


def check(function: Any, exact: Callable[[Any], Any]) -> Elementwise:
    op = Elementwise(function, 1)
    low, high = intervals()
    queries, found = check_batch(Case((exact,), op, low, high), 1)
    assert queries == 27 and not found
    return op


def test_it_is_a_public_name() -> None:
    assert verinet.register_activation is register_activation


def test_an_expression_is_enough() -> None:
    record = register_activation("Wiggle", "x * tanh(x) + 0.25 * sin(3 * x)")
    assert find("Wiggle", {}) is record
    op = check(record, lambda x: x * mp.tanh(x) + mp.sin(3 * x) / 4)
    low, high = intervals()
    points = op.branch_points(low, high)
    assert points.shape[-1] >= 3, "the midpoint and inflections"
    least, most = op.slope_bounds(low, high)
    wide = high > low
    assert bool(((most - least)[wide] > 0).all()) and bool((least >= -3).all()) and bool((most <= 3).all())


def test_a_callable_is_enough() -> None:
    record = register_activation("acme::Bump", lambda x: torch.exp(-x * x) * (1 + torch.relu(x)))
    check(record, lambda x: mp.exp(-x * x) * (1 + max(x, 0)))


def cubic(x: Tensor) -> Tensor:
    return x * x * x - 2 * x


def cubic_slope(x: Tensor) -> Tensor:
    return 3 * x * x - 2


def test_claims_that_are_true_are_taken() -> None:
    record = register_activation("Cubic", cubic, cubic_slope, [0.0], error_ulps=16.0, slope_ulps=16.0)
    assert record.curvature == (-1, 1) and record.extrema == pytest.approx((-((2 / 3) ** 0.5), (2 / 3) ** 0.5))
    check(record, lambda x: x**3 - 2 * x)


def test_a_kink_may_be_claimed() -> None:
    def bent(x: Tensor) -> Tensor:
        return torch.where(x > 1, x * x, 2 * x - 1 + (x - 1).clamp(max=0) * 2)

    def bent_slope(x: Tensor) -> Tensor:
        return torch.where(x > 1, 2 * x, torch.full_like(x, 4.0))

    record = register_activation("Bent", bent, bent_slope, [1.0], kinks=(1.0,), error_ulps=16.0)
    assert record.curvature == (0, 1)
    check(record, lambda x: x * x if x > 1 else 4 * x - 3)


FALSE_CLAIMS: dict[str, tuple[Callable[[], Any], str]] = {
    "slope": (lambda: register_activation("F", cubic, lambda x: 3 * x * x, [0.0]), "not the derivative"),
    "missing inflection": (lambda: register_activation("F", cubic, cubic_slope, []), "neither convex nor concave"),
    "misplaced inflection": (lambda: register_activation("F", cubic, cubic_slope, [0.01]), "neither convex"),
    "slightly misplaced": (lambda: register_activation("F", cubic, cubic_slope, [1e-4]), "neither convex"),
    "sign": (
        lambda: register_activation("F", cubic, cubic_slope, [0.0], curvature=(1, 1)),
        "piece 0 is not convex",
    ),
    "number of signs": (
        lambda: register_activation("F", cubic, cubic_slope, [0.0], curvature=(1,)),
        "2 pieces but 1 signs",
    ),
    "bounds": (lambda: register_activation("F", torch.tanh, _tanh_slope, [0.0], bounds=(-0.9, 1.0)), "claim bounds"),
    "slope range": (
        lambda: register_activation("F", torch.tanh, _tanh_slope, [0.0], slope_range=(0.0, 0.5)),
        "claim slope_range",
    ),
    "hidden kink": (lambda: register_activation("F", torch.abs, torch.sign, [0.0]), "slope of 'F' jumps at 0"),
    "hidden jump": (
        lambda: register_activation("F", lambda x: torch.sign(x) + x, torch.ones_like, [0.0]),
        "'F' jumps at 0",
    ),
    "accuracy": (
        lambda: register_activation("F", _rough, cubic_slope, [0.0], error_ulps=2.0),
        "less accurate than claimed",
    ),
    "order": (lambda: register_activation("F", cubic, cubic_slope, [1.0, 0.0]), "not in order"),
    "kink that is none": (
        lambda: register_activation("F", cubic, cubic_slope, [0.0], kinks=(1.0,)),
        "must be a breakpoint",
    ),
    "unknown claim": (lambda: register_activation("F", cubic, cubic_slope, [0.0], colour=1), "unknown claims"),
    "not finite": (lambda: register_activation("F", torch.log, torch.reciprocal, []), "not finite"),
    "shape": (lambda: register_activation("F", torch.sum, cubic_slope, []), "argument's shape"),
    "taken": (lambda: register_activation("Relu", "x * tanh(x)"), "exists already"),
    "both": (lambda: register_activation("F", "x * tanh(x)", cubic_slope, [0.0]), "leave f' out"),
    "claims of an expression": (lambda: register_activation("F", "x * tanh(x)", bounds=(0.0, 1.0)), "expression alone"),
    "nothing": (lambda: register_activation("F", 3.0), "expression alone"),  # type: ignore[arg-type]
}


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _rough(x: Tensor) -> Tensor:
    return (x * x * x - 2 * x) + 1e5 - 1e5


@pytest.mark.parametrize("name", FALSE_CLAIMS)
def test_false_claims_are_refused(name: str) -> None:
    act, message = FALSE_CLAIMS[name]
    with pytest.raises(UsageError, match=message):
        act()
    assert find("F", {}) is None


def test_domains_and_poles_are_respected() -> None:
    record = register_activation("Ln", torch.log, torch.reciprocal, [], domain=(0.0, float("inf")), poles=(0.0,))
    assert record.curvature == (-1,)
    assert record.outside(torch.tensor([-1.0]), torch.tensor([1.0]))
