"""The norm-bounded blocks found so far, and the one |t| channel per number t, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats, Form, Ints, Matrix
from verinet.solvers.lipschitz.increments import Increment
from verinet.solvers.lipschitz.tracing import Trace


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of v as they were when their blocks were made: `value` and `error` (columns, rows)."""

    value: Tensor
    error: Tensor


@dataclass(frozen=True, slots=True)
class Absolutes:
    """|t| for several numbers t: `factor * w[column]`; factor 0 where t is constant."""

    column: Ints
    factor: Floats


@dataclass
class Channels:
    """Blocks in the order they were made. Columns of increments: the inputs, then the entries of w."""

    inputs: int
    columns: int = 0
    _rows: list[Rows] = field(default_factory=list)
    _v_block: list[Ints] = field(default_factory=list)
    _w_block: list[Ints] = field(default_factory=list)
    _layer: list[int] = field(default_factory=list)
    _names: dict[int, list[str]] = field(default_factory=dict)
    _shared: dict[bytes, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.columns = self.inputs

    @property
    def blocks(self) -> int:
        return len(self._layer)

    def scalars(self, rows: Increment, name: str) -> Ints:
        """One scalar block for every entry of `rows` (flat); the columns of their w."""
        return self.groups(rows, 1, name).reshape(-1)

    def groups(self, rows: Increment, size: int, name: str, width: int | None = None) -> Ints:
        """One block for every `size` consecutive entries of `rows` (flat), with `width` (default `size`) entries of w.

        Returns the columns of w, (blocks, width).
        """
        count, width = int(rows.value.shape[1]) // size, size if width is None else width
        numbers = np.arange(count, dtype=np.int64) + self.blocks
        found = np.arange(count * width, dtype=np.int64) + self.columns
        if count:
            self._rows.append(Rows(rows.value, rows.error))
            self._v_block.append(np.repeat(numbers, size))
            self._w_block.append(np.repeat(numbers, width))
            self._layer += [rows.depth] * count
            names = self._names.setdefault(rows.depth, [])
            if name not in names:
                names.append(name)
            self.columns += count * width
        return found.reshape(count, width)

    def absolutes(self, numbers: Increment, trace: Trace, name: str) -> Absolutes:
        """|t| for every entry t of `numbers` (flat), whose trace is `trace`: new blocks only for new numbers."""
        keys, scale = trace.normal()
        constant = trace.constant()
        new: dict[bytes, int] = {}
        for entry, key in enumerate(keys):
            if not constant[entry] and key not in self._shared:
                new.setdefault(key, entry)
        chosen = torch.tensor(list(new.values()), dtype=torch.int64)
        picked = Increment(numbers.value[:, chosen], numbers.error[:, chosen], numbers.norm, numbers.depth)
        for (key, entry), column in zip(new.items(), self.scalars(picked, name).tolist(), strict=True):
            self._shared[key] = (int(column), float(abs(scale[entry])))
        blank = (0, 1.0)
        found = [blank if constant[e] else self._shared[key] for e, key in enumerate(keys)]
        column = np.asarray([c for c, _ in found], dtype=np.int64)
        factor = np.abs(scale) / np.asarray([s for _, s in found], dtype=np.float64)  # powers of two: exact
        return Absolutes(column, np.where(constant, 0.0, factor))

    def depth_of(self, absolutes: Absolutes) -> int:
        """One more than the largest layer among the blocks in use."""
        used = absolutes.column[absolutes.factor != 0] - self.inputs
        if used.size == 0:
            return 0
        owners = np.concatenate(self._w_block)
        layers = np.asarray(self._layer, dtype=np.int64)
        return int(layers[owners[used]].max()) + 1

    def form(self, outputs: Increment) -> Form:
        """The form whose outputs are the entries of `outputs` (flat)."""
        wide = outputs.widened(self.columns)
        value, error = self._stacked()
        used = sorted(set(self._layer))
        number = {layer: i for i, layer in enumerate(used)}
        n = self.inputs
        return Form(
            c=_matrix(value[:, n:], error[:, n:]),
            d=_matrix(value[:, :n], error[:, :n]),
            cy=_matrix(_transposed(wide.value)[:, n:], _transposed(wide.error)[:, n:]),
            dy=_matrix(_transposed(wide.value)[:, :n], _transposed(wide.error)[:, :n]),
            v_block=_concatenated(self._v_block),
            w_block=_concatenated(self._w_block),
            layer=np.asarray([number[layer] for layer in self._layer], dtype=np.int64),
            labels=tuple(", ".join(self._names[layer]) for layer in used),
        )

    def _stacked(self) -> tuple[Floats, Floats]:
        count = sum(int(part.value.shape[1]) for part in self._rows)
        value, error = np.zeros((count, self.columns)), np.zeros((count, self.columns))
        start = 0
        for part in self._rows:
            columns, rows = part.value.shape
            value[start : start + rows, :columns] = part.value.numpy().T
            error[start : start + rows, :columns] = part.error.numpy().T
            start += rows
        return value, error


def _transposed(value: Tensor) -> Floats:
    return np.ascontiguousarray(value.reshape(value.shape[0], -1).numpy().T)


def _matrix(value: Floats, error: Floats) -> Matrix:
    return Matrix(np.ascontiguousarray(value), np.ascontiguousarray(error) if error.any() else None)


def _concatenated(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
