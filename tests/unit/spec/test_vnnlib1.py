"""VNN-LIB 1.0 in the shapes found in published files, and its normal form."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from verinet.errors import PropertyError
from verinet.spec import Property, parse_property, read_property
from verinet.spec.normal import EMPTY, FALSE, NO_ROWS
from verinet.spec.reader import STRICT_INPUTS


def declare(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def unit_box(inputs: int) -> str:
    return "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))\n" for i in range(inputs))


def dense(prop: Property, clause: int) -> list[tuple[list[float], float, bool]]:
    """Rows as (weights, bound, strict)."""
    rows, result = prop.clauses[clause].rows, []
    for i in range(len(rows)):
        weights = [0.0] * prop.outputs
        for k in range(rows.starts[i], rows.starts[i + 1]):
            weights[rows.columns[k]] = rows.values[k]
        result.append((weights, float(rows.bounds[i]), bool(rows.strict[i])))
    return result


def test_plain_conjunction() -> None:
    text = declare(2, 3) + unit_box(2) + "(assert (<= Y_1 Y_0))(assert (>= Y_2 0.5))(assert (< Y_0 2)) ; end"
    prop = parse_property(text)
    assert (prop.inputs, prop.outputs, len(prop.boxes), len(prop.clauses)) == (2, 3, 1, 1)
    assert dense(prop, 0) == [([-1, 1, 0], 0, False), ([0, 0, -1], -0.5, False), ([1, 0, 0], 2, True)]
    assert prop.boxes[0].lower.tolist() == [0, 0]
    assert prop.boxes[0].upper.tolist() == [1, 1]
    assert prop.notes == ()
    assert prop.v2 is None


def test_robustness_in_both_directions() -> None:
    for term in ("(and (>= Y_{} Y_1))", "(and (<= Y_1 Y_{}))", "(>= Y_{} Y_1)"):
        terms = "\n".join(term.format(j) for j in (0, 2))
        prop = parse_property(declare(1, 3) + unit_box(1) + f"(assert (or\n{terms}\n))")
        assert [dense(prop, i) for i in range(2)] == [[([-1, 1, 0], 0, False)], [([0, 1, -1], 0, False)]]


def test_product_of_input_and_output_disjunctions() -> None:
    boxes = "(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))"
    prop = parse_property(declare(1, 2) + boxes + "(assert (or (and (<= Y_0 1)) (and (<= Y_1 1))))")
    assert [(c.box, dense(prop, i)[0][0]) for i, c in enumerate(prop.clauses)] == [
        (0, [1, 0]),
        (0, [0, 1]),
        (1, [1, 0]),
        (1, [0, 1]),
    ]
    assert [(b.lower[0], b.upper[0]) for b in prop.boxes] == [(0, 1), (2, 3)]


def test_disjunction_of_large_boxes_shares_equal_ones() -> None:
    def part(value: float, side: str) -> str:
        return "(and " + " ".join(f"(>= X_{i} {value}) (<= X_{i} {value})" for i in range(40)) + f" ({side} Y_0 0.5))"

    parts = [part(0.0, "<="), part(0.0, ">="), part(0.25, "<=")]
    prop = parse_property(declare(40, 1) + f"(assert (or {' '.join(parts)}))")
    assert [c.box for c in prop.clauses] == [0, 0, 1]
    assert (prop.boxes[1].lower == 0.25).all()
    assert (prop.boxes[1].inner_upper == 0.25).all()


def test_mix_of_a_disjunction_and_a_plain_row() -> None:
    text = declare(1, 2) + unit_box(1) + "(assert (or (and (<= Y_0 0)) (and (>= Y_0 1))))(assert (<= Y_1 3))"
    prop = parse_property(text)
    assert [len(c.rows) for c in prop.clauses] == [2, 2]
    assert all(any(row == ([0, 1], 3, False) for row in dense(prop, i)) for i in range(2))


def test_numbers_are_rounded_outward_and_inward() -> None:
    box = parse_property(declare(1, 1) + "(assert (>= X_0 0.1))(assert (<= X_0 0.7))(assert (<= Y_0 0))").boxes[0]
    assert (box.lower[0], box.inner_lower[0]) == (math.nextafter(0.1, 0), 0.1)  # float("0.1") is above one tenth
    assert (box.upper[0], box.inner_upper[0]) == (math.nextafter(0.7, 1), 0.7)
    point = parse_property(declare(1, 1) + "(assert (= X_0 0.1))(assert (<= Y_0 0))").boxes[0]
    assert point.lower[0] < point.upper[0]
    assert point.inner_lower[0] > point.inner_upper[0]  # no float64 is one tenth


def test_several_bounds_on_one_input_intersect() -> None:
    text = "(assert (>= X_0 0))(assert (>= X_0 0.25))(assert (<= 0.125 X_0))(assert (<= X_0 3))(assert (>= 2 X_0))"
    box = parse_property(declare(1, 1) + text + "(assert (<= Y_0 0))").boxes[0]
    assert (box.lower[0], box.upper[0]) == (0.25, 2)


def test_arithmetic_and_both_sides() -> None:
    text = (
        declare(2, 2)
        + unit_box(2)
        + "(assert (<= (* 2 X_0) (+ 1 0.5 (- 0.5))))(assert (>= (- 3 X_1 0.5) 2))"
        + "(assert (<= (+ (* 2 Y_0 3) (- Y_1) Y_1 1) (- Y_1 (* -0.5 2) Y_0)))"
    )
    prop = parse_property(text)
    assert prop.boxes[0].upper.tolist() == [0.5, 0.5]
    assert dense(prop, 0) == [([7, -1], 0, False)]


def test_equality_is_two_rows_and_unequal_two_clauses() -> None:
    for sign in ("=", "=="):
        prop = parse_property(declare(1, 1) + unit_box(1) + f"(assert ({sign} Y_0 2))")
        assert dense(prop, 0) == [([1], 2, False), ([-1], -2, False)]
    prop = parse_property(declare(1, 1) + unit_box(1) + "(assert (!= Y_0 2))")
    assert [dense(prop, i) for i in range(2)] == [[([1], 2, True)], [([-1], -2, True)]]


def test_duplicates_are_removed() -> None:
    text = declare(1, 2) + unit_box(1) + "(assert (<= Y_0 Y_1))(assert (>= Y_1 Y_0))(assert (<= (* 1.0 Y_0) Y_1))"
    assert len(parse_property(text).clauses[0].rows) == 1
    text = declare(1, 1) + unit_box(1) + "(assert (or (<= Y_0 1) (and (<= Y_0 1) (<= Y_0 1.0)) (>= 1 Y_0)))"
    assert len(parse_property(text).clauses) == 1


def test_nested_disjunctions_and_conjunctions() -> None:
    inner = "(and (or (<= Y_0 0) (<= Y_1 0)) (or (>= Y_0 5) (and (>= Y_1 5) (>= Y_0 4))))"
    prop = parse_property(declare(1, 2) + unit_box(1) + f"(assert (or {inner} (or (<= Y_0 -9) (or (<= Y_1 -9)))))")
    assert len(prop.clauses) == 6


def test_deep_nesting_needs_no_recursion() -> None:
    depth = 3000
    chain = "(and (<= Y_0 1) (or (<= Y_0 2) " * depth + "(<= Y_0 3)" + "))" * depth
    prop = parse_property(declare(1, 1) + unit_box(1) + f"(assert (or {chain} (>= Y_0 9)))")
    assert [len(clause.rows) for clause in prop.clauses] == [2, 2, 1]
    total = "(+ Y_0 " * depth + "1" + ")" * depth
    prop = parse_property(declare(1, 1) + unit_box(1) + f"(assert (<= {total} 0))")
    assert dense(prop, 0) == [([depth], -1, False)]


def test_empty_disjuncts_are_dropped() -> None:
    text = declare(1, 1) + "(assert (or (and (>= X_0 2) (<= X_0 1)) (and (>= X_0 0) (<= X_0 1))))(assert (<= Y_0 0))"
    prop = parse_property(text)
    assert (len(prop.boxes), len(prop.clauses), prop.notes) == (1, 1, ())


def test_empty_region_is_noted() -> None:
    prop = parse_property(declare(2, 1) + "(assert (>= X_0 2))(assert (<= X_0 1))(assert (<= Y_0 0))")
    assert (prop.boxes, prop.clauses, prop.notes) == ((), (), (EMPTY,))
    prop = parse_property(declare(1, 1) + unit_box(1) + "(assert (<= Y_0 Y_0))(assert (or (< 1 1) (<= 2 1)))")
    assert (prop.clauses, prop.notes) == ((), (FALSE,))


def test_no_rows_means_any_output() -> None:
    prop = parse_property(declare(1, 1) + unit_box(1))
    assert len(prop.clauses) == 1
    assert len(prop.clauses[0].rows) == 0
    assert prop.notes == (NO_ROWS,)


def test_strict_input_bounds() -> None:
    prop = parse_property(declare(1, 1) + "(assert (> X_0 0))(assert (< X_0 1))(assert (<= Y_0 0))")
    box = prop.boxes[0]
    assert (box.lower[0], box.upper[0]) == (0, 1)
    assert (box.inner_lower[0], box.inner_upper[0]) == (5e-324, math.nextafter(1, 0))
    assert prop.notes == (STRICT_INPUTS,)


def test_free_layout() -> None:
    text = (
        "\ufeff; comment (with parentheses)\r\n(declare-fun X_0 () Real)\r\n( declare-const\tY_0   Real )\n"
        "(assert\n( and(<= X_0 1) ; upper )\n(>= X_0 -1e0)))(assert(or(and(<= Y_0\n1))(>= Y_0 .5e1)))"
    )
    prop = parse_property(text.lstrip("\ufeff"))
    assert (prop.boxes[0].lower[0], prop.boxes[0].upper[0], len(prop.clauses)) == (-1, 1, 2)


def test_files(tmp_path: Path) -> None:
    text = declare(1, 1) + unit_box(1) + "(assert (<= Y_0 0))"
    plain, packed = tmp_path / "a.vnnlib", tmp_path / "a.vnnlib.gz"
    plain.write_text("\ufeff" + text, encoding="utf-8")
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, str(packed)):
        prop = read_property(path, inputs=1, outputs=1)
        assert prop.name == str(path)
        assert len(prop.clauses) == 1


def test_products_are_capped() -> None:
    choice = "(assert (or (<= Y_0 {}) (>= Y_0 {})))"
    text = declare(1, 1) + unit_box(1) + "".join(choice.format(k, k + 0.5) for k in range(10))
    assert len(parse_property(text).clauses) == 1024
    with pytest.raises(PropertyError, match="1024 clauses.*cap of 1000"):
        parse_property(text, cap=1000)
    plain = declare(1, 1) + unit_box(1) + "(assert (or " + " ".join(f"(<= Y_0 {k})" for k in range(50)) + "))"
    assert len(parse_property(plain, cap=10).clauses) == 50  # listed one by one in the file: no product


@pytest.mark.parametrize("odd", ["", "(assert (<= (+ X_0 0) 5))", "(assert (and (<= X_3 9) (or (<= Y_0 1))))"])
def test_bulk_and_general_reading_agree(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, count = np.random.default_rng(0), 60
    lines = [declare(count, 2)]
    for i in range(count):
        low, high = draw.uniform(-1, 0), draw.uniform(0, 1)
        lines.append(f"(assert (<= X_{i} {high:.4f}))(assert (>= {low + 1:.3e} X_{i}))(assert (>= X_{i} {low}))")
    parts = [
        "(and " + " ".join(f"(>= X_{i} {draw.uniform(-2, 0):.3f})" for i in range(20)) + f" (<= Y_0 {k}.1))"
        for k in range(8)
    ]
    text = "\n".join([*lines, odd, f"(assert (or {' '.join(parts)} (>= Y_1 Y_0) (<= 3.5 Y_1)))"])
    bulk = parse_property(text)
    for name in ("_asserts", "_declares", "_assert_or"):
        monkeypatch.setattr(f"verinet.spec.scan.Scanner.{name}", lambda self, position: 0)
    assert_same(bulk, parse_property(text))


def assert_same(left: Property, right: Property) -> None:
    assert (left.inputs, left.outputs, left.notes) == (right.inputs, right.outputs, right.notes)
    assert len(left.boxes) == len(right.boxes)
    for one, other in zip(left.boxes, right.boxes, strict=True):
        for field in ("lower", "upper", "inner_lower", "inner_upper"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert [c.box for c in left.clauses] == [c.box for c in right.clauses]
    for i in range(len(left.clauses)):
        assert sorted(dense(left, i)) == sorted(dense(right, i))
