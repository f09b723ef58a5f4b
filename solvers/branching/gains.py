"""What a split gains locally: the change of one operator's certified looseness at the relaxed forward point.

At that point the looseness of the whole bound is the sum over operators of a . (f(z) - plane(z)) >= 0, a being the
row's coefficients and the plane the one that its signs select (bound_propagation note, section 4.3). A child's gain is
estimated by what its own planes change in the operator's term; other operators that read the entry add theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.mixed import Mixed
from verinet.ops.scalar import Elementwise

SMALL_GROUP = 8
"""Groups (softmax, maxima) of at most so many entries are relaxed anew for every entry; larger ones share the blame."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One nonlinear operator over a batch of domains, seen by the row of each that decides: (domains, *shape) each."""

    op: NonlinearOp
    rows: Tensor
    lines: Lines
    lowers: list[Tensor]
    uppers: list[Tensor]
    values: list[Tensor]
    multipliers: tuple[Tensor, ...]

    @property
    def term(self) -> Tensor:
        """Entry by entry, coefficient times the selected plane at the relaxed forward point."""
        return self.rows * self.op.push(self.rows, self.lines, *self.values)

    def moved(self, slot: int, ends: tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Lowers, uppers and values with other ends for one input."""
        lowers, uppers, values = list(self.lowers), list(self.uppers), list(self.values)
        lowers[slot], uppers[slot] = ends[0], torch.maximum(*ends)
        values[slot] = torch.minimum(torch.maximum(values[slot], lowers[slot]), uppers[slot])
        return lowers, uppers, values


def child_gain(reader: Reader, slot: int, ends: tuple[Tensor, Tensor], upper: bool) -> Tensor:
    """Estimated gain (domains, *shape of the input) per entry of input `slot` when its interval becomes `ends`.

    `upper` says which child that is.
    """
    if isinstance(reader.op, Elementwise) or reader.op.slopes(reader.lines) is not None:
        return _entry_by_entry(reader, slot, ends)
    if isinstance(reader.op, (MatMulTwo, Mixed)):
        return reader.op.halving_gains(reader.rows, reader.lowers, reader.uppers, reader.values, upper)[slot]
    group = reader.lowers[0].shape[-1]
    if len(reader.lowers) == 1 and group <= SMALL_GROUP:
        return _in_group(reader, ends)
    return _shared(reader, slot)


def _entry_by_entry(reader: Reader, slot: int, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Every output entry depends on one entry of the input: all of them are split at once."""
    lowers, uppers, values = reader.moved(slot, ends)
    best: Tensor | None = None
    choices = [None] if isinstance(reader.op, Elementwise) else [None, reader.multipliers]
    for multipliers in choices:
        lines = reader.op.lines(lowers, uppers, multipliers)
        value = reader.rows * reader.op.push(reader.rows, lines, *values)
        best = value if best is None else torch.maximum(best, value)
    gain = (value if best is None else best) - reader.term
    return reader.op.blame(gain, reader.lowers, reader.uppers)[slot]


def _in_group(reader: Reader, ends: tuple[Tensor, Tensor]) -> Tensor:
    """The last axis is a group in which everything depends on everything: one entry after the other is split."""
    before = _grouped(reader, reader.term)
    gains = []
    for place in range(reader.lowers[0].shape[-1]):
        here = torch.zeros(reader.lowers[0].shape[-1], dtype=torch.bool, device=before.device)
        here[place] = True
        pair = torch.where(here, ends[0], reader.lowers[0]), torch.where(here, ends[1], reader.uppers[0])
        lowers, uppers, values = reader.moved(0, pair)
        after: Tensor | None = None
        for multipliers in (None, reader.multipliers):
            lines = reader.op.lines(lowers, uppers, multipliers)
            value = _grouped(reader, reader.rows * reader.op.push(reader.rows, lines, *values))
            after = value if after is None else torch.maximum(after, value)
        gains.append((before if after is None else after) - before)
    return torch.stack(gains, -1)


def _grouped(reader: Reader, terms: Tensor) -> Tensor:
    """Sums over the groups: of the last axis, unless the operator has reduced it."""
    return terms.sum(-1) if terms.dim() == reader.lowers[0].dim() else terms


def _shared(reader: Reader, slot: int) -> Tensor:
    """Half of the looseness for which the operator blames the entry."""
    loose = reader.rows * reader.op.forward(*reader.values) - reader.term
    return reader.op.blame(loose, reader.lowers, reader.uppers)[slot] * 0.5
