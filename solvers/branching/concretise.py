"""Least values of affine functions over a box cut by a few half-spaces, with the rounding charged.

For a violation in a domain some linear facts about the input are known besides the box: the split literals of neurons
that are affine in the input, and the final row itself (its certified lower plane must not exceed the row's bound).
min a.x subject to g.x + h <= 0 in a box equals max over beta >= 0 of min over the box of (a + beta g).x + beta h: a
concave, piecewise linear function of one variable (Clip-and-Verify 2025, "complete clipping"; bound_propagation note,
section 4.6). Any beta >= 0 gives a valid bound, so only the last evaluation is charged for rounding; several
half-spaces take turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny, unit_roundoff
from verinet.propagation.backward import Backward, InputRows, Relaxation
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap

STEPS = 6  # of the search for one multiplier; each is one pass over the coefficients
CHUNK = 1 << 19  # coefficients handled at a time: they stay in the cache
PLANE_BYTES = 32 << 20  # of the planes of one node
MOST_ENTRIES = 2048  # of one node: its bounds are kept for every open domain
MOST_CUTS = 3  # half-spaces per domain from neurons whose intervals were cut


@dataclass(frozen=True, slots=True)
class HalfSpaces:
    """g.x + h <= 0: `normal` (domains, k, inputs) and `offset` (domains, k); an all-zero normal with h <= 0 is idle."""

    normal: Tensor
    offset: Tensor

    @staticmethod
    def join(parts: list[HalfSpaces]) -> HalfSpaces:
        return HalfSpaces(torch.cat([p.normal for p in parts], 1), torch.cat([p.offset for p in parts], 1))

    def take(self, domains: Tensor) -> HalfSpaces:
        return HalfSpaces(self.normal[domains], self.offset[domains])


def constrained_least(rows: InputRows, spaces: HalfSpaces, lower: Tensor, upper: Tensor) -> Tensor:
    """Lower bounds (rows,) of coefficients @ x + constant over box and half-spaces of each row, rounding charged.

    `spaces` hold one set per row, (rows, k, ...); boxes are (rows or 1, inputs). An empty region does not show as
    infinity. Minus infinity where the arithmetic overflows.
    """
    middle, radius = (lower + upper) * 0.5, (upper - lower) * 0.5
    total, betas = rows.coefficients, []
    for k in range(spaces.offset.shape[1]):
        normal = spaces.normal[:, k]
        level = (normal * middle).sum(1) + spaces.offset[:, k]
        beta = _best_beta(total, normal, level, (middle, radius))
        total = total + beta.unsqueeze(1) * normal
        betas.append(beta)
    stacked = torch.stack(betas, 1) if betas else rows.constant.new_zeros(rows.constant.numel(), 0)
    return _charged(rows, spaces, stacked, total, (lower, upper))


def _best_beta(slope: Tensor, normal: Tensor, level: Tensor, box: Interval) -> Tensor:
    """The best multiplier (rows,) by intersecting tangents of the concave dual from either side.

    `level` is g.x + h at the box's centre. The dual is f(beta) = a.x0 + beta level - sum |a + beta g| radius.
    """
    middle, radius = box
    weighted = normal * radius
    start = (slope * middle).sum(1)

    def tangent(beta: Tensor) -> tuple[Tensor, Tensor]:
        """Value at 0 and slope of the tangent at beta."""
        sign = torch.sign(slope + beta.unsqueeze(1) * normal)
        return start - (sign * slope * radius).sum(1), level - (sign * weighted).sum(1)

    low_value, low_rise = tangent(torch.zeros_like(level))
    best = torch.zeros_like(level)
    best_value = low_value
    far = torch.sign(normal)
    high_value, high_rise = start - (far * slope * radius).sum(1), level - (far * weighted).sum(1)
    for _ in range(STEPS):
        gap = low_rise - high_rise
        beta = torch.where(gap > 0, (high_value - low_value) / gap.clamp(min=1e-300), 0.0)
        beta = torch.where(torch.isfinite(beta) & (low_rise > 0) & (high_rise < 0), beta.clamp(min=0), 0.0)
        value, rise = tangent(beta)
        reached = value + beta * rise
        better = reached > best_value
        best, best_value = torch.where(better, beta, best), torch.where(better, reached, best_value)
        left = rise > 0
        low_value, low_rise = torch.where(left, value, low_value), torch.where(left, rise, low_rise)
        high_value, high_rise = torch.where(left, high_value, value), torch.where(left, high_rise, rise)
    return best


def _charged(rows: InputRows, spaces: HalfSpaces, betas: Tensor, total: Tensor, box: Interval) -> Tensor:
    """The bound for multipliers betas (rows, k) >= 0; `total` is fl(a + sum beta g).

    Each entry of `total` is off by at most gamma(2 k + 2) (|a| + sum beta |g|), and the sums over the inputs by
    gamma(inputs) of their absolute terms; both meet inputs of size at most max(|l|, |u|).
    """
    lower, upper = box
    count = betas.shape[1]
    reach = torch.maximum(lower.abs(), upper.abs())
    value = torch.where(total >= 0, total * lower, total * upper).sum(1)
    size = (rows.coefficients.abs() * reach).sum(1)
    shift, shift_size = torch.zeros_like(value), torch.zeros_like(value)
    for k in range(count):
        size = size + betas[:, k] * (spaces.normal[:, k].abs() * reach).sum(1)
        shift = shift + betas[:, k] * spaces.offset[:, k]
        shift_size = shift_size + betas[:, k] * spaces.offset[:, k].abs()
    dtype = value.dtype
    charge = size * gamma(total.shape[1] + 4 * count + 16, dtype) * 1.01
    charge = charge + (shift_size + rows.constant.abs() + value.abs()) * gamma(2 * count + 8, dtype)
    charge = charge + (1 + reach.sum(1)) * tiny(dtype)  # coefficients that underflow meet inputs of any size
    least = value + shift + rows.constant - charge
    return torch.where(least.isnan(), torch.full_like(least, -torch.inf), least)


def below(first: Tensor, second: Tensor) -> Tensor:
    """At most `first - second`: what the offset of a half-space may be."""
    size = (first.abs() + second.abs()) * (4 * unit_roundoff(first.dtype)) + tiny(first.dtype)
    return first - second - size


class AffineNodes:
    """Bounded nodes that are affine in the input, and their planes: exact up to the rounding in the constants."""

    def __init__(self, backward: Backward, nodes: tuple[int, ...]) -> None:
        graph = backward.graph
        self.planes: dict[int, InputRows] = {}  # rows of z, then of -z: (2 * entries, inputs)
        for position in nodes:
            shape = graph.nodes[position].shape
            entries = int(torch.tensor(shape).prod())
            if position == 0 or entries > MOST_ENTRIES or 16 * entries * graph.input_size > PLANE_BYTES:
                continue
            like = backward.output_size()
            rows = torch.eye(entries, dtype=backward.dtype, device=like.device)
            rows = torch.cat([rows, -rows]).reshape(2 * entries, *shape)
            owners = RowMap.regular(1, 2 * entries, like.device)
            self.planes[position] = backward.run(position, rows, owners, Relaxation({}))

    def cuts(self, before: dict[int, Interval], after: dict[int, Interval]) -> HalfSpaces | None:
        """Half-spaces of the neurons whose intervals (domains, *shape) shrank most from `before` to `after`.

        z_j >= low means -z_j + low <= 0, and the plane of -z_j is below -z_j. None where nothing was cut.
        """
        parts = [self._cuts(v, before[v], after[v]) for v in self.planes if v in before]
        found = [p for p in parts if p is not None]
        return HalfSpaces.join(found) if found else None

    def _cuts(self, position: int, before: Interval, after: Interval) -> HalfSpaces | None:
        (old_low, old_high), (low, high) = (tuple(t.reshape(t.shape[0], -1) for t in pair) for pair in (before, after))
        width = (old_high - old_low).clamp(min=1e-300)
        # Order as in the planes: a cut from above is a statement on z, one from below a statement on -z.
        share = torch.cat([(old_high - high) / width, (low - old_low) / width], 1)
        count = min(MOST_CUTS, int((share > 0).sum(1).max()) if share.numel() else 0)
        if not count:
            return None
        top = share.topk(count, 1)
        planes, limit = self.planes[position], torch.cat([high, -low], 1)
        used = top.values > 0
        normal = torch.where(used.unsqueeze(2), planes.coefficients[top.indices], 0.0)
        offset = below(planes.constant[top.indices], limit.gather(1, top.indices))
        return HalfSpaces(normal, torch.where(used, offset, -1.0))

    def tighten(
        self, known: dict[int, Interval], mask: dict[int, Tensor], spaces: HalfSpaces, box: Interval
    ) -> dict[int, Interval]:
        """Bounds of the entries in `mask` (domains, *shape) under each domain's half-spaces.

        `box` is (domains or 1, inputs). Lower bounds may end above upper ones: then nothing satisfies them all.
        """
        result = dict(known)
        for position, planes in self.planes.items():
            if position not in known:
                continue
            low, high = known[position]
            domain, index = mask[position].reshape(low.shape[0], -1).nonzero(as_tuple=True)
            flat_low, flat_high = low.reshape(low.shape[0], -1).clone(), high.reshape(high.shape[0], -1).clone()
            size = max(1, CHUNK // max(1, planes.coefficients.shape[1]))
            for begin in range(0, domain.numel(), size):
                here, entry = domain[begin : begin + size], index[begin : begin + size]
                lows, highs = _both(planes, entry, spaces.take(here), tuple(_of(t, here) for t in box))
                flat_low[here, entry] = torch.fmax(flat_low[here, entry], lows)
                flat_high[here, entry] = torch.fmin(flat_high[here, entry], highs)
            result[position] = (flat_low.reshape(low.shape), flat_high.reshape(high.shape))
        return result


def _of(values: Tensor, domain: Tensor) -> Tensor:
    return values if values.shape[0] == 1 else values[domain]


def _both(planes: InputRows, entry: Tensor, spaces: HalfSpaces, box: tuple[Tensor, ...]) -> Interval:
    """Lower and upper bounds of entries of one node, one set of half-spaces each."""
    half = planes.constant.numel() // 2
    low = constrained_least(InputRows(planes.coefficients[entry], planes.constant[entry]), spaces, *box)
    entry = entry + half
    high = constrained_least(InputRows(planes.coefficients[entry], planes.constant[entry]), spaces, *box)
    return low, -high
