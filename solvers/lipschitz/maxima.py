"""Maxima over the last axis as tournaments: every duel is max(a, b) = (a + b)/2 + |a - b|/2.

The number |a - b| has one block, however many duels it decides: a minimum over the same two operands, or another
window of a max-pool that meets them too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.lipschitz.blocks import added, coarse, negated, picked, with_absolutes
from verinet.solvers.lipschitz.increments import Increment, settle
from verinet.solvers.lipschitz.nonlinear import Walk
from verinet.solvers.lipschitz.ranges import Pair
from verinet.solvers.lipschitz.tracing import Trace


@dataclass(frozen=True, slots=True)
class _Player:
    """One candidate of every group: flat over the groups. `low`, `high` are infinite without a region."""

    x: Increment
    trace: Trace
    low: Tensor
    high: Tensor


def largest_of(walk: Walk, position: int, x: Increment, sign: int = 1) -> Increment:
    """max over the last axis of sign * x, for the node at `position`; flat over the groups."""
    source = walk.graph.nodes[position].inputs[0]
    width = walk.graph.nodes[source].shape[-1]
    flat = x.flat()
    groups = int(flat.value.shape[1]) // width
    if sign < 0:
        flat = negated(flat)
    trace = walk.tracer.of(source).times(float(sign))
    low, high = _ends(walk, source, groups * width, sign)
    players = []
    for place in range(width):
        at = torch.arange(groups) * width + place
        players.append(_Player(picked(flat, at), trace.pick(at.numpy()), low[at], high[at]))
    gaps = _first_gaps(walk, source, (groups, width), sign)
    name = walk.graph.nodes[position].name
    while len(players) > 1:
        players = _round(walk, players, gaps, (flat.norm, name))
        gaps = None
    return players[0].x


def maximum(walk: Walk, position: int, x: Increment) -> Increment:
    """The increment of a maximum over the last axis."""
    return largest_of(walk, position, x).shaped(walk.graph.nodes[position].shape)


def _ends(walk: Walk, source: int, count: int, sign: int) -> Pair:
    pair = walk.range_of(source)
    if pair is None:
        return torch.full((count,), -torch.inf, dtype=torch.float64), torch.full(
            (count,), torch.inf, dtype=torch.float64
        )
    low, high = (end.reshape(-1) for end in pair)
    return (low, high) if sign > 0 else (-high, -low)


def _first_gaps(walk: Walk, source: int, size: tuple[int, int], sign: int) -> Pair | None:
    """Bounds of candidate 0 - 1, 2 - 3, ... of every group, (groups, pairs)."""
    if walk.ranges is None or source not in walk.ranges.gaps:
        return None
    low, high = (end.reshape(size[0], size[1] // 2) for end in walk.ranges.gaps[source])
    return (low, high) if sign > 0 else (-high, -low)


def _round(walk: Walk, players: list[_Player], gaps: Pair | None, context: tuple[Tensor, str]) -> list[_Player]:
    """Neighbours meet; one without a neighbour goes through."""
    winners = []
    for first in range(0, len(players) - 1, 2):
        gap = None if gaps is None else (gaps[0][:, first // 2], gaps[1][:, first // 2])
        winners.append(_duel(walk, (players[first], players[first + 1]), gap, context))
    return winners + players[len(players) & ~1 :]


def _duel(walk: Walk, pair: tuple[_Player, _Player], gap: Pair | None, context: tuple[Tensor, str]) -> _Player:
    """The larger of two candidates in every group. `context` is (norm of the common source's error, name)."""
    a, b = pair
    base, name = context
    trace = a.trace.plus(b.trace.times(-1.0))
    shares = _shares(a, b, trace, gap)
    x = _mean(a.x, b.x, shares, base)
    active = (shares == 0.5).nonzero().reshape(-1)
    difference = added(a.x, negated(b.x))
    found = walk.channels.absolutes(picked(difference, active), trace.pick(active.numpy()), name)
    half = torch.full((active.numel(),), 0.5, dtype=torch.float64)
    x = with_absolutes(x, found, half, torch.zeros_like(half), walk.channels, active.numpy())
    return _Player(x, _winner(walk, a, b, shares), torch.maximum(a.low, b.low), torch.maximum(a.high, b.high))


def _shares(a: _Player, b: _Player, trace: Trace, gap: Pair | None) -> Tensor:
    """How much of a is in the fixed part: 1 or 0 where the duel is decided on the whole region, else 1/2."""
    ahead, behind = a.low >= b.high, b.low >= a.high
    if gap is not None:
        ahead, behind = ahead | (gap[0] >= 0), behind | (gap[1] <= 0)
    ahead = ahead | torch.from_numpy(trace.constant())
    shares = torch.full(a.low.shape, 0.5, dtype=torch.float64)
    return torch.where(ahead, 1.0, torch.where(behind, 0.0, shares))


def _mean(a: Increment, b: Increment, shares: Tensor, norm: Tensor) -> Increment:
    """shares * a + (1 - shares) * b. Halving rounds nothing.

    As convex combinations within disjoint groups the errors handed on are, in every column, at most those of the
    common source in norm (`norm`), apart from what earlier duels added to either side.
    """
    columns = max(a.columns, b.columns)
    a, b = a.widened(columns), b.widened(columns)
    base = torch.cat([norm, norm.new_zeros(columns - norm.shape[0])])
    handed = base + (a.norm - base).clamp(min=0) + (b.norm - base).clamp(min=0)
    left, right = a.value * shares, b.value * (1 - shares)
    value = left + right
    one = (left == 0) | (right == 0) | (coarse(left) & coarse(right))
    fresh = torch.where(one, torch.zeros_like(value), value.abs() * 2.0**-53)
    return settle(value, a.error * shares + b.error * (1 - shares), fresh, handed, max(a.depth, b.depth))


def _winner(walk: Walk, a: _Player, b: _Player, shares: Tensor) -> Trace:
    """Traces for the next round: that of the winner, or an atom that stands for the larger of exactly these two."""
    keys = []
    for left, right in zip(_names(a.trace), _names(b.trace), strict=True):
        keys.append(b"|".join(sorted((left, right))))
    fresh = walk.tracer.virtual(keys)
    count = fresh.atoms.shape[0]
    joined = Trace.joined([fresh, a.trace, b.trace])
    choice = torch.where(shares == 0.5, 0, torch.where(shares == 1, 1, 2)).numpy()
    return joined.pick(choice * count + torch.arange(count).numpy())


def _names(trace: Trace) -> list[bytes]:
    keys, scale = trace.normal()
    return [key + number.tobytes() for key, number in zip(keys, scale, strict=True)]
