"""Broadcasting of events under any number of leading axes, and its adjoint."""

from __future__ import annotations

from torch import Tensor

from verinet.ir.graph import Shape


def aligned_event(tensor: Tensor, shape: Shape, rank: int) -> Tensor:
    """Insert unit axes after the leading ones so that an event of `shape` has `rank` axes."""
    missing = rank - len(shape)
    if missing <= 0:
        return tensor
    lead = tensor.shape[: tensor.dim() - len(shape)]
    return tensor.reshape(*lead, *(1,) * missing, *shape)


def summed_event(rows: Tensor, shape: Shape, rank: int) -> Tensor:
    """Sum the event axes that broadcasting expanded: the adjoint of `aligned_event` followed by broadcasting."""
    lead = rows.shape[: rows.dim() - rank]
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    axes = [len(lead) + i for i, extent in enumerate(padded) if extent == 1 and rows.shape[len(lead) + i] != 1]
    if axes:
        rows = rows.sum(axes, keepdim=True)
    return rows.reshape(*lead, *shape)
