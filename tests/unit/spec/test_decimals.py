"""Written decimals: both float64 neighbours, decided exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.spec.decimals import enclose, enclose_decimal, exact
from verinet.spec.tables import ExactRow, Numbers, RowTable

TOKENS = st.from_regex(r"[+-]?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@given(TOKENS)
def test_neighbours_of_any_decimal(token: str) -> None:
    value, pair = Fraction(token), enclose_decimal(token)
    assert pair is not None
    down, up = pair
    assert Fraction(down) <= value <= Fraction(up)
    assert (down == up) == (Fraction(float(token)) == value)
    assert down == up or math.nextafter(down, math.inf) == up
    assert exact(token) == value
    assert enclose(value) == pair


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_floats_written_in_full_stay_exact(value: float) -> None:
    assert enclose(Fraction(value)) == (value, value)


@pytest.mark.parametrize("token", ["0", "0.0", "-1", "1.", ".5", "0.500", "-0.25", "1e3", "5E-1", "+2", "-0.0"])
def test_exact_tokens(token: str) -> None:
    assert enclose_decimal(token) == (float(token), float(token))


@pytest.mark.parametrize(
    "token", ["", "-", "+", ".", "e5", "1e", "nan", "inf", "-inf", "1_000", "0x1p3", "1..2", "--1", "X_0", "1 2", "٣"]
)
def test_what_is_no_number(token: str) -> None:
    assert enclose_decimal(token) is None
    assert exact(token) is None


@pytest.mark.parametrize(
    "token", ["1e999", "-1e999", "1e999999999", "1e-999999999", "9" * 5000, "1.7976931348623157e308"]
)
def test_numbers_that_float64_cannot_enclose(token: str) -> None:
    assert enclose_decimal(token) is None


def test_tiny_numbers_are_enclosed() -> None:
    assert enclose_decimal("1e-400") == (0.0, 5e-324)
    assert enclose_decimal("-1e-400") == (-5e-324, 0.0)


def test_strict_input_bounds_keep_the_closed_outer_side() -> None:
    numbers = Numbers()
    upper = numbers.add(Fraction(1, 2), upper=True, strict=True)
    lower = numbers.add(Fraction(1, 2), upper=False, strict=True)
    assert (numbers.down[upper], numbers.up[upper]) == (math.nextafter(0.5, 0), 0.5)
    assert (numbers.down[lower], numbers.up[lower]) == (0.5, math.nextafter(0.5, 1))


def test_row_bounds_are_rounded_up() -> None:
    table = RowTable()
    rows = table.rows([table.add(ExactRow((1,), (Fraction(1),), Fraction(sign, 10), False)) for sign in (1, -1)], 1)
    assert Fraction(rows.bounds[0]) >= Fraction(1, 10)
    assert rows.bounds[1] == math.nextafter(-0.1, 0)  # float("-0.1") lies below minus one tenth


def test_a_factor_makes_decimal_weights_exact() -> None:
    table = RowTable()
    weights = (Fraction(1, 10), Fraction(-1, 4), Fraction(7, 1000))
    rows = table.rows([table.add(ExactRow((1, 3, 5), weights, Fraction(3, 10), False))], 3)
    assert rows.weight_error == 0.0
    ratio = [Fraction(v) / w for v, w in zip(rows.values.tolist(), weights, strict=True)]
    assert ratio[0] == ratio[1] == ratio[2] > 0
    assert Fraction(1, 2) <= ratio[0] <= 2
    assert rows.bounds[0] >= ratio[0] * Fraction(3, 10)


@pytest.mark.parametrize("text", ["0.1234567", "-0.7654321", "1.1", "-1.3", "0.01"])
def test_bounds_of_scaled_rows_are_rounded_up(text: str) -> None:
    table = RowTable()
    rows = table.rows([table.add(ExactRow((1, 3), (Fraction(3, 10), Fraction(-1, 7)), Fraction(text), False))], 3)
    scaled = Fraction(text) * (Fraction(float(rows.values[0])) / Fraction(3, 10))
    assert rows.weight_error == 0.0
    assert Fraction(math.nextafter(rows.bounds[0], -math.inf)) < scaled <= Fraction(float(rows.bounds[0]))


def test_weights_that_no_factor_makes_exact_carry_their_error() -> None:
    table = RowTable()
    weights = (Fraction("0.1234567890123456789"), Fraction("1.0000000000000000001"))
    rows = table.rows([table.add(ExactRow((1, 3), weights, Fraction(0), False))], 3)
    assert rows.weight_error == 2.0**-53
    for value, weight in zip(rows.values.tolist(), weights, strict=True):
        assert abs(Fraction(value) - weight) <= weight * Fraction(2.0**-53)
