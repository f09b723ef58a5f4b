"""Linear terms over variables and products of variables, in rationals.

A code names what a weight belongs to: 2*i the declared input i, 2*j + 1 the hidden or output entry j, and -(k + 1) the
product number k of a `Products` table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

LARGEST_DEGREE = 16
_MOST_TERMS = 20_000


class NotSupportedError(ValueError):
    """A term that is well formed but that no prover here can take. Carries the fact for the user."""


class Products:
    """Products of codes, each distinct one once. A product of one code stands for an input among output rows."""

    def __init__(self) -> None:
        self.factors: list[tuple[int, ...]] = []
        self._codes: dict[tuple[int, ...], int] = {}

    def code(self, factors: Sequence[int]) -> int:
        """The code of a product of variables."""
        key = tuple(sorted(factors))
        if key not in self._codes:
            self.factors.append(key)
            self._codes[key] = -len(self.factors)
        return self._codes[key]

    def of(self, code: int) -> tuple[int, ...]:
        """The variables that a code is the product of."""
        return (code,) if code >= 0 else self.factors[-code - 1]


@dataclass(slots=True)
class Linear:
    """constant + sum weights[code] * value of the code."""

    constant: Fraction = Fraction(0)
    weights: dict[int, Fraction] = field(default_factory=dict)

    def scaled(self, factor: Fraction) -> Linear:
        weights = {v: w * factor for v, w in self.weights.items()} if factor else {}
        return Linear(self.constant * factor, weights)

    def add(self, code: int, weight: Fraction) -> None:
        total = self.weights.get(code, Fraction(0)) + weight
        if total:
            self.weights[code] = total
        else:
            self.weights.pop(code, None)


def sum_of(terms: list[Linear]) -> Linear:
    """Sum. Takes over its terms, the longest absorbs the others."""
    result = max(terms, key=lambda term: len(term.weights))
    for term in terms:
        if term is result:
            continue
        result.constant += term.constant
        for code, weight in term.weights.items():
            result.add(code, weight)
    return result


def product_of(terms: Sequence[Linear], products: Products) -> Linear:
    """Product, multiplied out. Raises NotSupportedError where it grows too large."""
    factor, open_terms = Fraction(1), [term for term in terms if term.weights]
    for term in terms:
        if not term.weights:
            factor *= term.constant
    if not factor or not open_terms:
        return Linear(factor)
    result = open_terms[0].scaled(factor)
    for term in open_terms[1:]:
        result = _times(result, term, products)
    return result


def _times(left: Linear, right: Linear, products: Products) -> Linear:
    if (len(left.weights) + 1) * (len(right.weights) + 1) > _MOST_TERMS:
        raise NotSupportedError(f"this product has more than {_MOST_TERMS} terms when multiplied out")
    result = Linear(left.constant * right.constant)
    for code, weight in left.weights.items():
        if right.constant:
            result.add(code, weight * right.constant)
    for code, weight in right.weights.items():
        if left.constant:
            result.add(code, weight * left.constant)
    for one, first in left.weights.items():
        for two, second in right.weights.items():
            factors = products.of(one) + products.of(two)
            if len(factors) > LARGEST_DEGREE:
                raise NotSupportedError(f"a product of more than {LARGEST_DEGREE} variables is not supported")
            result.add(products.code(factors), first * second)
    return result
