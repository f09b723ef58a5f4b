"""Choices between two linear maps by the sign of a third, written with one |.|.

Exporters write a Householder activation as Where(t > 0, x, Hx), or as Cast(t > 0) * x + Cast(t <= 0) * Hx. Either is
b + [t > 0] d with linear b, d and t, and d is w t up to the rounding of the weights. For every w,

    b + [t > 0] d = (b + d/2) + w |t| / 2 + s (d - w t) / 2,   s = 1 where t > 0 and -1 elsewhere,

which is continuous but for the last term. That one is dropped where it is exactly 0, and bounded by its size otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from verinet.frontends.builder import Variable, parameter
from verinet.frontends.call import Call
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, subtract
from verinet.frontends.linear_terms import Term, Terms, terms_of
from verinet.frontends.tensors import Array
from verinet.ir.graph import Node, Shape
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Broadcast, Reshape
from verinet.ops.sorting.remainder import Remainder

_SMALL = 1e-4
"""How far d may be from a multiple of t, relative, for the rewriting to pay."""


@dataclass(frozen=True, slots=True)
class Mask:
    """constant + factor * [t > 0], entry by entry; `t` has the shape of the mask."""

    t: Variable
    constant: float
    factor: float


def merged(call: Call, found: Variable) -> Variable:
    """The value of a sum node with its choices written by |.|, or the node itself where that does not fit."""
    node = call.builder.nodes[found.node]
    if not isinstance(node.op, Add | Subtract):
        return found
    split = _base_and_difference(call, node)
    result = None if split is None else chosen(call, *split, node.shape)
    return found if result is None else Variable(result.node, found.shape, found.dtype)


def chosen(call: Call, t: Variable, base: Variable | None, difference: Variable, shape: Shape) -> Variable | None:
    """base + [t > 0] * difference by one |.|; None where the difference is no multiple of t."""
    slopes = _slopes(call, t, difference, shape)
    if slopes is None:
        return None
    w, rest = slopes
    builder = call.builder
    middle = builder.scale(difference, np.asarray(0.5))
    middle = middle if base is None else add(call, base, middle)
    result = add(call, middle, builder.scale(_absolute(call, t), w * 0.5))
    return add(call, result, _remainder(call, t, rest, shape)) if rest else result


def _absolute(call: Call, t: Variable) -> Variable:
    """|t|; the same node for all choices by the same t."""
    for position in range(t.node + 1, len(call.builder.nodes)):
        node = call.builder.nodes[position]
        if node.inputs == (t.node,) and isinstance(node.op, Elementwise) and node.op.function.name == "Abs":
            return Variable(position, node.shape, t.dtype)
    function = scalar_function("Abs", {})
    if function is None:
        raise call.unsupported()
    return apply(call, function, t)


def _base_and_difference(call: Call, node: Node) -> tuple[Variable, Variable | None, Variable] | None:
    """t, b and d of b + [t > 0] d; b is None for zero."""
    signs = (1.0, 1.0 if isinstance(node.op, Add) else -1.0)
    t: Variable | None = None
    bases: list[tuple[float, Variable]] = []
    differences: list[tuple[float, Variable]] = []
    for source, sign in zip(node.inputs, signs, strict=True):
        masked = _masked(call, source)
        if masked is None:
            bases.append((sign, _variable(call, source)))
            continue
        mask, value = masked
        if t is not None and not _same(call, t, mask.t):
            return None
        t = mask.t
        if mask.constant:
            bases.append((sign * mask.constant, value))
        differences.append((sign * mask.factor, value))
    if t is None:
        return None
    return t, _sum(call, bases), _required(call, differences)


def _required(call: Call, parts: list[tuple[float, Variable]]) -> Variable:
    found = _sum(call, parts)
    if found is None:
        raise call.unsupported("without operands")
    return found


def _sum(call: Call, parts: list[tuple[float, Variable]]) -> Variable | None:
    """Sum of factor * value, with plain sums and differences for factors of 1 and -1."""
    result: Variable | None = None
    for factor, value in sorted(parts, key=lambda part: -part[0]):
        if result is None:
            result = call.builder.scale(value, np.asarray(factor))
        elif factor < 0:
            result = subtract(call, result, call.builder.scale(value, np.asarray(-factor)))
        else:
            result = add(call, result, call.builder.scale(value, np.asarray(factor)))
    return result


def _variable(call: Call, position: int) -> Variable:
    return Variable(position, call.builder.nodes[position].shape, np.dtype(np.float64))


def _masked(call: Call, position: int) -> tuple[Mask, Variable] | None:
    """The mask and the other factor of a product of the two."""
    node = call.builder.nodes[position]
    if not isinstance(node.op, Product):
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        mask = mask_of(call, one)
        if mask is not None:
            return mask, _variable(call, other)
    return None


def mask_of(call: Call, position: int) -> Mask | None:
    """A node as constant + factor * [t > 0], if it is a step behind uniform scalings, shifts and moves."""
    node = call.builder.nodes[position]
    op = node.op
    if isinstance(op, Elementwise):
        return Mask(_variable(call, node.inputs[0]), 0.0, 1.0) if op.function.name == "Step" else None
    if not isinstance(op, Negate | Shift | Scale | Reshape | Index | Broadcast):
        return None
    inner = mask_of(call, node.inputs[0])
    if inner is None:
        return None
    if isinstance(op, Negate):
        return Mask(inner.t, -inner.constant, -inner.factor)
    if isinstance(op, Shift | Scale):
        values = (op.offset if isinstance(op, Shift) else op.factor).double().unique()
        if values.numel() != 1:
            return None
        value = float(values)
        shifted = isinstance(op, Shift)
        constant = inner.constant + value if shifted else inner.constant * value
        return Mask(inner.t, constant, inner.factor if shifted else inner.factor * value)
    if isinstance(op, Index) and bool((op.index < 0).any()):
        return None
    return Mask(call.builder.emit(op, [inner.t], node.shape), inner.constant, inner.factor)


def _same(call: Call, left: Variable, right: Variable) -> bool:
    """Whether two nodes hold the same linear expression."""
    if left.node == right.node:
        return True
    if left.shape != right.shape:
        return False
    one, two = (terms_of(call.builder.nodes, v.node, v.shape) for v in (left, right))
    if one is None or two is None or len(one.terms) != len(two.terms):
        return False
    alike = (
        _equal(a, b) and np.array_equal(a.coefficients, b.coefficients)
        for a, b in zip(one.terms, two.terms, strict=True)
    )
    return all(alike) and np.array_equal(one.constant, two.constant)


def _equal(left: Term, right: Term) -> bool:
    return left.node == right.node and np.array_equal(left.index, right.index)


def _slopes(call: Call, t: Variable, difference: Variable, shape: Shape) -> tuple[Array, list[Term]] | None:
    """w of the shape of the output, and (d - w t) / 2 by terms; None where d is no multiple of t."""
    for reductions in (False, True):
        below, above = (terms_of(call.builder.nodes, v.node, shape, reductions=reductions) for v in (t, difference))
        if below is None or above is None:
            return None
        if _fits_exactly(above, below):
            return above.terms[0].coefficients / below.terms[0].coefficients, []
        found = _fitted(above, below)
        if found is not None:
            return found
    return None


def _fitted(above: Terms, below: Terms) -> tuple[Array, list[Term]] | None:
    """The w for which d is closest to w t, entry by entry, and half of what is left."""
    if np.any(above.constant) or np.any(below.constant):
        return None
    pairs = _paired(above, below)
    scale = np.asarray(sum(b * b for _, _, b in pairs))
    if not np.all(scale > 0):
        return None
    w = np.asarray(sum(a * b for _, a, b in pairs)) / scale
    limit = _SMALL * np.sqrt(scale) * np.abs(w).max(initial=1e-300)
    rest: list[Term] = []
    for term, a, b in pairs:
        left, size = a - w * b, np.abs(a) + np.abs(w * b)
        if np.any(np.abs(left) > limit):
            return None
        # The coefficients have passed a few roundings; 2^-48 is 32 of them.
        rest.append(Term(term.node, term.index, np.stack([left * 0.5, size * 2.0**-48])))
    return w, rest


def _fits_exactly(above: Terms, below: Terms) -> bool:
    """t is plus or minus one source, and d a multiple of the same: then d = w t holds exactly."""
    if len(above.terms) != 1 or len(below.terms) != 1 or np.any(above.constant) or np.any(below.constant):
        return False
    return _equal(above.terms[0], below.terms[0]) and bool((np.abs(below.terms[0].coefficients) == 1).all())


def _paired(above: Terms, below: Terms) -> list[tuple[Term, Array, Array]]:
    """Coefficients of both expressions for every source; per output entry no source entry occurs twice."""
    pairs: list[tuple[Term, Array, Array]] = []
    for node in sorted({term.node for term in (*above.terms, *below.terms)}):
        parts = [(t.index, t.coefficients, np.zeros_like(t.coefficients)) for t in above.terms if t.node == node]
        parts += [(t.index, np.zeros_like(t.coefficients), t.coefficients) for t in below.terms if t.node == node]
        index, a, b = (np.stack(column) for column in zip(*parts, strict=True))
        order = np.argsort(index, axis=0, kind="stable")
        index, a, b = (np.take_along_axis(column, order, axis=0) for column in (index, a, b))
        for place in range(1, len(index)):
            again = index[place] == index[place - 1]
            for column in (a, b):
                column[place] += np.where(again, column[place - 1], 0.0)
                column[place - 1][again] = 0.0
        kept = [k for k in range(len(index)) if np.any(a[k]) or np.any(b[k])]
        pairs += [(Term(node, index[k], a[k]), a[k], b[k]) for k in kept]
    return pairs


def _remainder(call: Call, t: Variable, rest: list[Term], shape: Shape) -> Variable:
    op = Remainder(
        torch.from_numpy(np.stack([term.index for term in rest])),
        parameter(np.stack([term.coefficients[0] for term in rest])),
        parameter(np.stack([term.coefficients[1] for term in rest])),
    )
    sources = [_variable(call, term.node) for term in rest]
    return call.builder.emit(op, [call.builder.broadcast(t, shape), *sources], shape)
