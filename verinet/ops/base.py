"""The two kinds of operators: linear ones, and nonlinear ones that are replaced by lines.

Words used everywhere: `rows` are coefficient tensors of linear functionals of a node, (rows, *shape); only *lower*
bounds of functionals are propagated (an upper bound is the row with the opposite sign). `lines` are the per-entry
affine lower and upper bounds of a nonlinear node.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Op, Shape, total

Lines = tuple[Tensor, ...]
"""Per-entry relaxation of one nonlinear node; the order is the operator's own. Each tensor is (lead..., *shape)."""


class LinearOp(Op):
    """y = sum_i L_i x_i + b, with L_i given only by its actions."""

    moves_only: ClassVar[bool] = False
    """True when every output entry is one input entry or a constant: nothing is rounded, order is kept."""
    diagonal: ClassVar[bool] = False
    """True when every output entry depends on at most one input entry: intervals lose nothing."""

    @abstractmethod
    def linear(self, *inputs: Tensor) -> Tensor:
        """The linear part, (batch, *in) to (batch, *out)."""

    def magnitude(self, *radii: Tensor) -> Tensor:
        """|L| applied to non-negative tensors. The default holds when every coefficient of L is >= 0."""
        return self.linear(*radii)

    @abstractmethod
    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """The adjoint: rows over the output, (rows, *out), to rows over each input, (rows, *in_i)."""

    def bias(self) -> Tensor | None:
        """b, broadcastable to the output shape, or None."""
        return None

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        """At least the number of roundings behind any entry of `linear` or `pullback`.

        Products, sums, and a few units for coefficients that are themselves rounded. The rounding charge is
        gamma(terms) times |rows| . |L| |x| (Higham 2002, section 3.1). A safe default counts all entries.
        """
        return max(total(out), *(total(s) for s in shapes)) + 8

    def forward(self, *inputs: Tensor) -> Tensor:
        value = self.linear(*inputs)
        offset = self.bias()
        return value if offset is None else value + offset


@dataclass(frozen=True, slots=True)
class Pulled:
    """Result of replacing one nonlinear node by lines in a set of rows."""

    rows: tuple[Tensor, ...]  # one per input, (lead..., *in shape)
    offset: Tensor  # (lead...), to be added to the constant of each row
    magnitude: Tensor  # (lead...), sum of the absolute terms behind `offset`, for the rounding charge


class Frame:
    """Bounds of a node's inputs, (lead..., *shape) each, and what the operator derives from them alone.

    Optimisation asks for lines again and again with the same bounds and other multipliers; `kept` belongs to the
    operator, which fills it when it is first needed.
    """

    __slots__ = ("kept", "lowers", "uppers")

    def __init__(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> None:
        self.lowers, self.uppers = lowers, uppers
        self.kept: dict[str, Any] = {}


class NonlinearOp(Op):
    """An operator bounded by lines. `lowers` and `uppers` hold one tensor per input, (batch, *shape).

    Any value of a multiplier is legal: multipliers cost tightness, never soundness (weak duality).
    """

    @abstractmethod
    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Bounds of the output, rounded outward."""

    @abstractmethod
    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Per input, which entries (boolean) would give better lines if their bounds were tighter."""

    @abstractmethod
    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Good default multipliers."""

    @abstractmethod
    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound lines for these bounds; with rounding charged in the intercepts."""

    @abstractmethod
    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        """Replace the node by its lower line where the coefficient is >= 0 and its upper line elsewhere."""

    @abstractmethod
    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        """Value of the selected lines at a point: the relaxed forward pass."""

    @abstractmethod
    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Derivative of each row's bound with respect to each multiplier, given the relaxed forward point."""

    @abstractmethod
    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Back into the box or simplex in which multipliers are useful."""

    def inside(self, bounds: tuple[Tensor, Tensor], opened: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Bounds of an input that does not reach the marked ends, (lower, upper) and masks for both, as this operator
        may use them. They may exclude such inputs as its lines and intervals hold for all the same. By default: as is.
        """
        return bounds

    def framed_lines(self, frame: Frame, multipliers: Sequence[Tensor]) -> Lines:
        """`lines` for bounds that are asked for more than once."""
        return self.lines(frame.lowers, frame.uppers, multipliers)

    def framed_project(self, frame: Frame, multipliers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`project` for bounds that are asked for more than once."""
        return self.project(multipliers, frame.lowers, frame.uppers)

    def framed_spans(self, frame: Frame) -> Sequence[Tensor] | None:
        """How far every multiplier can usefully move, the unit of the optimiser's steps; None where that is about 1."""
        return None

    def slopes(self, lines: Lines) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Tensor] | None:
        """(lower slopes per input, lower offset, upper slopes per input, upper offset), entry by entry.

        None where an output entry depends on several entries of one input.
        """
        return None

    def aligned(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Inputs with any leading axes, shaped so that they broadcast entry by entry against the output."""
        return tensors

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hand looseness of the output entries, (lead..., *out), on to the entries of each input."""
        return tuple(amount for _ in lowers)

    def looseness(
        self, rows: Tensor, lines: Lines, lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Per input entry: |coefficient| times the gap between the lines at the middle of the box.

        A score, no bound. `rows` is (lead..., *out); one tensor (lead..., *in) per input.
        """
        middle = [(lo + hi) * 0.5 for lo, hi in zip(lowers, uppers, strict=True)]
        one = rows.new_ones(())
        gap = self.push(-one, lines, *middle) - self.push(one, lines, *middle)
        return self.blame(rows.abs() * gap.clamp(min=0), lowers, uppers)


def event_sum(values: Tensor, shape_rank: int) -> Tensor:
    """Sum over the last `shape_rank` axes, keeping the leading ones."""
    if shape_rank == 0:
        return values
    return values.flatten(values.dim() - shape_rank).sum(-1)


def select(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """`lower` where the row's coefficient is >= 0, else `upper`."""
    return torch.where(rows >= 0, lower, upper)
