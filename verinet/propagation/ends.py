"""Ends of bounds that are not reached: what a split at a jump leaves on the side that lost the point of the jump.

A domain x < p and a domain x >= p cover everything, and only the second contains p. Bounds stay closed intervals, which
is sound for every reader; masks beside them say which ends are open, for the operators that can make use of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinet.ops.base import NonlinearOp

Pair = tuple[Tensor, Tensor]


class HalfOpen(Pair):
    """Bounds (lower, upper), (domains, *shape) each, with masks of that shape: ends that no value reaches.

    It is an ordinary pair to everybody who does not ask: forgetting the masks costs tightness, never soundness.
    """

    open_low: Tensor
    open_high: Tensor

    def __new__(cls, bounds: Pair, open_low: Tensor, open_high: Tensor) -> HalfOpen:
        made = super().__new__(cls, bounds)
        made.open_low, made.open_high = open_low, open_high
        return made


def carried(bounds: Pair, *sources: Pair) -> Pair:
    """`bounds`, which hold beside all of `sources`, with their open ends where those are still ends."""
    marked = [s for s in sources if isinstance(s, HalfOpen)]
    if not marked:
        return bounds
    low, high = bounds
    lows = [s.open_low & (s[0].double() == low.double()) for s in marked]
    highs = [s.open_high & (s[1].double() == high.double()) for s in marked]
    for more in range(1, len(marked)):
        lows[0], highs[0] = lows[0] | lows[more], highs[0] | highs[more]
    return HalfOpen(bounds, lows[0], highs[0])


def picked(pair: Pair, index: Tensor) -> Pair:
    """The bounds of some domains, with their open ends."""
    some = pair[0][index], pair[1][index]
    return HalfOpen(some, pair.open_low[index], pair.open_high[index]) if isinstance(pair, HalfOpen) else some


def within(bounds: Pair, known: Pair) -> Pair:
    """The tighter of two pairs of bounds, which may cross then; a NaN gives way."""
    return carried((torch.fmax(bounds[0], known[0]), torch.fmin(bounds[1], known[1])), bounds, known)


def seen(op: NonlinearOp, pairs: Sequence[Pair]) -> tuple[list[Tensor], list[Tensor]]:
    """Lower and upper bounds of the inputs of an operator, as that operator may use them; see `NonlinearOp.inside`."""
    moved = [op.inside(pair, (pair.open_low, pair.open_high)) if isinstance(pair, HalfOpen) else pair for pair in pairs]
    return [low for low, _ in moved], [high for _, high in moved]
