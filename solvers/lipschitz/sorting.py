"""Sorting groups: GroupSort, FullSort.

Sorting k numbers keeps their sum and does not increase distances: with Z an orthonormal basis of the complement of
(1, ..., 1), dy = (11^T/k) dx + Z w and ||w|| <= ||Z^T dx|| (Pauli et al. 2024, lemma 1, with the preserved direction
eliminated). Pairs are (a + b)/2 -+ |a - b|/2 and share |a - b| with maxima and minima of the same two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.blocks import negated, picked, with_columns
from verinet.solvers.lipschitz.increments import Increment, apply_linear
from verinet.solvers.lipschitz.maxima import largest_of
from verinet.solvers.lipschitz.nonlinear import Walk

from verinet.ops.linear.dense import Dense


def sort_last(walk: Walk, position: int, x: Increment) -> Increment:
    """Ascending sort of the last axis: one block per group, none where the order is known."""
    node = walk.graph.nodes[position]
    width = node.shape[-1]
    groups = x.flat().value.shape[1] // max(width, 1)
    pair = walk.range_of(node.inputs[0])
    order, decided = torch.arange(width).expand(groups, width), torch.zeros(groups, dtype=torch.bool)
    if pair is not None:
        low, high = (end.reshape(groups, width) for end in pair)
        order = (low + high).argsort(-1)
        low, high = low.gather(1, order), high.gather(1, order)
        decided = (high[:, :-1] <= low[:, 1:]).all(1)
    index = (order + torch.arange(groups)[:, None] * width).reshape(-1)
    ordered = picked(x.flat(), index)
    open_groups = (~decided).nonzero().reshape(-1)
    if width < 2 or open_groups.numel() == 0:
        return ordered.shaped(node.shape)
    if width == 2:
        return _pairs(walk, position, x)
    return _sorted_groups(walk, ordered, (groups, width), open_groups, node.name).shaped(node.shape)


def _pairs(walk: Walk, position: int, x: Increment) -> Increment:
    """[min, max] of every pair: minus the maximum of the negated entries, and the maximum."""
    shape = walk.graph.nodes[position].shape
    both = (negated(largest_of(walk, position, x, -1)), largest_of(walk, position, x, 1))
    columns = walk.channels.columns
    low, high = (part.widened(columns).flat() for part in both)
    value, error = (torch.stack(pair, -1) for pair in ((low.value, high.value), (low.error, high.error)))
    return Increment(value, error, low.norm + high.norm, max(low.depth, high.depth)).shaped(shape)


def _sorted_groups(walk: Walk, x: Increment, size: tuple[int, int], open_groups: Tensor, name: str) -> Increment:
    """Replace the open groups of x by their means plus one block of width - 1 each."""
    groups, width = size
    basis, exact = complement(width)
    at = (open_groups[:, None] * width + torch.arange(width)).reshape(-1)
    inside = picked(x, at).shaped((open_groups.numel(), width))
    rows = combined(inside, basis.q, *inexact(exact))
    columns = walk.channels.groups(rows.flat(), width - 1, name)
    mean = torch.full((width, width), 1.0 / width, dtype=torch.float64)
    power = width & (width - 1) == 0
    means = combined(inside, mean, 0.0 if power else _ROUNDED, 1.0).flat().widened(walk.channels.columns)
    wide = x.widened(walk.channels.columns)
    value, error = wide.value.clone(), wide.error.clone()
    value[:, at], error[:, at] = means.value, means.error
    line = Increment(value, error, wide.norm + means.norm, max(x.depth, rows.depth + 1))
    column = np.repeat(columns[:, None, :], width, 1).reshape(-1)
    entry = np.repeat(at.numpy(), width - 1)
    coefficient = basis.r.reshape(-1).repeat(open_groups.numel())
    slack = coefficient.abs() * (0.0 if exact else _ROUNDED)
    return with_columns(line, (column, entry), coefficient, slack, walk.channels.columns)


_ROUNDED = 8 * 2.0**-53
"""Relative rounding of 1/k and of the entries of the basis: a square root, a product and a division."""
_NORM = 1 + 1e-12


def inexact(exact: bool) -> tuple[float, float]:
    """(rounding of the entries, norm) of the basis q for `combined`."""
    return (0.0, 1.0) if exact else (_ROUNDED, _NORM)


@dataclass(frozen=True, slots=True)
class Basis:
    """q (k, k-1) maps a group to its rows of v, r (k, k-1) maps w back: q = s Z, r = Z / s for some s > 0."""

    q: Tensor
    r: Tensor


def complement(width: int) -> tuple[Basis, bool]:
    """A basis of the complement of (1, ..., 1), and whether it is exact.

    For powers of two the other columns H of a Hadamard matrix, with q = H and r = H / k; else Helmert's orthonormal
    columns, entry by entry within `_ROUNDED` of the true ones.
    """
    if width & (width - 1) == 0:
        matrix = torch.ones(1, 1, dtype=torch.float64)
        while matrix.shape[0] < width:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        rest = matrix[:, 1:]
        return Basis(rest, rest / width), True
    columns = []
    for j in range(1, width):
        column = torch.zeros(width, dtype=torch.float64)
        column[:j], column[j] = 1.0, -float(j)
        columns.append(column / np.sqrt(float(j * (j + 1))))
    basis = torch.stack(columns, 1)
    return Basis(basis, basis), False


def combined(x: Increment, matrix: Tensor, rounded: float, norm: float) -> Increment:
    """x @ matrix on the last axis; `rounded` bounds the relative rounding of the coefficients, `norm` its 2-norm."""
    groups, width = x.value.shape[1:]
    out = (int(groups), int(matrix.shape[1]))
    result = apply_linear(Dense(matrix), [x], [(int(groups), int(width))], out)
    if rounded == 0:
        return result
    slack = torch.matmul(x.value.abs(), matrix.abs()) * (rounded * (1 + 1e-10))
    extra = slack.reshape(slack.shape[0], -1).norm(dim=1) * norm
    return Increment(result.value, result.error + slack, (result.norm + extra) * (1 + 1e-12), result.depth)
