"""Bounds of inputs that follow from linear relations with bounded ones, as in `X_f[0] <= X_g[0]`, `X_g[0] <= 1`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from verinet.spec.decimals import enclose
from verinet.spec.property import Floats
from verinet.spec.tables import ExactRow
from verinet.spec.terms import Products

_PASSES = 10
_LONGEST = 50  # entries of a row: each one costs a sum over all others

Relation = tuple[tuple[int, ...], tuple[Fraction, ...], Fraction]
"""Inputs, weights and bound of `sum weights * inputs <= bound`."""


def relations(rows: Iterable[ExactRow], products: Products) -> list[Relation]:
    """The rows that relate inputs and nothing else, linearly."""
    found: list[Relation] = []
    for row in rows:
        factors = [products.of(code) for code in row.codes]
        if len(factors) <= _LONGEST and all(len(codes) == 1 and codes[0] % 2 == 0 for codes in factors):
            found.append((tuple(codes[0] >> 1 for codes in factors), row.weights, row.bound))
    return found


def fill(arrays: tuple[Floats, ...], known: Sequence[Relation]) -> None:
    """Give open sides of a box (lower, upper, inner lower, inner upper) the bounds that relations imply.

    Interval arithmetic in rationals on the outer sides, so the new sides enclose all points of the region.
    """
    for _ in range(_PASSES):
        changed = False
        for inputs, weights, bound in known:
            for place in range(len(inputs)):
                changed |= _fill_one(arrays, (inputs, weights, bound), place)
        if not changed:
            return


def _fill_one(arrays: tuple[Floats, ...], relation: Relation, place: int) -> bool:
    inputs, weights, bound = relation
    target, weight = inputs[place], weights[place]
    side = 1 if weight > 0 else 0
    if np.isfinite(arrays[side][target]):
        return False
    rest = Fraction(0)
    for k, (i, w) in enumerate(zip(inputs, weights, strict=True)):
        if k == place:
            continue
        least = float(arrays[0][i] if w > 0 else arrays[1][i])
        if not np.isfinite(least):
            return False
        rest += w * Fraction(least)
    try:
        down, up = enclose((bound - rest) / weight)
    except OverflowError:
        return False
    arrays[side][target], arrays[side + 2][target] = (up, down) if side else (down, up)
    return True
