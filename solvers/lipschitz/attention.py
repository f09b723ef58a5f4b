"""Softmax, products of two variable matrices, and gates h(x) y: the blocks of attention.

Softmax: the difference of two values is J dx with J the mean of diag(p) - p p^T along the segment of logits, so p lies
in the bounds that the box of logits gives. J is symmetric, vanishes on (1, ..., 1), and 0 <= J <= b for
b = min(1/2, max p, max 2 p (1 - p)) (Gershgorin's discs, and diag(p) itself): dy = b/2 dx + b/2 w on the rest. Where
the logits hardly move, J0 = diag(p0) - p0 p0^T plus what the entries of J can differ is better.

Products: x y - x' y' = xm (y - y') + (x - x') ym with xm, ym the means of two values, anywhere within the bounds. What
xm differs from the centre of its bounds is a matrix of norm at most r: one block for every column of y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.blocks import added, picked, with_columns
from verinet.solvers.lipschitz.increments import Increment, settle
from verinet.solvers.lipschitz.nonlinear import Walk, weighted
from verinet.solvers.lipschitz.norms import frobenius, spectral_bound
from verinet.solvers.lipschitz.ranges import Pair
from verinet.solvers.lipschitz.sectors import sector
from verinet.solvers.lipschitz.sorting import combined, complement, inexact
from verinet.solvers.lipschitz.tracing import spread

from verinet.ir.graph import Shape
from verinet.numerics.rounding import down, gamma, tiny, up
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise

_UP = 1 + 1e-13
_ROUNDED = 2.0**-48
"""More than the rounding of anything of size 1 that takes a dozen operations."""


@dataclass(frozen=True, slots=True)
class Discs:
    """Per group a matrix, what the float matrix may differ from the intended one, and the radius around it.

    `centre` (groups, k, k), `error` a number per entry, `radius` (groups,).
    """

    centre: Tensor
    error: float
    radius: Tensor


def _numbers(values: list[float]) -> Tensor:
    """Upper bounds as they are: torch makes Python's numbers float32, which may round them down."""
    return torch.tensor(values, dtype=torch.float64)


def mapped(x: Increment, matrices: Tensor, error: float = 0.0) -> Increment:
    """x (columns, groups, rows, k) times matrices (groups, k, n) whose entries are known up to `error`."""
    value, size = torch.matmul(x.value, matrices), matrices.abs()
    charge = gamma(matrices.shape[1] + 4, value.dtype)
    weight = size * charge + error
    fresh = torch.matmul(x.value.abs(), weight) * _UP
    fresh = torch.where(fresh > 0, fresh + tiny(value.dtype), fresh)
    largest = max((spectral_bound(m) for m in matrices), default=0.0) + error * max(matrices.shape[1:])
    handed = torch.matmul(x.error, (size + error) * (1 + 2 * charge))
    return settle(value, handed, fresh, x.norm * (largest * _UP), x.depth)


def _groups(pair: Pair | None, width: int) -> Pair | None:
    """Bounds as (groups, width), or None where they are missing or not finite."""
    if pair is None or not all(bool(torch.isfinite(end).all()) for end in pair):
        return None
    return pair[0].reshape(-1, width), pair[1].reshape(-1, width)


def probabilities(pair: Pair | None, width: int, groups: int) -> Pair:
    """Bounds (groups, width) of softmax over all logits within the bounds, or of any distribution."""
    logits = _groups(pair, width)
    if logits is None:
        return torch.zeros(groups, width, dtype=torch.float64), torch.ones(groups, width, dtype=torch.float64)
    low, high = Softmax(2).interval([logits[0].unsqueeze(0)], [logits[1].unsqueeze(0)])
    return torch.fmax(low[0], torch.zeros_like(low[0])), torch.fmin(high[0], torch.ones_like(high[0]))


def _peak(low: Tensor, high: Tensor) -> Pair:
    """Bounds of p (1 - p) for p in [low, high] within [0, 1]."""
    ends = [p * (1 - p) for p in (low, high)]
    inside = (low <= 0.5) & (high >= 0.5)
    top = torch.where(inside, torch.full_like(low, 0.25), torch.maximum(*ends))
    return down(torch.minimum(*ends)).clamp(min=0), up(top)


def steepness(low: Tensor, high: Tensor) -> Tensor:
    """At least the norm of diag(p) - p p^T for all distributions p within the bounds, (groups,): 2-norm or row sums."""
    gershgorin = 2 * _peak(low, high)[1].amax(-1) * _UP
    return torch.full_like(gershgorin, 0.5).minimum(gershgorin)


