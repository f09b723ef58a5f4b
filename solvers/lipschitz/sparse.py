"""Linear pieces of a graph as one matrix, sparse while it pays, with a bound on the rounding of composing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.form import Matrix
from verinet.solvers.lipschitz.increments import exact_coefficients, power_of_two
from verinet.solvers.lipschitz.tracing import positions, spread

from verinet.errors import InternalError
from verinet.ir.graph import Graph, Shape, total
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution
from verinet.ops.linear.windows import pad, taps

_DENSE = 1 << 22
"""Entries up to which a matrix is returned dense."""
_CROWDED = 0.25
_CHUNK = 1 << 23
_COEFFICIENT = 8 * 2.0**-53
_LOOSE = 1 + 1e-10


@dataclass(frozen=True)
class Piece:
    """A sparse matrix (rows, columns) and an elementwise bound of its rounding, or None if it is exact."""

    value: Any
    radius: Any = None

    def matrix(self) -> Matrix:
        """Dense where small or crowded, else in CSR form."""
        rows, columns = self.value.shape
        small = rows * columns <= _DENSE or self.value.nnz > _CROWDED * rows * columns
        return Matrix(*(part if part is None or not small else part.toarray() for part in (self.value, self.radius)))


def linear_piece(graph: Graph, order: Sequence[int], start: int) -> Piece:
    """The linear map from node `start` to the last node of `order`, whose nodes are linear and in order."""
    from scipy import sparse

    size = total(graph.nodes[start].shape)
    known: dict[int, Piece] = {start: Piece(sparse.identity(size, dtype=np.float64, format="csr"))}
    for position in order:
        known[position] = _compose(graph, position, known)
    return known[order[-1]]


def _compose(graph: Graph, position: int, known: Mapping[int, Piece]) -> Piece:
    node = graph.nodes[position]
    if not isinstance(node.op, LinearOp):
        raise InternalError("a nonlinear node in a linear piece", where=f"node '{node.name}'")
    inputs = [known[i] for i in node.inputs]
    shapes = graph.input_shapes(position)
    parts = operator_parts(node.op, shapes, node.shape)
    value = sum((part @ x.value for part, x in zip(parts[1:], inputs[1:], strict=True)), parts[0] @ inputs[0].value)
    radius = sum((_handed(part, x) for part, x in zip(parts, inputs, strict=True)), None or 0)
    rate = _rate(node.op, inputs, (shapes, node.shape))
    if rate:
        fresh = sum((abs(p) @ abs(x.value) for p, x in zip(parts[1:], inputs[1:], strict=True)), _size(parts, inputs))
        fresh = fresh * rate * _LOOSE
        fresh.data += tiny(torch.float64)
        radius = fresh if isinstance(radius, int) else radius * (1 + rate) * _LOOSE + fresh
    return Piece(value.tocsr(), None if isinstance(radius, int) else radius.tocsr())


def _size(parts: Sequence[Any], inputs: Sequence[Piece]) -> Any:
    return abs(parts[0]) @ abs(inputs[0].value)


def _handed(part: Any, x: Piece) -> Any:
    """|L| applied to the radius of an input; the number 0 where there is none."""
    return 0 if x.radius is None else (abs(part) @ x.radius) * _LOOSE


def _rate(op: LinearOp, inputs: Sequence[Piece], place: tuple[Sequence[Shape], Shape]) -> float:
    if op.moves_only or isinstance(op, Negate | Shift):
        return 0.0
    terms = op.terms(*place) + 4
    if len(inputs) == 1 and _selects(inputs[0].value):
        if exact_coefficients(op):
            return 0.0
        terms = min(terms, 12)
    return gamma(terms, torch.float64)


def _selects(value: Any) -> bool:
    """True if products with this matrix round nothing: at most one entry per column, a power of two."""
    counts = np.diff(value.tocsc().indptr)
    return bool((counts <= 1).all()) and bool(power_of_two(torch.from_numpy(np.asarray(value.data))).all())


def operator_parts(op: LinearOp, shapes: Sequence[Shape], out: Shape) -> list[Any]:
    """Per input the sparse matrix (outputs, inputs) of a linear operator."""
    from scipy import sparse

    if op.moves_only:
        whole = _selection(positions(op, shapes), sum(total(s) for s in shapes))
        ends = np.cumsum([0, *(total(s) for s in shapes)])
        return [whole[:, ends[i] : ends[i + 1]] for i in range(len(shapes))] if len(shapes) > 1 else [whole]
    if isinstance(op, Add | Subtract):
        sign = -1.0 if isinstance(op, Subtract) else 1.0
        copies = [_selection(spread(shape, out), total(shape)) for shape in shapes]
        return [copies[0], copies[1] * sign]
    if isinstance(op, Negate):
        return [-sparse.identity(total(out), dtype=np.float64, format="csr")]
    if isinstance(op, Shift):
        return [sparse.identity(total(out), dtype=np.float64, format="csr")]
    if isinstance(op, Scale):
        return [sparse.diags(op.factor.to(torch.float64).expand(out).reshape(-1).numpy(), format="csr")]
    if isinstance(op, Convolution):
        return [_convolution(op, shapes[0])]
    if len(shapes) != 1:
        raise InternalError(f"no sparse matrix for the linear operator {op.kind} of several inputs")
    return [_by_columns(op, shapes[0], out)]


def _selection(index: Any, size: int) -> Any:
    from scipy import sparse

    rows = np.flatnonzero(index >= 0)
    ones = np.ones(rows.size)
    return sparse.csr_matrix((ones, (rows, index[rows])), shape=(index.size, size))


def _convolution(op: Convolution, shape: Shape) -> Any:
    """Every window position pairs output places with input places, in the same way for all channels."""
    from scipy import sparse

    windows, spatial = op.windows, tuple(shape[2:])
    numbers = torch.arange(1, total(spatial) + 1, dtype=torch.float64).reshape(1, 1, *spatial)
    padded = pad(numbers, windows)
    source = np.stack([padded[index].reshape(-1).numpy().astype(np.int64) - 1 for index in taps(windows)])
    weight = op.weight.to(torch.float64).reshape(op.weight.shape[0], op.weight.shape[1], -1).numpy()
    outs, per_group, _ = weight.shape
    places, size = source.shape[1], total(spatial)
    tap, place = np.nonzero(source >= 0)
    out = np.arange(outs)[:, None, None]
    inner = np.arange(per_group)[None, :, None] + (out // (outs // op.groups)) * per_group
    rows = np.broadcast_to(out * places + place, (outs, per_group, tap.size))
    columns = np.broadcast_to(inner * size + source[tap, place], rows.shape)
    values = weight[:, :, tap]
    kept = values != 0
    return sparse.csr_matrix((values[kept], (rows[kept], columns[kept])), shape=(outs * places, shape[1] * size))


def _by_columns(op: LinearOp, shape: Shape, out: Shape) -> Any:
    """The operator applied to unit vectors, a few at a time: one coefficient per entry, so nothing is summed."""
    from scipy import sparse

    size = total(shape)
    step = max(1, _CHUNK // max(total(out), size))
    blocks = []
    for start in range(0, size, step):
        count = min(step, size - start)
        units = torch.zeros(count, size, dtype=torch.float64)
        units[torch.arange(count), torch.arange(start, start + count)] = 1.0
        values = op.linear(units.reshape(count, *shape)).expand(count, *out).reshape(count, -1)
        blocks.append(sparse.csr_matrix(values.numpy()))
    return sparse.vstack(blocks).T.tocsr()
