"""One operator for all that only moves entries: Slice, Gather, Transpose, Pad, Split, Tile, Resize nearest, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import LinearOp


@dataclass(frozen=True, eq=False)
class Index(LinearOp):
    """y.flat[i] = x.flat[index.flat[i]], and 0 where the index is -1; no entry of x is used twice.

    `index` is int64 and has the shape of the output; `size` is the number of entries of x.
    """

    kind: ClassVar[str] = "Index"
    moves_only: ClassVar[bool] = True
    diagonal: ClassVar[bool] = True
    _injective: ClassVar[bool] = True
    index: Tensor
    size: int

    @cached_property
    def _flat(self) -> Tensor:
        return self.index.reshape(-1)

    @cached_property
    def _start(self) -> int | None:
        """First entry, if the output is a contiguous run of the input."""
        count = self._flat.numel()
        first = int(self._flat[0]) if count else -1
        run = torch.arange(first, first + count, device=self._flat.device)
        return first if first >= 0 and bool(torch.equal(self._flat, run)) else None

    @cached_property
    def _strides(self) -> tuple[int, ...] | None:
        """Step in the input per axis of the output, if the index is such a lattice: a transpose, a strided slice."""
        shape = self.index.shape
        if not self._full or self._flat.numel() == 0:
            return None
        origin = (0,) * len(shape)
        first = int(self.index[origin])
        steps = [int(self.index[_unit(axis, len(shape))]) - first if n > 1 else 0 for axis, n in enumerate(shape)]
        lattice = torch.full((), first, device=self.index.device)
        for axis, (extent, step) in enumerate(zip(shape, steps, strict=True)):
            along = torch.arange(extent, device=self.index.device) * step
            lattice = lattice + along.reshape(-1, *(1,) * (len(shape) - axis - 1))
        fits = min(steps, default=0) >= 0 and bool(torch.equal(lattice.expand(shape), self.index))
        return tuple(steps) if fits else None

    def _lattice(self, flat: Tensor) -> Tensor:
        """The entries of (batch, size) that the index visits, as a view of the output's shape."""
        strides = self._strides or ()
        start = flat.storage_offset() + int(self._flat[0])
        return flat.as_strided((flat.shape[0], *self.index.shape), (self.size, *strides), start)

    @cached_property
    def _used(self) -> Tensor:
        """Output positions that hold an input entry."""
        return (self._flat >= 0).nonzero().reshape(-1)

    @cached_property
    def _full(self) -> bool:
        return self._used.numel() == self._flat.numel()

    @cached_property
    def _sources(self) -> Tensor:
        return self._flat.index_select(0, self._used)

    @cached_property
    def _inverse(self) -> Tensor | None:
        """For a permutation, where every input entry went."""
        if not self._injective or not self._full or self._flat.numel() != self.size:
            return None
        return torch.empty_like(self._flat).index_copy_(
            0, self._flat, torch.arange(self.size, device=self._flat.device)
        )

    def linear(self, *inputs: Tensor) -> Tensor:
        flat = inputs[0].reshape(inputs[0].shape[0], self.size)
        if self._start is None and self._strides is not None:
            return self._lattice(flat.contiguous())
        return self._gather(flat).reshape(flat.shape[0], *self.index.shape)

    def _gather(self, flat: Tensor) -> Tensor:
        if self._start is not None:
            return flat.narrow(1, self._start, self._flat.numel())
        if self._full:
            return flat.index_select(1, self._flat)
        result = flat.new_zeros(flat.shape[0], self._flat.numel())
        return result.index_copy_(1, self._used, flat.index_select(1, self._sources))

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        flat = rows.reshape(rows.shape[0], self._flat.numel())
        return (self._scatter(flat).reshape(rows.shape[0], *shapes[0]),)

    def _scatter(self, flat: Tensor) -> Tensor:
        if self._start is not None:
            behind = self.size - self._start - self._flat.numel()
            return torch.nn.functional.pad(flat, (self._start, behind)) if self._flat.numel() != self.size else flat
        if self._inverse is not None and self._strides is None:
            return flat.index_select(1, self._inverse)
        result = flat.new_zeros(flat.shape[0], self.size)
        if self._injective and self._strides is not None:
            self._lattice(result).copy_(flat.reshape(flat.shape[0], *self.index.shape))
            return result
        picked = flat if self._full else flat.index_select(1, self._used)
        return self._put(result, picked)

    def _put(self, result: Tensor, picked: Tensor) -> Tensor:
        return result.index_copy_(1, self._sources, picked)


@dataclass(frozen=True, eq=False)
class Repeat(Index):
    """An `Index` that uses some entries of x more than once, so that the adjoint has to add."""

    kind: ClassVar[str] = "Repeat"
    diagonal: ClassVar[bool] = False
    _injective: ClassVar[bool] = False

    @cached_property
    def _table(self) -> Tensor | None:
        """(size, copies): positions in `_sources` that read each input entry, -1 beyond; None if mostly -1."""
        counts = torch.bincount(self._sources, minlength=self.size)
        copies = int(counts.max())
        if copies * self.size > 4 * self._sources.numel():
            return None
        order = torch.argsort(self._sources, stable=True)
        starts = torch.cumsum(counts, 0) - counts
        table = order.new_full((self.size, copies), -1)
        owner = self._sources.index_select(0, order)
        slot = torch.arange(order.numel(), device=order.device) - starts.index_select(0, owner)
        table[owner, slot] = order
        return table

    def _put(self, result: Tensor, picked: Tensor) -> Tensor:
        # Adding column by column keeps the order of the sum fixed, and is faster than index_add on a CPU.
        if self._table is None:
            return result.index_add_(1, self._sources, picked)
        for column in self._table.unbind(1):
            here = column >= 0
            if bool(here.all()):
                result += picked.index_select(1, column)
            else:
                to = here.nonzero().reshape(-1)
                result.index_add_(1, to, picked.index_select(1, column.index_select(0, to)))
        return result


def _unit(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(int(place == axis) for place in range(rank))


def index_op(index: Tensor, size: int) -> Index:
    """`Index` or `Repeat`, whichever fits. `index` is int64 of the output shape, -1 for a zero."""
    used = index[index >= 0]
    repeats = used.numel() > size or used.unique().numel() < used.numel()
    return Repeat(index, size) if repeats else Index(index, size)
