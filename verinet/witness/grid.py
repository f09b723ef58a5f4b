"""Moving a point into a box and onto the numbers of the network's input type.

Rounding a corner of the box to float32 often lands a hair outside it, so the box is shrunk to its outermost numbers of
the type first, and the point is clipped to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verinet.errors import ModelError
from verinet.spec.property import Box, Floats

_TYPES: dict[str, type[np.floating[Any]]] = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
# Narrowest first: a number of a type is one of every later type as well, up to the largest integers.
_RANK = (*sorted(_INTEGERS), *_TYPES)


@dataclass(frozen=True, slots=True)
class Grid:
    """The number type of each part of the flat input: `parts` holds (size, dtype name) in order."""

    parts: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], dtypes: Sequence[object]) -> Grid:
        """From the network's inputs, one shape and one dtype each. Raises as `checked` does."""
        names = [np.dtype(dtype).name for dtype in dtypes]  # type: ignore[call-overload]
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        return cls.checked(list(zip(sizes, names, strict=True)))

    @classmethod
    def checked(cls, parts: Sequence[tuple[int, str]]) -> Grid:
        """From sizes and names of element types.

        Raises:
            ModelError: an input type without a rounding rule here.
        """
        unknown = next((name for _, name in parts if name not in _RANK), None)
        if unknown is not None:
            raise ModelError(
                f"no witness can be rounded to the input type {unknown}", hint="use float32, float64 or whole numbers"
            )
        return cls(tuple(parts))

    def shared(self, sources: npt.NDArray[np.int64], count: int) -> Grid:
        """The grid of `count` free inputs, where entry i of this one is tied to the free input `sources[i]`."""
        ranks = np.concatenate([np.full(size, _RANK.index(name)) for size, name in self.parts])
        least = np.full(count, len(_RANK), dtype=np.int64)
        np.minimum.at(least, sources, ranks)
        edges = np.flatnonzero(np.diff(least)) + 1
        runs = np.split(least, edges)
        return Grid(tuple((len(run), _RANK[int(run[0])]) for run in runs))

    def rounded(self, point: Floats) -> Floats:
        """The nearest numbers of the grid."""
        pieces, offset = list[Floats](), 0
        for size, name in self.parts:
            pieces.append(_rounded(point[offset : offset + size], name))
            offset += size
        return np.concatenate(pieces)


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
    if name in _INTEGERS:
        return np.clip(np.rint(values), *_limits(name))
    with np.errstate(over="ignore"):  # too large for the type: infinite, and clipped afterwards
        return values.astype(name).astype(np.float64)


def _inward(lower: Floats, upper: Floats, name: str) -> tuple[Floats, Floats]:
    """The smallest number of the type >= lower and the largest <= upper, as float64."""
    if name == "float64":
        return lower, upper
    if name in _INTEGERS:
        least, most = _limits(name)
        return np.maximum(np.ceil(lower), least), np.minimum(np.floor(upper), most)
    kind = _TYPES[name]
    with np.errstate(over="ignore"):
        low, high = lower.astype(kind), upper.astype(kind)
    low = np.where(low.astype(np.float64) < lower, np.nextafter(low, kind(np.inf)), low)
    high = np.where(high.astype(np.float64) > upper, np.nextafter(high, kind(-np.inf)), high)
    return low.astype(np.float64), high.astype(np.float64)


def _limits(name: str) -> tuple[float, float]:
    """The range of an integer type, cut to the whole numbers that float64 holds."""
    limits, most = np.iinfo(name), 2.0**53
    return max(float(limits.min), -most), min(float(limits.max), most)