def _softmax_discs(low: Tensor, high: Tensor) -> Discs:
    """A disc around all Jacobians, for every group the smaller of the two in the module's text."""
    width = low.shape[1]
    most = torch.minimum(steepness(low, high), high.amax(-1)) * _UP
    free = torch.eye(width, dtype=torch.float64) - 1.0 / width
    wide = 0.5 * most[:, None, None] * free
    p = 0.5 * (low + high)
    near = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    least, peak = _peak(low, high)
    crossed = -(high[:, :, None] * high[:, None, :]), -(low[:, :, None] * low[:, None, :])
    ends = [
        torch.where(torch.eye(width) > 0, torch.diag_embed(d), c) for d, c in zip((least, peak), crossed, strict=True)
    ]
    apart = torch.maximum(ends[1] - near, near - ends[0]).clamp(min=0) + _ROUNDED
    entries = torch.minimum(apart.sum(-1).amax(-1), _numbers([frobenius(m) for m in apart])) * _UP
    centred = free @ near @ free  # J lives on the complement of (1, ..., 1), and so may its centre
    closer = (entries < 0.5 * most)[:, None, None]
    radius = torch.minimum(entries, 0.5 * most) + width * _ROUNDED
    return Discs(torch.where(closer, centred, wide), (width + 8) * _ROUNDED, radius)


def softmax(walk: Walk, position: int, x: Increment) -> Increment:
    """One block per group of logits, of width - 1; for the logarithm one entry of w per group."""
    node = walk.graph.nodes[position]
    width = node.shape[-1]
    inside = x.shaped((-1, 1, width))
    groups = int(inside.value.shape[1])
    low, high = probabilities(walk.range_of(node.inputs[0]), width, groups)
    if isinstance(node.op, Softmax) and node.op.log:
        return _log_softmax(walk, inside, (low, high), node.name).shaped(node.shape)
    discs = _softmax_discs(low, high)
    line = mapped(inside, discs.centre, discs.error).flat()
    basis, exact = complement(width)
    rows = combined(inside.shaped((groups, width)), basis.q, *inexact(exact))
    columns = walk.channels.groups(rows.flat(), width - 1, node.name)
    coefficient = discs.radius[:, None, None] * basis.r
    place = (np.repeat(columns[:, None, :], width, 1).reshape(-1), np.repeat(np.arange(groups * width), width - 1))
    return _with_blocks(walk, line, place, coefficient.reshape(-1), rows.depth).shaped(node.shape)


def _with_blocks(
    walk: Walk, line: Increment, place: tuple[np.ndarray, np.ndarray], size: Tensor, depth: int
) -> Increment:
    """line + size * w in the cells `place` = (columns, entries); the products `size` are rounded."""
    slack = size.abs() * (16 * 2.0**-53) + tiny(size.dtype)
    found = with_columns(line, place, size, slack, walk.channels.columns)
    return Increment(found.value, found.error, found.norm, max(line.depth, depth + 1))


def _log_softmax(walk: Walk, x: Increment, bounds: Pair, name: str) -> Increment:
    """dy = dx - (1, ..., 1) p^T dx with p a mean of distributions within the bounds: one entry of w per group."""
    low, high = bounds
    groups, width = low.shape
    middle = 0.5 * (low + high)
    far = torch.maximum(high - middle, middle - low) + _ROUNDED
    near = _numbers([frobenius(row) for row in far])
    even = near > 1.0  # any distribution is within 1 of the even one
    centre = torch.where(even[:, None], torch.full_like(middle, 1.0 / width), middle)
    radius = torch.where(even, torch.ones_like(near), near) + width * _ROUNDED
    line = mapped(x, torch.eye(width, dtype=torch.float64) - centre[:, :, None], _ROUNDED).flat()
    columns = walk.channels.groups(x.flat(), width, name, 1).reshape(-1)
    place = (np.repeat(columns, width), np.arange(groups * width))
    return _with_blocks(walk, line, place, -radius.repeat_interleave(width), x.depth)


def matmul(walk: Walk, position: int, x: Increment, y: Increment) -> Increment:
    """x @ y: the centres of the bounds are linear, and what the means differ from them are blocks."""
    node = walk.graph.nodes[position]
    batch = node.shape[:-2]
    left, right = _sides(walk, position, x, y, batch)
    centre_x, radius_x = left[1:]
    centre_y, radius_y = right[1:]
    turned = _transposed(right[0])  # columns of y as rows
    by_x = _transposed(_bounded(walk, turned, (centre_x.mT, radius_x.mT), node.name))
    by_y = _bounded(walk, left[0], (centre_y, radius_y), node.name)
    return added(by_x.flat(), by_y.flat()).shaped(node.shape)


_Side = tuple[Increment, Tensor, Tensor]


