"""Products of a property's variables as graph nodes: powers, then products of two, for all terms of a form at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from verinet.errors import InternalError
from verinet.frontends.builder import GraphBuilder, Variable
from verinet.frontends.elementwise import scalar_function
from verinet.ops.bilinear.product import Product
from verinet.ops.scalar import Elementwise

Codes = tuple[int, ...]


def add_products(builder: GraphBuilder, free: Variable, values: Variable, extras: Sequence[Codes]) -> Variable:
    """`values` with the products `extras` behind them, in order. For codes see `property.Layout`."""
    if not extras:
        return values
    builder.scope = "terms of the property"
    forms: dict[Codes, list[int]] = {}
    powers = [_powers(codes) for codes in extras]
    for number, term in enumerate(powers):
        forms.setdefault(tuple(exponent for _, exponent in term), []).append(number)
    parts, order = [values], list[int]()
    for form, numbers in forms.items():
        factors = [
            _raised(builder, _picked(builder, free, values, [powers[n][k][0] for n in numbers]), exponent)
            for k, exponent in enumerate(form)
        ]
        parts.append(_product(builder, factors))
        order += numbers
    joined = builder.concat(parts, 0)
    count = values.shape[0]
    places = np.empty(len(extras), dtype=np.int64)
    places[order] = np.arange(count, count + len(extras))
    return builder.index(joined, np.concatenate([np.arange(count, dtype=np.int64), places]))


def _powers(codes: Codes) -> list[tuple[int, int]]:
    """(code, exponent), largest exponents first, so that equal forms meet."""
    return sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0]))


def _picked(builder: GraphBuilder, free: Variable, values: Variable, codes: Sequence[int]) -> Variable:
    """The variables behind some codes, (len(codes),)."""
    index = np.array([code >> 1 for code in codes], dtype=np.int64)
    sides = np.array([code & 1 for code in codes], dtype=np.bool_)
    if not sides.any():
        return builder.index(free, index)
    if sides.all():
        return builder.index(values, index)
    joined = builder.concat([free, values], 0)
    return builder.index(joined, np.where(sides, index + free.shape[0], index))


def _raised(builder: GraphBuilder, base: Variable, exponent: int) -> Variable:
    if exponent == 1:
        return base
    function = scalar_function("Pow", {"exponent": float(exponent)})
    if function is None:
        raise InternalError(f"there is no power function for the exponent {exponent}")
    return builder.emit(Elementwise(function, 1), [base], base.shape)


def _product(builder: GraphBuilder, factors: Sequence[Variable]) -> Variable:
    result = factors[0]
    for factor in factors[1:]:
        result = builder.emit(Product(result.shape, factor.shape), [result, factor], result.shape)
    return result
