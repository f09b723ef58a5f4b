"""Small linear expressions of the graph, written as sums of scaled entries of earlier nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verinet.frontends.tensors import Array
from verinet.ir.graph import Node, Shape, total
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.reduce import Sum
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Broadcast, Reshape

MOST_TERMS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """Entry i of the expression gets coefficients.flat[i] * value(node).flat[index.flat[i]]; float64, own shape."""

    node: int
    index: Array
    coefficients: Array


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Sum of terms plus `constant`; each array has the shape of the expression. No two terms read the same entries."""

    terms: tuple[Term, ...]
    constant: Array


def terms_of(nodes: Sequence[Node], node: int, shape: Shape, *, reductions: bool = False) -> Terms | None:
    """A node, broadcast to `shape`, in terms of the nodes behind scalings, sums and moves; None if there are many.

    Sums over axes are sources of their own unless `reductions` is set. Coefficients are rounded once per operator
    passed.
    """
    begin = np.broadcast_to(np.arange(total(nodes[node].shape)).reshape(nodes[node].shape), shape)
    found: list[Term] = []
    constant = np.zeros(shape)
    waiting = [Term(node, begin, np.ones(shape))]
    while waiting:
        term = waiting.pop()
        summed = _summands(nodes, term) if reductions else None
        next_terms = _step(nodes, term, constant) if summed is None else summed
        if next_terms is None:
            _merge(found, term)
        else:
            waiting += next_terms
        if len(found) + len(waiting) > MOST_TERMS:
            return None
    kept = sorted((t for t in found if np.any(t.coefficients)), key=lambda t: t.node)
    return Terms(tuple(kept), constant)


def _merge(found: list[Term], term: Term) -> None:
    for place, other in enumerate(found):
        if other.node == term.node and np.array_equal(other.index, term.index):
            found[place] = Term(term.node, term.index, other.coefficients + term.coefficients)
            return
    found.append(term)


def _step(nodes: Sequence[Node], term: Term, constant: Array) -> list[Term] | None:
    """One operator back; None where the node is a source of its own. Adds to `constant` in place."""
    node = nodes[term.node]
    op = node.op
    if isinstance(op, Add | Subtract):
        signs = (1.0, 1.0 if isinstance(op, Add) else -1.0)
        return [
            Term(source, _through(nodes, source, node.shape, term.index), term.coefficients * sign)
            for source, sign in zip(node.inputs, signs, strict=True)
        ]
    if not isinstance(op, Scale | Shift | Negate | Reshape | Index | Broadcast):
        return None
    (source,) = node.inputs
    if isinstance(op, Scale):
        return [Term(source, term.index, term.coefficients * _spread(op.factor.numpy(), node.shape, term.index))]
    if isinstance(op, Shift):
        constant += term.coefficients * _spread(op.offset.numpy(), node.shape, term.index)
        return [Term(source, term.index, term.coefficients)]
    if isinstance(op, Negate):
        return [Term(source, term.index, -term.coefficients)]
    if isinstance(op, Index):
        picked = op.index.numpy().reshape(-1)[term.index]
        return [Term(source, np.maximum(picked, 0), np.where(picked < 0, 0.0, term.coefficients))]
    return [Term(source, _through(nodes, source, node.shape, term.index), term.coefficients)]


def _summands(nodes: Sequence[Node], term: Term) -> list[Term] | None:
    """The entries that a sum over axes adds up, one term for each place in the reduced axes."""
    node = nodes[term.node]
    if not isinstance(node.op, Sum):
        return None
    (source,) = node.inputs
    shape = nodes[source].shape
    own = np.moveaxis(np.arange(total(shape)).reshape(shape), node.op.axes, range(len(node.op.axes)))
    flat = own.reshape(-1, total(node.shape))
    return [Term(source, flat[place][term.index], term.coefficients) for place in range(flat.shape[0])]


def _through(nodes: Sequence[Node], source: int, out: Shape, index: Array) -> Array:
    """Flat positions in an input that is broadcast to, or viewed as, `out`."""
    shape = nodes[source].shape
    own = np.arange(total(shape)).reshape(shape)
    spread = own.reshape(out) if total(shape) == total(out) else np.broadcast_to(own, out)
    result: Array = spread.reshape(-1)[index]
    return result


def _spread(values: Array, shape: Shape, index: Array) -> Array:
    result: Array = np.broadcast_to(values.astype(np.float64), shape).reshape(-1)[index]
    return result