def _sides(walk: Walk, position: int, x: Increment, y: Increment, batch: Shape) -> tuple[_Side, _Side]:
    """Per factor: its increment (columns, batch, rows, k) and the centre and radius of its bounds (batch, rows, k)."""
    node = walk.graph.nodes[position]
    found: list[_Side] = []
    for part, source in zip((x, y), node.inputs, strict=True):
        shape = walk.graph.nodes[source].shape
        index = torch.from_numpy(spread(shape, (*batch, *shape[-2:])))
        low, high = (end.reshape(-1)[index] for end in bounds_of(walk, position, source))
        middle = 0.5 * low + 0.5 * high
        radius = torch.maximum(high - middle, middle - low) * (1 + 2.0**-51)
        around = (-1, *shape[-2:])
        found.append((picked(part.flat(), index).shaped(around), middle.reshape(around), radius.reshape(around)))
    return found[0], found[1]


def bounds_of(walk: Walk, position: int, source: int) -> Pair:
    """Finite bounds of a factor, or an error that asks for a region."""
    pair = walk.range_of(source)
    if pair is None:
        raise walk.unsupported(
            position, "of two variables", "its slope grows with its inputs: give a region to bound them"
        )
    if not all(bool(torch.isfinite(end).all()) for end in pair):
        raise walk.unsupported(position, "of two variables", "its inputs have no finite bounds on this region")
    return pair


def _transposed(x: Increment) -> Increment:
    return Increment(x.value.mT, x.error.mT, x.norm, x.depth)


def _bounded(walk: Walk, x: Increment, matrices: tuple[Tensor, Tensor], name: str) -> Increment:
    """x (columns, batch, rows, k) times any matrices within centre +- radius (batch, k, n): one block for every row."""
    centre, radius = matrices
    line = mapped(x, centre)
    count, rows, width = (int(n) for n in line.value.shape[1:])
    norms = _numbers([spectral_bound(m.contiguous()) for m in radius])
    active = (norms > 0).nonzero().reshape(-1)
    if active.numel() == 0:
        return line
    inside = Increment(x.value[:, active], x.error[:, active], x.norm, x.depth)
    columns = walk.channels.groups(inside.flat(), int(x.value.shape[3]), name, width).reshape(-1)
    entries = torch.arange(count * rows * width).reshape(count, rows * width)[active].reshape(-1)
    size = norms[active].repeat_interleave(rows * width)
    return _with_blocks(walk, line.flat(), (columns, entries.numpy()), size, x.depth).shaped((count, rows, width))


def gate(walk: Walk, position: int, x: Increment, y: Increment) -> Increment:
    """h(x) y: dz = hm dy + ym s dx with s a slope of h, and the means hm, ym within the bounds."""
    node = walk.graph.nodes[position]
    op = node.op
    if not isinstance(op, Gate):
        raise TypeError(node.name)
    pairs = [bounds_of(walk, position, source) for source in node.inputs]
    shapes = walk.graph.input_shapes(position)
    value, slope = gate_factors(op, pairs[0], shapes[0], node.name)
    index = [torch.from_numpy(spread(shape, node.shape)) for shape in shapes]
    values, slopes = ([end.reshape(-1)[index[0]] for end in ends] for ends in (value, slope))
    factor = [end.reshape(-1)[index[1]] for end in pairs[1]]
    corners = torch.stack([s * f for s in slopes for f in factor])
    steep = (down(corners.amin(0)), up(corners.amax(0)))
    by_y = weighted(walk, picked(y.flat(), index[1]), (values[0], values[1]), node.name)
    return added(by_y, weighted(walk, picked(x.flat(), index[0]), steep, node.name)).shaped(node.shape)


def gate_factors(op: Gate, pair: Pair, shape: Shape, name: str) -> tuple[Pair, Pair]:
    """Bounds of h and of its slopes over the bounds of x, each of the shape of x."""
    inner = Elementwise(op.function, len(shape))
    low, high = inner.interval([pair[0].unsqueeze(0)], [pair[1].unsqueeze(0)])
    slopes = sector(inner, *pair, shape, name)
    return (low[0], high[0]), (slopes.low, slopes.high)


def matrix_sizes(op: MatMulTwo, pairs: tuple[Pair, Pair], norm: str) -> tuple[float, float]:
    """How much a change of y counts (the norm of x), and of x (that of y), over all values within the bounds."""
    largest = [torch.maximum(low.abs(), high.abs()) for low, high in pairs]
    matrices = [m.reshape(-1, *shape[-2:]) for m, shape in zip(largest, (op.left, op.right), strict=True)]
    if norm == "inf":
        by_x, by_y = matrices[0].sum(-1).max(), matrices[1].sum(-2).max()
        slack = 1 + 2 * gamma(op.left[-1] + 4, torch.float64)
        return float(by_x) * slack, float(by_y) * slack
    found = [max(spectral_bound(m.contiguous()) for m in side) for side in matrices]
    return found[0], found[1]
