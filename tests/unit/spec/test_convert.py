"""Formulas written in either version mean exactly what they meant."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kits.vnnlib_oracle import GRID, HEAD, Oracle, random_query, reference
from verinet.errors import PropertyError
from verinet.spec import ExactProperty, Property, box, linf_ball, parse_property, to_vnnlib1, to_vnnlib2
from verinet.spec.property import Network2, Query2, Variable2
from verinet.spec.reader import STRICT_INPUTS, parse_formula
from verinet.spec.render import beyond_version_1, decimal, to_version_1, to_version_2


def same(left: Property, right: Property) -> bool:
    """Equal boxes, and clauses with equal rows over the same products."""
    return meaning(left) == meaning(right)


def meaning(prop: Property) -> tuple[object, ...]:
    boxes = [tuple(side.tobytes() for side in (b.lower, b.upper, b.inner_lower, b.inner_upper)) for b in prop.boxes]
    extras = prop.layout.extras if prop.layout is not None else ()
    values = prop.outputs - len(extras)
    clauses = set()
    for clause in prop.clauses:
        rows = clause.rows
        lines = []
        for k in range(len(rows)):
            part = slice(rows.starts[k], rows.starts[k + 1])
            codes = [(2 * c + 1,) if c < values else extras[c - values] for c in rows.columns[part].tolist()]
            largest = max(abs(v) for v in rows.values[part])
            terms = sorted(zip(codes, (rows.values[part] / largest).tolist(), strict=True))
            lines.append((tuple(terms), float(rows.bounds[k] / largest), bool(rows.strict[k])))
        clauses.add((boxes[clause.box], tuple(sorted(lines))))
    return prop.inputs, values, prop.layout.ties if prop.layout is not None else (), frozenset(clauses)


@pytest.mark.parametrize("seed", range(120))
def test_version_2_keeps_its_meaning(seed: int) -> None:
    draw = random.Random(seed)
    text = random_query(draw)
    written = to_version_2(parse_formula(text, "q"))
    assert parse_formula(written, "w").notes in ((), (STRICT_INPUTS,))
    assert same(parse_property(text), parse_property(written)), written
    before, after = Oracle(reference().parse_query_string(text)), Oracle(reference().parse_query_string(written))
    check = ExactProperty.parse(written)
    for _ in range(20):
        x, y = ([draw.choice(GRID) for _ in range(size)] for size in before.sizes)
        x = [*x[:3], *x[:3]] if draw.random() < 0.7 else x
        assert before.holds((x, y)) == after.holds((x, y)) == check.holds(x, y)


ONE = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
NUMBERS = ["0", "1", "-1.0", "0.1", "-0.1", "7e-1", "-3e-5", ".7", "1e20", "0.30000000000000004", "1.25E-2"]


@st.composite
def version_1(draw: st.DrawFn) -> str:
    """Boxes and rows as they occur in the competition, and a few that do not."""
    number = st.sampled_from(NUMBERS)

    def atom() -> str:
        left = draw(st.sampled_from(["X_0", "X_1", "Y_0", "Y_1", "(+ Y_0 (* 3 Y_1))", "(* 3 X_0)", "(- Y_0 X_1)"]))
        right = draw(st.one_of(number, st.sampled_from(["Y_0", "Y_1"])))
        return f"({draw(st.sampled_from(['<=', '>=', '<', '>', '=']))} {left} {right})"

    def formula(depth: int) -> str:
        if depth == 0:
            return atom()
        parts = " ".join(formula(depth - 1) for _ in range(draw(st.integers(1, 3))))
        return f"({draw(st.sampled_from(['and', 'or']))} {parts})"

    bounds = "".join(f"(assert (>= X_{i} -{draw(number).lstrip('-')}))(assert (<= X_{i} 30))\n" for i in (0, 1))
    return ONE + bounds + f"(assert {formula(draw(st.integers(0, 3)))})"


@given(version_1(), st.randoms(use_true_random=False))
def test_version_1_to_2_and_back(text: str, draw: random.Random) -> None:
    first = parse_formula(text, "first")
    second = parse_formula(to_version_2(first), "second")
    third = parse_formula(to_version_1(second), "third")
    properties = [parse_property(t) for t in (text, to_version_2(first), to_version_1(second))]
    assert same(properties[0], properties[1]) and same(properties[1], properties[2])
    oracle = Oracle(reference().parse_query_string(to_version_2(first)))
    checks = [ExactProperty(formula) for formula in (first, second, third)]
    grid = [0.1, 0.0, 1.0, -1.0, 0.7, 3e-5, 1e20, 1 / 3, 0.30000000000000004]
    for _ in range(10):
        x, y = [draw.choice(grid) for _ in range(2)], [draw.choice(grid) for _ in range(2)]
        assert len({check.holds(x, y) for check in checks} | {oracle.holds((x, y))}) == 1


@given(st.fractions(max_denominator=1 << 20).map(lambda f: Fraction(f.numerator, 2**20 * 5**7)))
def test_decimals_are_exact_and_in_the_grammar(value: Fraction) -> None:
    text = decimal(value)
    assert Fraction(text) == value and "." in text and "e" not in text


def test_integer_variables_get_whole_constants() -> None:
    head = "(vnnlib-version <2.0>)(declare-network N (declare-input K int64 [2]) (declare-output Y float32 []))"
    text = head + "(assert (<= (* 2 K[0]) 3))(assert (< Y 0.25))(assert (>= K[1] 0.5))"
    written = to_version_2(parse_formula(text, "q"))
    assert "(assert (<= (* 2 K[0]) 3))" in written and "(assert (< Y 0.25))" in written
    assert "(assert (>= (* 2 K[1]) 1))" in written
    reference().parse_query_string(written)


def test_declarations_of_a_network_are_taken_over() -> None:
    inputs = (Variable2("image", "input", "float32", (1, 2)), Variable2("scale", "input", "float32", ()))
    query = Query2((Network2("net", (*inputs, Variable2("Y", "output", "float32", (2,)))),))
    formula = parse_formula(ONE.replace("\n", "(declare-const X_2 Real)\n") + "(assert (<= X_2 (- Y_1 1e-3)))", "q")
    written = to_version_2(formula, query)
    assert "(declare-input scale float32 [])" in written
    assert "(assert (<= (+ scale (* -1.0 Y[1])) -0.001))" in written
    with pytest.raises(PropertyError, match="has 2 inputs and 2 outputs, the network 3 and 2"):
        to_version_2(parse_formula(ONE, "q"), query)


def test_version_1_cannot_hold_several_networks() -> None:
    with pytest.raises(PropertyError, match="one network only"):
        to_version_1(parse_formula(HEAD + "(assert (<= Y[0] 1.0))", "q"))


def test_what_version_1_tools_cannot_read_is_told() -> None:
    plain = ONE + "(assert (or (<= Y_0 Y_1) (>= Y_0 3)))(assert (<= X_0 1))"
    assert beyond_version_1(parse_formula(plain, "q")) == ()
    odd = ONE + "(assert (<= (* X_0 Y_1) X_1))(assert (< X_0 1))(assert (<= (+ Y_0 Y_1) 1))"
    assert len(beyond_version_1(parse_formula(odd, "q"))) == 4


def test_false_and_true_parts_are_written() -> None:
    text = ONE + "(assert (or (<= 1 0) (and (<= Y_0 1) (<= 0 1))))(assert (or (<= 0 1) (<= Y_1 0)))"
    for written in (to_version_2(parse_formula(text, "q")), to_version_1(parse_formula(text, "q"))):
        check = ExactProperty.parse(written)
        assert check.holds([0, 0], [1, 5]) and not check.holds([0, 0], [2, 5])


def test_properties_made_in_python_are_written_in_version_2() -> None:
    region = linf_ball(np.array([0.1, 0.7]), 0.05)
    made = parse_property(ONE + "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)))(assert (<= Y_0 Y_1))")
    prop = Property((region,), made.clauses, 2, 2)
    reference().parse_query_string(to_vnnlib2(prop))
    assert same(parse_property(to_vnnlib2(prop)), prop) and same(parse_property(to_vnnlib1(prop)), prop)
    with pytest.raises(PropertyError, match="verinet convert"):
        to_vnnlib1(parse_property(HEAD + "(assert (<= Y[0] 1.0))(assert (<= A[0] b))" + boxes()))


def boxes() -> str:
    names = ("A[0]", "A[1]", "b", "C[0]", "C[1]", "d")
    return "".join(f"(assert (and (<= {name} 1.0) (>= {name} 0.0)))" for name in names)


def test_the_box_helper_is_exact() -> None:
    assert same(parse_property(to_vnnlib2(plain_box())), plain_box())


def plain_box() -> Property:
    made = parse_property(ONE + "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)))(assert (<= Y_0 0.1))")
    return Property((box([1e-300, -5.0], [1e300, 1 / 3]),), made.clauses, 2, 2)
