"""Random formulas: normal form, exact check and writer agree with direct evaluation of what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from verinet.spec import Property, holds_exactly, margin, parse_property, to_vnnlib1
from verinet.spec.exact import ExactProperty

INPUTS, OUTPUTS = 2, 3
NUMBERS = ["0", "1", "-1.0", "0.5", "0.1", "-0.1", "0.30", "7e-1", "1.25", "-3e-1", ".7", "0.2000000000000000111"]
POINTS = [0.0, 0.5, 0.1, -0.1, 0.3, 0.7, 1.0, -1.0, 1.25, -0.3, float(np.float32(0.1)), 0.2, -2.0, 2.0]
SPREAD = [k / 8 + 1 / 61 for k in range(-16, 17)]  # away from every boundary that the numbers above can make


@dataclass(frozen=True)
class Written:
    """A formula as text and as a function of exact inputs and outputs."""

    text: str
    holds: Callable[[list[Fraction], list[Fraction]], Any]

    def __call__(self, x: list[Fraction], y: list[Fraction]) -> bool:
        return bool(self.holds(x, y))


COMPARE: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def number(token: str) -> Written:
    return Written(token, lambda x, y: Fraction(token))


def plus(left: Written, right: Written) -> Written:
    return Written(f"(+ {left.text} {right.text})", lambda x, y: left.holds(x, y) + right.holds(x, y))


def minus(left: Written, right: Written) -> Written:
    return Written(f"(- {left.text} {right.text})", lambda x, y: left.holds(x, y) - right.holds(x, y))


def times(token: str, term: Written) -> Written:
    return Written(f"(* {token} {term.text})", lambda x, y: Fraction(token) * term.holds(x, y))


constants = st.sampled_from(NUMBERS).map(number)
output = st.integers(0, OUTPUTS - 1).map(lambda j: Written(f"Y_{j}", lambda x, y: y[j]))
single_input = st.integers(0, INPUTS - 1).map(lambda i: Written(f"X_{i}", lambda x, y: x[i]))
weights = st.sampled_from([n for n in NUMBERS if float(n) != 0])
sums = st.recursive(
    output | constants,
    lambda inner: st.builds(plus, inner, inner) | st.builds(minus, inner, inner) | st.builds(times, weights, inner),
    max_leaves=4,
)


def compare(operator: str, left: Written, right: Written, swap: bool) -> Written:
    if swap:
        left, right = right, left
    test = COMPARE[operator]
    return Written(f"({operator} {left.text} {right.text})", lambda x, y: test(left.holds(x, y), right.holds(x, y)))


def gather(word: str, parts: list[Written]) -> Written:
    combine = all if word == "and" else any
    text = f"({word} {' '.join(part.text for part in parts)})"
    return Written(text, lambda x, y: combine(part.holds(x, y) for part in parts))


scaled_input = single_input | st.builds(times, weights, single_input) | st.builds(plus, single_input, constants)
input_atoms = st.builds(
    compare, st.sampled_from(["<=", ">=", "<", ">", "="]), scaled_input, constants, swap=st.booleans()
)
output_atoms = st.builds(compare, st.sampled_from(list(COMPARE)), sums, sums | output, swap=st.booleans())
formulas = st.recursive(
    input_atoms | output_atoms,
    lambda inner: st.builds(gather, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=10,
)


def whole_text(formula: Written) -> str:
    names = [f"X_{i}" for i in range(INPUTS)] + [f"Y_{j}" for j in range(OUTPUTS)]
    box = "".join(f"(assert (and (>= X_{i} -2) (<= X_{i} 2.0)))" for i in range(INPUTS))
    return "".join(f"(declare-const {n} Real)" for n in names) + box + f"(assert {formula.text})"


def normal_form_holds(prop: Property, x: np.ndarray, y: list[Fraction], inner: bool) -> bool:
    """The normal form, rows in rationals, on outer or inner boxes."""
    for clause in prop.clauses:
        box, rows = prop.boxes[clause.box], clause.rows
        low, high = (box.inner_lower, box.inner_upper) if inner else (box.lower, box.upper)
        if not ((low <= x) & (x <= high)).all():
            continue
        good = True
        for i in range(len(rows)):
            span = range(rows.starts[i], rows.starts[i + 1])
            total = sum((Fraction(float(rows.values[k])) * y[rows.columns[k]] for k in span), Fraction(0))
            bound = Fraction(float(rows.bounds[i]))
            good &= total < bound if rows.strict[i] else total <= bound
        if good:
            return True
    return False


def fractions(values: list[float]) -> list[Fraction]:
    return [Fraction(value) for value in values]


def vectors(values: list[float], size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from(values), min_size=size, max_size=size)


@given(formulas, vectors(POINTS, INPUTS), vectors(POINTS, OUTPUTS))
def test_exact_check_and_enclosure_even_on_the_boundary(formula: Written, x: list[float], y: list[float]) -> None:
    text = whole_text(formula)
    direct = formula(fractions(x), fractions(y)) and all(-2 <= v <= 2 for v in x)
    assert ExactProperty.parse(text).holds(x, y) == direct
    assert holds_exactly(text, np.array(x), np.array(y)) == direct
    prop = parse_property(text)
    assume(all(clause.rows.weight_error == 0 for clause in prop.clauses))
    if direct:  # what is proved must cover what is written
        assert normal_form_holds(prop, np.array(x), fractions(y), inner=True)
        assert normal_form_holds(prop, np.array(x), fractions(y), inner=False)
        assert margin(prop, x, y) >= -1e-12


@given(formulas, vectors(SPREAD, INPUTS), vectors(SPREAD, OUTPUTS))
def test_normal_form_off_the_boundary(formula: Written, x: list[float], y: list[float]) -> None:
    rows_only = formula(fractions(x), fractions(y)) and all(-2 <= v <= 2 for v in x)
    prop = parse_property(whole_text(formula))
    near = fractions([v + 1e-9 * (k + 1) for k, v in enumerate(y)]), fractions([v - 1e-9 for v in y])
    assume(all(formula(fractions(x), other) == formula(fractions(x), fractions(y)) for other in near))
    assert normal_form_holds(prop, np.array(x), fractions(y), inner=False) == rows_only


@given(formulas)
def test_writing_and_reading_again(formula: Written) -> None:
    prop = parse_property(whole_text(formula))
    again = parse_property(to_vnnlib1(prop))
    assert len(again.clauses) == len(prop.clauses)
    for one, other in zip(prop.clauses, again.clauses, strict=True):
        for field in ("lower", "upper", "inner_lower", "inner_upper"):
            np.testing.assert_array_equal(
                getattr(prop.boxes[one.box], field), getattr(again.boxes[other.box], field), err_msg=field
            )
        for field in ("starts", "columns", "values", "bounds", "strict"):
            np.testing.assert_array_equal(getattr(one.rows, field), getattr(other.rows, field))


def test_exact_check_sees_the_last_bit() -> None:
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)"
        "(assert (>= X_0 0))(assert (<= X_0 0.1))(assert (>= Y_0 0.3))(assert (< Y_0 0.5))"
    )
    below_tenth = float(np.nextafter(0.1, 0))  # float(0.1) itself lies above one tenth, float(0.3) below three tenths
    assert not holds_exactly(text, [0.1], [0.4])
    assert holds_exactly(text, [below_tenth], [0.4])
    assert not holds_exactly(text, [0.0], [0.3])
    assert holds_exactly(text, [0.0], [float(np.nextafter(0.3, 1))])
    assert not holds_exactly(text, [0.0], [0.5])
    assert holds_exactly(text, [0.0], [float(np.nextafter(0.5, 0))])
    assert not holds_exactly(text, [0.0], [float("nan")])
    assert not holds_exactly(text, [float("inf")], [0.4])


def test_sizes_of_a_witness_are_checked() -> None:
    check = ExactProperty.parse("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))")
    try:
        check.holds([0.0, 1.0], [0.0])
    except Exception as problem:
        assert "2 inputs and 1 outputs" in str(problem)
    else:
        raise AssertionError("no error")


def test_margin_takes_the_best_clause() -> None:
    head = "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (>= X_0 0))"
    tail = "(assert (<= X_0 1))(assert (or (and (<= Y_0 1) (<= Y_1 5)) (>= Y_0 Y_1)))"
    prop = parse_property(head + tail)
    assert margin(prop, [0.5], [0.0, 2.0]) == 1.0
    assert margin(prop, [0.5], [4.0, 1.0]) == 3.0
    assert margin(prop, [0.5], [2.0, 4.0]) == -1.0
    assert margin(prop, [1.5], [0.0, 0.0]) == -float("inf")
    assert margin(parse_property(head + "(assert (<= X_0 1))"), [0.5], [2.0, 4.0]) == 0.0


def test_relations_between_inputs_and_outputs_are_checked_exactly() -> None:
    check = ExactProperty.parse("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 X_0))")
    assert check.holds([0.1], [0.1])
    assert not check.holds([0.1], [np.nextafter(0.1, 1)])
    product = ExactProperty.parse("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (> (* Y_0 Y_0) (* 3 X_0)))")
    assert not product.holds([3.0], [3.0])
    assert product.holds([3.0], [np.nextafter(3.0, 4)])  # the square differs from 9 by less than float64 can show
