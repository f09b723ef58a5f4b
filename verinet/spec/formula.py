"""Formulas over inputs and outputs between text and normal form: conjunctions with bounds, rows and disjunctions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verinet.spec.property import Query2
from verinet.spec.tables import ExactRow, Numbers, RowTable
from verinet.spec.terms import Linear, sum_of

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Equation:
    """`left = scale * right + offset` for two declared inputs, as an assertion states it."""

    left: int
    right: int
    scale: Fraction
    offset: Fraction


@dataclass(slots=True)
class Conjunction:
    """AND of input bounds, output rows and disjunctions.

    `blocks` are arrays of shape (bounds, 2): columns `2 * input + is_upper` and number (see `tables.Numbers`);
    `single` are bounds not yet packed into a block. `rows` are numbers of a `tables.RowTable`.
    """

    blocks: list[Ints] = field(default_factory=list)
    single: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    choices: list[list[Conjunction]] = field(default_factory=list)
    ties: list[Equation] = field(default_factory=list)  # what some of the `rows` say, for the inputs they tie
    false: bool = False

    def bounds(self) -> list[Ints]:
        """All input bounds as blocks."""
        if self.single:
            self.blocks.append(np.array(self.single, dtype=np.int32).reshape(-1, 2))
            self.single = []
        return self.blocks

    def is_choice(self) -> bool:
        """Whether this is nothing but one disjunction."""
        return len(self.choices) == 1 and not (self.blocks or self.single or self.rows or self.false)

    def absorb(self, other: Conjunction) -> None:
        """Become the conjunction of both."""
        self.blocks += other.blocks
        self.single += other.single
        self.rows += other.rows
        self.choices += other.choices
        self.ties += other.ties
        self.false |= other.false

    def _weight(self) -> int:
        return len(self.blocks) + len(self.single) + len(self.rows) + len(self.choices)


def all_of(parts: list[Conjunction]) -> Conjunction:
    """AND. Takes over its parts; the largest absorbs the others, so chains of nested ANDs cost linear time."""
    result = max(parts, key=Conjunction._weight)
    for part in parts:
        if part is not result:
            result.absorb(part)
    return result


def any_of(parts: list[Conjunction]) -> Conjunction:
    """OR. Takes over its parts; nested ORs are flattened."""
    if len(parts) == 1:
        return parts[0]
    nested = [part for part in parts if part.is_choice()]
    result = max(nested, key=lambda part: len(part.choices[0])) if nested else Conjunction(choices=[[]])
    for part in parts:
        if part is not result:
            result.choices[0].extend(part.choices[0] if part.is_choice() else [part])
    return result


@dataclass(slots=True)
class Atoms:
    """Turns comparisons into bounds and rows of one file."""

    numbers: Numbers
    table: RowTable
    strict_inputs: bool = False  # whether a strict bound on an input was seen

    def compare(self, operator: str, left: Linear, right: Linear) -> Conjunction:
        """`left operator right`. Raises OverflowError for numbers outside of float64."""
        difference = sum_of([left, right.scaled(Fraction(-1))])
        if operator in ("<=", "<"):
            return self.at_most_zero(difference, operator == "<")
        if operator in (">=", ">"):
            return self.at_most_zero(difference.scaled(Fraction(-1)), operator == ">")
        opposite = difference.scaled(Fraction(-1))
        strict = operator == "!="
        sides = [self.at_most_zero(difference, strict), self.at_most_zero(opposite, strict)]
        if strict:
            return any_of(sides)
        both = all_of(sides)
        both.ties += _ties(difference)
        return both

    def at_most_zero(self, term: Linear, strict: bool) -> Conjunction:
        """`term <= 0`, or `< 0`. Raises OverflowError for numbers outside of float64."""
        bound = -term.constant
        if not term.weights:
            return Conjunction(false=not (bound > 0 or (bound == 0 and not strict)))
        if len(term.weights) == 1:
            ((code, weight),) = term.weights.items()
            if _is_input(code):
                self.strict_inputs |= strict
                number = self.numbers.add(bound / weight, upper=weight > 0, strict=strict)
                return Conjunction(single=[(code + (weight > 0), number)])
            return Conjunction(rows=[self.table.add(ExactRow((code,), (weight,), bound, strict))])
        products = self.table.products
        codes = [products.code((code,)) if _is_input(code) else code for code in term.weights]
        ordered = sorted(zip(codes, term.weights.values(), strict=True))
        row = ExactRow(tuple(c for c, _ in ordered), tuple(w for _, w in ordered), bound, strict)
        return Conjunction(rows=[self.table.add(row)])


def _is_input(code: int) -> bool:
    return code >= 0 and code % 2 == 0


def _ties(difference: Linear) -> list[Equation]:
    """The equation `difference = 0` where it ties one input to another, with numbers that float64 can hold."""
    if len(difference.weights) != 2 or not all(map(_is_input, difference.weights)):
        return []
    (left, first), (right, second) = difference.weights.items()
    equation = Equation(left >> 1, right >> 1, -second / first, -difference.constant / first)
    moderate = Fraction(1, 10**6) <= abs(equation.scale) <= 10**6 and abs(equation.offset) <= 10**100
    return [equation] if moderate else []


@dataclass(frozen=True, slots=True)
class Formula:
    """A file as read: the formula itself, before it is multiplied out, with exact numbers.

    `inputs` and `values` count the declared inputs, and the declared hidden and output entries.
    """

    name: str
    root: Conjunction
    numbers: Numbers
    table: RowTable
    inputs: int
    values: int
    query: Query2 | None
    notes: tuple[str, ...]
    name_of: Callable[[int], str]  # what the file calls a code


def walk(root: Conjunction) -> Iterator[Conjunction]:
    """Every conjunction below `root` and itself, parents first. Uses no recursion: files nest as deep as they like."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        for choice in node.choices:
            stack.extend(choice)
