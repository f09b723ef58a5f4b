"""Several networks, hidden entries, products and ties: the normal form means what the file says."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from tests.kits.vnnlib_oracle import GRID, HEAD, INPUTS, Oracle, random_query, reference
from verinet.errors import PropertyError
from verinet.spec import ExactProperty, Property, margin, parse_property
from verinet.spec.layout import Spread, with_extras
from verinet.spec.reader import STRICT_INPUTS
from verinet.witness.replay import violates_exactly

BOX = "".join(f"(assert (and (>= {name} -2.0) (<= {name} 5.0)))\n" for name in INPUTS)


def spread_of(prop: Property) -> Spread:
    assert prop.layout is not None
    return Spread(prop.layout)


@pytest.mark.parametrize("seed", range(150))
def test_the_exact_check_agrees_with_the_reference_parser(seed: int) -> None:
    draw = random.Random(seed)
    text = random_query(draw)
    oracle, check = Oracle(reference().parse_query_string(text)), ExactProperty.parse(text)
    assert check.notes in ((), (STRICT_INPUTS,))
    for _ in range(30):
        x, y = ([draw.choice(GRID) for _ in range(size)] for size in oracle.sizes)
        if draw.random() < 0.7:  # untied points violate most ties
            x = [*x[:3], *x[:3]]
        assert check.holds(x, y) == oracle.holds((x, y)), (text, x, y)


@pytest.mark.parametrize("seed", range(150))
def test_the_normal_form_agrees_with_the_reference_parser(seed: int) -> None:
    """On points that keep the ties; the numbers are dyadic, so boxes and rows are exact."""
    draw = random.Random(seed)
    text = random_query(draw)
    oracle, prop = Oracle(reference().parse_query_string(text)), parse_property(text)
    assert prop.layout is not None
    spread = spread_of(prop)
    assert prop.inputs == spread.free <= 6
    assert prop.outputs == 6 + len(prop.layout.extras)
    for _ in range(60):
        free = np.array([draw.choice(GRID) for _ in range(prop.inputs)])
        values = np.array([draw.choice(GRID) for _ in range(6)])
        declared = spread.declared(free)
        assert spread.holds(free, declared) and np.array_equal(spread.free_of(declared), free)
        truth = oracle.holds((declared.tolist(), values.tolist()))
        assert violates_exactly(prop, free, values) == truth, (text, free, values)
        assert not truth or margin(prop, declared, values) >= 0


def test_equal_inputs_are_one_free_input() -> None:
    prop = parse_property(HEAD + BOX + "(assert (== C[1] A[1]))(assert (== b d))(assert (> (- Y[0] Z[0]) 0.5))")
    layout, spread = prop.layout, spread_of(prop)
    assert layout is not None and layout.extras == ()
    assert spread.sources.tolist() == [0, 1, 2, 3, 1, 2] and spread.copies_only
    assert prop.inputs == 4 and prop.boxes[0].upper.tolist() == [5, 5, 5, 5]
    assert prop.clauses[0].rows.columns.tolist() == [2, 4]


def test_affine_ties_move_the_bounds_of_both_inputs() -> None:
    text = "(assert (== C[0] (- 1.0 (* 2.0 A[0]))))(assert (<= Y[0] 0.0))(assert (< C[0] 2.0))"
    prop = parse_property(HEAD + BOX + text)
    spread = spread_of(prop)
    # C[0] in [-2, 2) and A[0] in [-2, 5]: A[0] = (1 - C[0]) / 2 in (-1/2, 3/2]
    assert prop.inputs == 5
    assert (prop.boxes[0].lower[0], prop.boxes[0].upper[0]) == (-0.5, 1.5)
    assert prop.boxes[0].inner_lower[0] == np.nextafter(-0.5, 0)
    assert spread.declared(np.array([0.25, 0, 0, 0, 0]))[3] == 0.5


def test_ties_hold_for_chains_and_leave_cycles_as_rows() -> None:
    chain = "(assert (== A[0] A[1]))(assert (== A[1] C[0]))(assert (== C[0] (* 3.0 A[0])))(assert (<= Y[0] 0.0))"
    prop = parse_property(HEAD + BOX + chain)
    assert spread_of(prop).sources.tolist() == [0, 0, 1, 0, 2, 3]
    # x = 3 x is left: it bounds x to 0 from both sides
    assert prop.boxes[0].lower[0] == prop.boxes[0].upper[0] == 0


def test_contradicting_ties_are_an_empty_region() -> None:
    text = "(assert (== A[0] C[0]))(assert (== A[0] (+ C[0] 1.0)))(assert (<= Y[0] 0.0))"
    assert parse_property(HEAD + BOX + text).clauses == ()


def test_equations_inside_a_disjunction_tie_nothing() -> None:
    prop = parse_property(HEAD + BOX + "(assert (or (== A[0] C[0]) (<= Y[0] 0.0)))")
    assert prop.inputs == 6 and len(prop.clauses) == 2
    assert prop.layout is not None and prop.layout.extras == ((0,), (6,))


def test_products_are_shared_and_sorted() -> None:
    prop = parse_property(HEAD + BOX + "(assert (<= (+ (* Y[1] A[0]) (* 2.0 A[0] Y[1]) (* Y[0] Y[0] b)) 1.0))")
    assert prop.layout is not None
    assert sorted(prop.layout.extras) == sorted([tuple(sorted((0, 7))), tuple(sorted((5, 5, 4)))])
    values = np.array([0.0, 0.0, 3.0, 7.0, 0.0, 0.0])
    columns = with_extras(prop.layout, np.array([2.0, 0, 5, 0, 0, 0]), values)
    assert sorted(columns[6:]) == [14.0, 45.0]


def test_products_that_cancel_need_no_column() -> None:
    text = "(assert (<= (- (* Y[0] Y[1]) (* Y[1] Y[0]) Z[0]) 1.0))"
    prop = parse_property(HEAD + BOX + text)
    assert prop.layout is not None and prop.layout.extras == ()
    assert prop.clauses[0].rows.columns.tolist() == [4]


def test_unbounded_inputs_have_the_name_of_the_file() -> None:
    box = BOX.replace("(<= C[1] 5.0)", "(<= C[1] Y[0])")
    with pytest.raises(PropertyError, match=r"the input C\[1\] has no upper bound"):
        parse_property(HEAD + box + "(assert (<= Y[0] 0.0))")
    assert parse_property(HEAD + box + "(assert (== A[1] C[1]))(assert (<= Y[0] 0.0))").inputs == 5


def test_relations_of_inputs_bound_them() -> None:
    box = BOX.replace("(<= C[1] 5.0)", "(<= (+ (* 2.0 C[1]) b) A[1])").replace("(>= b -2.0)", "(> b C[0])")
    prop = parse_property(HEAD + box + "(assert (<= Y[0] 0.0))")
    # b > C[0] >= -2, and 2 C[1] <= A[1] - b <= 5 + 2
    assert prop.boxes[0].lower[2] == -2 and prop.boxes[0].upper[4] == 3.5
    text = HEAD + BOX.replace("(>= d -2.0)", "(>= (* 3.0 d) A[0])").replace("(>= A[0] -2.0)", "(>= A[0] -1.0)")
    third = parse_property(text + "(assert (<= Y[0] 0.0))").boxes[0]
    assert third.lower[5] < Fraction(-1, 3) < third.inner_lower[5] == np.nextafter(third.lower[5], 0)


def test_relations_count_in_their_own_disjunct_only() -> None:
    box = BOX.replace("(<= C[1] 5.0)", "(<= C[1] 100.0)").replace("(<= C[1] 100.0)", "(<= Y[1] 9.0)")
    both = "(assert (or (and (<= C[1] A[0]) (<= Y[0] 0.0)) (and (<= C[1] (- A[0] 10.0)) (<= Y[0] 1.0))))"
    prop = parse_property(HEAD + box + both)
    assert len(prop.boxes) == 1 and prop.boxes[0].upper[4] == 5  # the second one is empty: C[1] >= -2 > 5 - 10
    with pytest.raises(PropertyError, match=r"C\[1\] has no upper bound"):
        parse_property(HEAD + box + "(assert (or (<= C[1] A[0]) (<= Y[0] 0.0)))")


def test_a_plain_query_needs_no_layout() -> None:
    one = "(vnnlib-version <2.0>)(declare-network N (declare-input X real [1]) (declare-output Y real [1]))"
    assert parse_property(one + "(assert (and (<= X[0] 1.0) (>= X[0] 0.0) (<= Y[0] 1.0)))").layout is None


def test_version_1_relations_of_inputs_and_outputs_are_read() -> None:
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
    text += "".join(f"(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in (0, 1))
    prop = parse_property(text + "(assert (<= Y_0 (+ X_0 (* 0.5 X_1 Y_0))))", inputs=2, outputs=1)
    assert prop.layout is not None and prop.v2 is None
    assert sorted(prop.layout.extras) == [(0,), (1, 2)]
    assert prop.outputs == 3
    value = np.array([Fraction(3, 4)], dtype=np.float64)
    assert violates_exactly(prop, np.array([0.5, 1.0]), value)
    assert not violates_exactly(prop, np.array([0.25, 1.0]), value)
