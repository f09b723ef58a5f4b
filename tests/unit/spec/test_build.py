"""Claims made in Python become the violation that VNN-LIB would state."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.errors import PropertyError
from verinet.spec import Claim, all_of, any_of, box, linf_ball, outputs, parse_property, robustness, show
from verinet.spec.property import Property
from verinet.witness.replay import violates_exactly

BOX = box([0.0, 0.0], [1.0, 1.0])


def violated(prop: Property, *values: float) -> bool:
    return violates_exactly(prop, np.array([0.5, 0.5]), np.array(values))


def test_a_claim_is_negated_into_the_property() -> None:
    y = outputs(3)
    prop = show(all_of(y[0] > y[1], 2 * y[2] - y[0] <= 1 + y[1])).on(BOX)
    assert (prop.inputs, prop.outputs, len(prop.clauses)) == (2, 3, 2)
    assert violated(prop, 1, 1, 0) and not violated(prop, 1.1, 1, 0)
    assert violated(prop, 2, 0, 1.6) and not violated(prop, 2, 0, 1.5)


def test_disjunctions_become_conjunctions() -> None:
    y = outputs(2)
    prop = show((y[0] >= 1) | (y[1] >= 1)).on(BOX, BOX)
    assert [len(c.rows) for c in prop.clauses] == [2, 2] and [c.box for c in prop.clauses] == [0, 1]
    assert violated(prop, 0.5, 0.5) and not violated(prop, 1, 0.5) and not violated(prop, 0.5, 2)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=6), st.integers(0, 63))
def test_random_claims_are_negated_exactly(parts: list[tuple[int, bool, bool]], mask: int) -> None:
    y = outputs(3)
    atoms = [
        (y[j] < 1 if strict else y[j] <= 1) if upper else (y[j] > 1 if strict else y[j] >= 1)
        for j, upper, strict in parts
    ]
    claim: Claim = atoms[0]
    for k, atom in enumerate(atoms[1:]):
        claim = claim & atom if mask >> k & 1 else claim | atom

    def holds(values: tuple[float, ...]) -> bool:
        truths = [
            (values[j] < 1 if strict else values[j] <= 1) if upper else (values[j] > 1 if strict else values[j] >= 1)
            for j, upper, strict in parts
        ]
        result = truths[0]
        for k, truth in enumerate(truths[1:]):
            result = (result and truth) if mask >> k & 1 else (result or truth)
        return result

    prop = show(claim).on(BOX)
    for values in ((0.0, 1.0, 2.0), (1.0, 1.0, 1.0), (2.0, 0.0, 1.0), (0.5, 0.5, 3.0)):
        assert violated(prop, *values) == (not holds(values))


def test_robustness_is_the_competitions_property() -> None:
    centre = np.array([[0.1, 0.9]], dtype=np.float32)
    prop = robustness(centre, 0.05, 1, 3, clip=(0, 1))
    text = "(declare-const X_0 Real)(declare-const X_1 Real)" + "".join(f"(declare-const Y_{k} Real)" for k in range(3))
    text += "(assert (<= X_0 1))(assert (>= X_0 0))(assert (<= X_1 1))(assert (>= X_1 0))"
    written = parse_property(text + "(assert (or (and (>= Y_0 Y_1)) (and (>= Y_2 Y_1))))")
    rows = [(c.rows.columns.tolist(), c.rows.values.tolist(), c.rows.bounds.tolist()) for c in prop.clauses]
    assert rows == [(c.rows.columns.tolist(), c.rows.values.tolist(), c.rows.bounds.tolist()) for c in written.clauses]
    ball = linf_ball(centre, 0.05, (0, 1))
    assert np.array_equal(prop.boxes[0].lower, ball.lower) and np.array_equal(prop.boxes[0].upper, ball.upper)
    for label, classes in ((3, 3), (-1, 3), (0, 1)):
        with pytest.raises(PropertyError, match="no class"):
            robustness(centre, 0.05, label, classes)


def test_numbers_count_as_what_they_are() -> None:
    y = outputs(1)[0]
    tenth, float_tenth = show(y < "0.1").on(BOX), show(y < 0.1).on(BOX)
    assert Fraction(float(tenth.clauses[0].rows.bounds[0])) > -Fraction(1, 10)  # rounded up from minus one tenth
    assert float_tenth.clauses[0].rows.bounds[0] == -0.1
    assert show(y < Decimal("0.5")).on(BOX).clauses[0].rows.bounds[0] == -0.5
    assert show(y * np.float32(2) < Fraction(1, 2)).on(BOX).clauses[0].rows.values[0] == -2.0
    for wrong in (float("nan"), float("inf"), "many"):
        with pytest.raises(PropertyError, match="no finite number"):
            assert y < wrong


def test_misuse_is_explained() -> None:
    y, other = outputs(2), outputs(3)
    with pytest.raises(TypeError, match="all_of"):
        bool(y[0] < y[1])
    with pytest.raises(TypeError, match="all_of"):
        assert 0 < y[0] < 1
    with pytest.raises(PropertyError, match="2 and 3 outputs"):
        y[0] + other[0]
    with pytest.raises(PropertyError, match="one network"):
        show(any_of(y[0] < 1, other[0] < 1)).on(BOX)
    with pytest.raises(PropertyError, match=r"\[1, 2\] inputs"):
        show(y[0] < 1).on(BOX, box([0.0], [1.0]))
    with pytest.raises(PropertyError, match="a claim compares"):
        all_of(y[0], y[1])  # type: ignore[arg-type]
    with pytest.raises(PropertyError, match="outside the range"):
        show(y[0] < 10**400).on(BOX)
