"""Interned numbers and output rows of one property file: each distinct one is made exact and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinet.spec.decimals import enclose, enclose_decimal, exact
from verinet.spec.property import Floats, Rows
from verinet.spec.terms import Products

_EXACT_INTEGER = 2**53
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = Fraction(1, 10**280), Fraction(10**280)


class Numbers(dict[str, int]):
    """Token -> number. `down` and `up` hold the float64 neighbours of each number (see `decimals`).

    A token that is no number gets -1, so that a bulk pass can look up whatever stands in the place of a number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down: list[float] = []
        self.up: list[float] = []
        self._fractions: dict[tuple[Fraction, str], int] = {}
        self._written: dict[int, tuple[Fraction, bool]] = {}

    def __missing__(self, token: str) -> int:
        pair = enclose_decimal(token)
        number = self._append(*pair) if pair is not None else -1
        self[token] = number
        return number

    def add(self, value: Fraction, *, upper: bool, strict: bool) -> int:
        """The number for an input bound `x <= value` (or >=, <, >). Raises OverflowError outside of float64.

        A strict bound keeps its closed outer side; its inner side is the next float64 that satisfies it.
        """
        key = (value, ("<" if upper else ">") if strict else "=")
        if key not in self._fractions:
            down, up = enclose(value)
            if strict and upper and down == up:
                down = math.nextafter(up, -math.inf)
            if strict and not upper and down == up:
                up = math.nextafter(down, math.inf)
            self._fractions[key] = self._append(down, up)
            self._written[self._fractions[key]] = value, strict
        return self._fractions[key]

    def written(self, number: int) -> tuple[Fraction, bool]:
        """The exact value of a number, and whether a bound at it is strict."""
        if len(self._written) < len(self.down):
            for token, known in self.items():
                value = exact(token) if known >= 0 else None
                if value is not None:
                    self._written[known] = value, False
        return self._written[number]

    def arrays(self) -> tuple[Floats, Floats]:
        """`down` and `up` of all numbers so far, each of shape (numbers,)."""
        return np.array(self.down, dtype=np.float64), np.array(self.up, dtype=np.float64)

    def _append(self, down: float, up: float) -> int:
        self.down.append(down)
        self.up.append(up)
        return len(self.down) - 1


@dataclass(frozen=True, slots=True)
class ExactRow:
    """sum weights[k] * value of codes[k] <= bound (or < where strict), in rationals. See `terms` for codes.

    Codes are those of hidden and output entries and of products; an input stands as a product of one.
    """

    codes: tuple[int, ...]
    weights: tuple[Fraction, ...]
    bound: Fraction
    strict: bool

    def holds(self, value: Callable[[int], Fraction]) -> bool:
        """Whether the row holds where `value` gives the value of each code."""
        total = sum((w * value(code) for code, w in zip(self.codes, self.weights, strict=True)), Fraction(0))
        return total < self.bound if self.strict else total <= self.bound


@dataclass(frozen=True, slots=True)
class _FloatRow:
    weights: tuple[float, ...]
    bound: float
    error: float


class RowTable:
    """Every distinct output row of a file, and the float64 `Rows` made from them."""

    def __init__(self) -> None:
        self.products = Products()
        self.exact: list[ExactRow] = []
        self._ids: dict[ExactRow, int] = {}
        self._floats: list[_FloatRow] = []
        self._made: dict[tuple[int, ...], Rows] = {}

    def add(self, row: ExactRow) -> int:
        """The row's number. Raises OverflowError when a weight or bound lies outside the range of float64."""
        if row not in self._ids:
            self._floats.append(_round_row(row))
            self._ids[row] = len(self.exact)
            self.exact.append(row)
        return self._ids[row]

    def rows(self, ids: Iterable[int], values: int) -> Rows:
        """The conjunction of some rows, without duplicates. Columns: `values` entries, and the products behind them."""
        key = tuple(dict.fromkeys(ids))
        if key not in self._made:
            self._made[key] = self._build(key, values)
        return self._made[key]

    def _build(self, ids: tuple[int, ...], values: int) -> Rows:
        exact, floats = [self.exact[i] for i in ids], [self._floats[i] for i in ids]
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(row.codes) for row in exact], out=starts[1:])
        columns = [code >> 1 if code >= 0 else values - code - 1 for row in exact for code in row.codes]
        return Rows(
            starts=starts,
            columns=np.array(columns, dtype=np.int64),
            values=np.array([w for row in floats for w in row.weights], dtype=np.float64),
            bounds=np.array([row.bound for row in floats], dtype=np.float64),
            strict=np.array([row.strict for row in exact], dtype=np.bool_),
            weight_error=max((row.error for row in floats), default=0.0),
        )


def _round_row(row: ExactRow) -> _FloatRow:
    """float64 weights, exact if a positive factor can make them so, and the bound rounded up."""
    if any(not _SMALLEST_WEIGHT < abs(w) < _LARGEST_WEIGHT for w in row.weights):
        raise OverflowError("outside the range of float64")  # the relative error of a subnormal weight is unbounded
    if not all(_is_float(w) for w in row.weights):
        factor = _integer_factor(row.weights)
        if factor is not None:
            return _FloatRow(tuple(float(w * factor) for w in row.weights), enclose(row.bound * factor)[1], 0.0)
    weights = tuple(float(w) for w in row.weights)
    inexact = any(Fraction(f) != w for f, w in zip(weights, row.weights, strict=True))
    return _FloatRow(weights, enclose(row.bound)[1], 2.0**-53 if inexact else 0.0)


def _is_float(value: Fraction) -> bool:
    return Fraction(float(value)) == value


def _integer_factor(weights: Sequence[Fraction]) -> Fraction | None:
    """A factor that makes all weights float64 exactly and keeps the size of the largest one within a factor of 2."""
    factor = Fraction(math.lcm(*(w.denominator for w in weights)), math.gcd(*(w.numerator for w in weights)))
    widest = max(abs(w) for w in weights)
    if widest * factor >= _EXACT_INTEGER:
        return None
    grown = factor.numerator.bit_length() - factor.denominator.bit_length()
    return factor / Fraction(2) ** grown
