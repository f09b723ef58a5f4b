"""The fuzz checks are worth something: an intercept moved by 1e-6 in the unsound direction is caught, for everything.

For every registered activation and for every operator of several variables, each offset of the lines is mutated by
itself. Unmutated lines pass on the same queries.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kits.operator_fuzz import OPERATORS, RADII, Batch, batch, mutated, worst_excess
from tests.kits.scalar_check import CASES, IDS, Attributes, Case
from tests.kits.scalar_fuzz import defined, intervals, slopes, violations
from tests.soundness.test_scalar_fuzz import HEAVY
from verinet.ops.base import Lines
from verinet.ops.scalar import Elementwise, ScalarFunction
from verinet.ops.sorting.steps import HAT, STEP, WHOLE

RELATIVE = 1e-6
SHARE = 8
"""Where the lines of a sort keep the share of the top sums; planes of single entries matter where it is below 1."""


def shifted(lines: Lines) -> Lines:
    """Both offsets of scalar lines moved inward."""
    below, above = lines[1], lines[3]
    return (
        *(lines[0], below + (below.abs() + 1.0) * RELATIVE),
        *(lines[2], above - (above.abs() + 1.0) * RELATIVE, *lines[4:]),
    )


def sides(found: list[str]) -> set[int]:
    return {sign for sign in (1, -1) if any(f"side {sign}:" in text for text in found)}


def caught(case: Case, seed: int) -> set[int]:
    """Sides on which the check flags mutated lines, of default slopes for half of the entries and chosen ones for half.

    Unmutated lines have to pass.
    """
    chosen = slopes(case, seed)
    known = case.op.multipliers([case.lower], [case.upper])
    odd = torch.arange(case.lower.shape[0]).reshape(-1, 1) % 2 == 1
    mixed = [torch.where(odd, c, k) for c, k in zip(chosen[: len(known)], known, strict=True)]
    lines = case.op.lines([case.lower], [case.upper], mixed)
    assert not violations(case, lines)
    return sides(violations(case, shifted(lines)))


@pytest.mark.parametrize(("onnx_op", "attributes"), CASES, ids=IDS)
def test_intercepts_of_registered_activations(onnx_op: str, attributes: Attributes) -> None:
    # Wavy functions have many pieces, and most lines of wide intervals touch none of them closely.
    count = {"BSpline": 2}.get(onnx_op, 5 if onnx_op in HEAVY else 3)
    case = defined(intervals(onnx_op, attributes, count, 23, torch.float64))
    assert case.lower.numel()
    assert caught(case, 3) == {1, -1}


EXACT = {"Step": lambda x: 1 if x > 0 else 0, "Hat": lambda x: max(0, 1 - abs(x)), "Whole": lambda x: int(x == int(x))}


@pytest.mark.parametrize("function", [STEP, HAT, WHOLE], ids=list(EXACT))
def test_intercepts_behind_comparisons(function: ScalarFunction) -> None:
    low = torch.tensor([[-2.0], [-0.25], [0.5], [0.0]], dtype=torch.float64)
    case = Case((EXACT[function.name],), Elementwise(function, 1), low, low + 1.5)
    assert caught(case, 3) == {1, -1}


MUTANTS = [(name, position) for name, operator in OPERATORS.items() for position in operator.offsets]


def queries(name: str) -> list[Batch]:
    """Batches with default multipliers; for sorts also with planes of single entries only."""
    found = [batch(name, torch.float64, radius, "default", 100 * place) for place, radius in enumerate(RADII)]
    if name.startswith("Sort"):
        for given in list(found):
            lines = list(given.lines)
            lines[SHARE] = torch.zeros_like(lines[SHARE])
            found.append(replace(given, lines=tuple(lines)))
    return found


@pytest.mark.parametrize(("name", "position"), MUTANTS, ids=[f"{name}, line {p}" for name, p in MUTANTS])
def test_intercepts_of_operators(name: str, position: int) -> None:
    seen = 0
    for given in queries(name):
        assert bool((worst_excess(given, 1) <= 0).all())
        seen += int((worst_excess(mutated(given, position, RELATIVE), 1) > 0).sum())
    assert seen > 0


@pytest.mark.parametrize("name", ["Product", "Gate of sigmoid", "MatMul", "Max of 5", "Sort of 3", "Softmax of 4"])
def test_what_is_caught_on_wide_boxes_does_not_need_points(name: str) -> None:
    """Boxes of positive width, where a formula can be wrong that is right for points."""
    wide = [given for given in queries(name) if bool((given.uppers[0] > given.lowers[0]).any())]
    for position in OPERATORS[name].offsets:
        assert any(bool((worst_excess(mutated(g, position, RELATIVE), 1) > 0).any()) for g in wide)
