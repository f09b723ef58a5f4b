"""Formulas over inputs and outputs between text and normal form: conjunctions with bounds, rows and disjunctions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verinet.spec.tables import ExactRow, Numbers, RowTable

Ints = npt.NDArray[np.int32]


class NotLinearError(ValueError):
    """A term that is well formed but that no prover here can take. Carries the fact for the user."""


@dataclass(slots=True)
class Linear:
    """constant + sum weights[v] * v, where v is 2*i for the input X_i and 2*j + 1 for the output Y_j."""

    constant: Fraction = Fraction(0)
    weights: dict[int, Fraction] = field(default_factory=dict)

    def scaled(self, factor: Fraction) -> Linear:
        weights = {v: w * factor for v, w in self.weights.items()} if factor else {}
        return Linear(self.constant * factor, weights)


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


def sum_of(terms: list[Linear]) -> Linear:
    """Sum. Takes over its terms, the longest absorbs the others."""
    result = max(terms, key=lambda term: len(term.weights))
    for term in terms:
        if term is result:
            continue
        result.constant += term.constant
        for v, w in term.weights.items():
            total = result.weights.get(v, Fraction(0)) + w
            if total:
                result.weights[v] = total
            else:
                result.weights.pop(v, None)
    return result


def product_of(terms: list[Linear]) -> Linear:
    """Product of constants and at most one other term. Raises NotLinearError."""
    factor, open_terms = Fraction(1), [term for term in terms if term.weights]
    for term in terms:
        if not term.weights:
            factor *= term.constant
    if len(open_terms) > 1:
        raise NotLinearError("a product of variables is not supported yet: only linear constraints are")
    return open_terms[0].scaled(factor) if open_terms else Linear(factor)


@dataclass(slots=True)
class Atoms:
    """Turns comparisons into bounds and rows of one file."""

    numbers: Numbers
    table: RowTable
    strict_inputs: bool = False  # whether a strict bound on an input was seen

    def compare(self, operator: str, left: Linear, right: Linear) -> Conjunction:
        """`left operator right`. Raises NotLinearError, or OverflowError for numbers outside of float64."""
        difference = sum_of([left, right.scaled(Fraction(-1))])
        if operator in ("<=", "<"):
            return self._at_most_zero(difference, operator == "<")
        if operator in (">=", ">"):
            return self._at_most_zero(difference.scaled(Fraction(-1)), operator == ">")
        opposite = difference.scaled(Fraction(-1))
        strict = operator == "!="
        sides = [self._at_most_zero(difference, strict), self._at_most_zero(opposite, strict)]
        return any_of(sides) if strict else all_of(sides)

    def _at_most_zero(self, term: Linear, strict: bool) -> Conjunction:
        bound = -term.constant
        if not term.weights:
            return Conjunction(false=not (bound > 0 or (bound == 0 and not strict)))
        if all(v & 1 for v in term.weights):
            ordered = sorted(term.weights.items())
            columns, weights = tuple(v >> 1 for v, _ in ordered), tuple(w for _, w in ordered)
            return Conjunction(rows=[self.table.add(ExactRow(columns, weights, bound, strict))])
        if len(term.weights) > 1:
            mixed = any(v & 1 for v in term.weights)
            raise NotLinearError(
                "a constraint that mixes inputs and outputs is not supported yet"
                if mixed
                else "a linear constraint on several inputs is not supported yet: only bounds on single inputs are"
            )
        ((variable, weight),) = term.weights.items()
        upper = weight > 0
        self.strict_inputs |= strict
        number = self.numbers.add(bound / weight, upper=upper, strict=strict)
        return Conjunction(single=[(variable + upper, number)])


def walk(root: Conjunction) -> Iterator[Conjunction]:
    """Every conjunction below `root` and itself, parents first. Uses no recursion: files nest as deep as they like."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        for choice in node.choices:
            stack.extend(choice)
