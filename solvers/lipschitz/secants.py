"""The largest norm of a layer's secant matrices P + R Delta Q, over all block-diagonal Delta with ||Delta_g|| <= 1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.form import Ints, Matrix
from verinet.solvers.lipschitz.norms import matrix_norm, row_sum_norm

from verinet.numerics.rounding import gamma

_UP = 1 + 1e-14
_LARGEST = 1024
_VERTICES = 6


@dataclass(frozen=True)
class Secants:
    """One layer: dense or scipy sparse matrices, with radii; block numbers as in `Activation`."""

    p: Matrix
    r: Matrix
    q: Matrix
    v_block: Ints
    w_block: Ints


@dataclass(frozen=True)
class _Part:
    """Outputs, inputs, rows of v and entries of w that share nothing with the others."""

    outs: Ints
    ins: Ints
    vs: Ints
    ws: Ints


def secant_norm(layer: Secants, norm: str) -> float:
    """At least the largest norm (l2 for "2", row sums for "inf"), taken part by part; infinite where no rule fits."""
    worst = 0.0
    seen: dict[bytes, float] = {}
    for part in _parts(layer):
        if max(part.outs.size, part.ins.size, part.vs.size) > _LARGEST:
            return math.inf
        small = Secants(
            _cut(layer.p, part.outs, part.ins),
            _cut(layer.r, part.outs, part.ws),
            _cut(layer.q, part.vs, part.ins),
            layer.v_block[part.vs],
            layer.w_block[part.ws],
        )
        key = _key(small)
        if key not in seen:
            seen[key] = _part_norm(small, norm)
        worst = max(worst, seen[key])
    return worst


def _size(matrix: Matrix) -> Any:
    """|value| + radius as a sparse matrix: where the true entry may differ from 0."""
    from scipy import sparse

    value = abs(sparse.csr_matrix(matrix.value))
    return value if matrix.radius is None else value + sparse.csr_matrix(matrix.radius)


def _parts(layer: Secants) -> Iterator[_Part]:
    """Connected parts of the graph of outputs, inputs and blocks; those without outputs or inputs are left out."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    v_block, w_block = layer.v_block, layer.w_block
    count = int(max(v_block.max(initial=-1), w_block.max(initial=-1))) + 1
    owner_v = sparse.csr_matrix((np.ones(v_block.size), (v_block, np.arange(v_block.size))), (count, v_block.size))
    owner_w = sparse.csr_matrix((np.ones(w_block.size), (np.arange(w_block.size), w_block)), (w_block.size, count))
    direct, made, read = _size(layer.p), _size(layer.r) @ owner_w, owner_v @ _size(layer.q)
    outs, ins = direct.shape
    none = [sparse.csr_matrix((n, n)) for n in (outs, ins, count)]
    table = sparse.bmat([[none[0], direct, made], [direct.T, none[1], read.T], [made.T, read, none[2]]], format="csr")
    number, label = connected_components(table, directed=False)
    by_output, by_input, by_block = np.split(label, [outs, outs + ins])
    groups = [_grouped(labels, number) for labels in (by_output, by_input, by_block[v_block], by_block[w_block])]
    for members in zip(*groups, strict=True):
        if members[0].size and members[1].size:
            yield _Part(*members)


def _grouped(labels: Ints, count: int) -> list[Ints]:
    """Positions by label, 0 .. count-1."""
    order = np.argsort(labels, kind="stable")
    return [np.sort(part) for part in np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1])]


def _cut(matrix: Matrix, rows: Ints, columns: Ints) -> Matrix:
    def pick(values: Any) -> Any:
        cells = values[rows][:, columns]
        return cells.toarray() if hasattr(cells, "toarray") else cells

    return Matrix(pick(matrix.value), None if matrix.radius is None else pick(matrix.radius))


def _key(part: Secants) -> bytes:
    first = min((int(b.min()) for b in (part.v_block, part.w_block) if b.size), default=0)
    arrays: list[Any] = [part.v_block - first, part.w_block - first]
    for matrix in (part.p, part.r, part.q):
        arrays += [np.asarray(matrix.value.shape), matrix.value]
        arrays.append(np.zeros(0) if matrix.radius is None else matrix.radius)
    return b"|".join(np.ascontiguousarray(a).tobytes() for a in arrays)


def _part_norm(part: Secants, norm: str) -> float:
    """The norm is convex in the slope of each scalar block, so it is largest at their ends, -1 and 1.

    With many or larger blocks the triangle inequality: |P| + |R| |Q|, in l2 only if a block is no scalar.
    """
    measure = matrix_norm if norm == "2" else row_sum_norm
    blocks = set(part.v_block.tolist())
    scalar = blocks == set(part.w_block.tolist()) and len(blocks) == part.v_block.size == part.w_block.size
    if not scalar and norm == "inf":
        return math.inf
    if not scalar or len(blocks) > _VERTICES:
        return (measure(part.p) + measure(part.r) * measure(part.q)) * _UP
    rows, columns = np.argsort(part.v_block), np.argsort(part.w_block)
    left = _cut(part.r, np.arange(part.r.value.shape[0]), columns)
    right = _cut(part.q, rows, np.arange(part.q.value.shape[1]))
    ends = itertools.product((-1.0, 1.0), repeat=len(blocks))
    return max(measure(_secant(part.p, left, right, signs)) for signs in ends)


def _secant(p: Matrix, r: Matrix, q: Matrix, signs: tuple[float, ...]) -> Matrix:
    """P + R diag(signs) Q with its rounding and the radii."""
    value = p.value + (r.value * np.asarray(signs)) @ q.value
    sizes = [np.abs(m.value) + (0.0 if m.radius is None else m.radius) for m in (p, r, q)]
    radius = (sizes[0] + sizes[1] @ sizes[2]) * gamma(len(signs) + 6, torch.float64)
    if p.radius is not None:
        radius = radius + p.radius
    if r.radius is not None:
        radius = radius + r.radius @ sizes[2]
    if q.radius is not None:
        radius = radius + sizes[1] @ q.radius
    return Matrix(value, radius * (1 + 1e-10))
