"""Moving a point into a box and onto the numbers of the network's input type.

Rounding a corner of the box to float32 often lands a hair outside it, so the box is shrunk to its outermost numbers of
the type first, and the point is clipped to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verinet.errors import ModelError
from verinet.spec.property import Box, Floats

_TYPES: dict[str, type[np.floating[Any]]] = {"float32": np.float32, "float64": np.float64}


@dataclass(frozen=True, slots=True)
class Grid:
    """The number type of each part of the flat input: `parts` holds (size, dtype name) in order."""

    parts: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], dtypes: Sequence[object]) -> Grid:
        """From the network's inputs, one shape and one dtype each.

        Raises:
            ModelError: an input type without a rounding rule here.
        """
        names = [np.dtype(dtype).name for dtype in dtypes]  # type: ignore[call-overload]
        unknown = next((name for name in names if name not in _TYPES), None)
        if unknown is not None:
            raise ModelError(f"no witness can be rounded to the input type {unknown}", hint="use float32 or float64")
        return cls(
            tuple((int(np.prod(shape, dtype=np.int64)), name) for shape, name in zip(shapes, names, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Snapped:
    """A point on the grid as float64, and whether all of it is inside the box."""

    point: Floats
    inside: bool


def snap(point: Floats, box: Box, grid: Grid) -> Snapped:
    """Clip `point` to the numbers of the grid that lie in the box; where there are none, the nearest number."""
    pieces: list[Floats] = []
    inside = True
    offset = 0
    for size, name in grid.parts:
        part = slice(offset, offset + size)
        offset += size
        low, high = _inward(box.inner_lower[part], box.inner_upper[part], name)
        possible = low <= high
        inside = inside and bool(possible.all())
        rounded = _rounded(point[part], name)
        nearest = _rounded(0.5 * box.lower[part] + 0.5 * box.upper[part], name)
        pieces.append(np.where(possible, np.clip(rounded, low, np.maximum(low, high)), nearest))
    return Snapped(np.concatenate(pieces) if pieces else np.zeros(0), inside)


def _rounded(values: Floats, name: str) -> Floats:
    with np.errstate(over="ignore"):  # too large for the type: infinite, and clipped afterwards
        return values.astype(name).astype(np.float64)


def _inward(lower: Floats, upper: Floats, name: str) -> tuple[Floats, Floats]:
    """The smallest number of the type >= lower and the largest <= upper, as float64."""
    if name == "float64":
        return lower, upper
    kind = _TYPES[name]
    with np.errstate(over="ignore"):
        low, high = lower.astype(kind), upper.astype(kind)
    low = np.where(low.astype(np.float64) < lower, np.nextafter(low, kind(np.inf)), low)
    high = np.where(high.astype(np.float64) > upper, np.nextafter(high, kind(-np.inf)), high)
    return low.astype(np.float64), high.astype(np.float64)
