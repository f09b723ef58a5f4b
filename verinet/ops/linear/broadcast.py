"""Numpy broadcasting of the event axes, under one leading axis, and its adjoint."""

from __future__ import annotations

from torch import Tensor

from verinet.ir.graph import Shape


def align(value: Tensor, rank: int) -> Tensor:
    """Insert unit axes after the leading one until the event has at least `rank` axes."""
    missing = rank - (value.dim() - 1)
    if missing <= 0:
        return value
    return value.reshape(value.shape[0], *(1,) * missing, *value.shape[1:])


def unbroadcast(rows: Tensor, shape: Shape) -> Tensor:
    """Sum the axes along which an event of `shape` was repeated: (rows, *out) to (rows, *shape)."""
    rank = rows.dim() - 1
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    axes = [i + 1 for i, extent in enumerate(padded) if extent == 1 and rows.shape[i + 1] != 1]
    if axes:
        rows = rows.sum(axes, keepdim=True)
    return rows.reshape(rows.shape[0], *shape)
