"""Inputs as pictures: which inputs are images, and PNG files as data URIs, without an imaging library."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float64]  # (height, width) or (height, width, 3)
Bytes = npt.NDArray[np.uint8]
SMALLEST = 6  # pixels a side: anything smaller is a table of numbers, not a picture


@dataclass(frozen=True, slots=True)
class Pictures:
    """Data URIs: the input found; and, where the middle of the region is known, that and what changed.

    `largest` is the largest change of a pixel, in units of the input.
    """

    found: str
    original: str = ""
    change: str = ""
    largest: float = 0.0
    width: int = 0


def pictures_of(witness: dict[str, Any]) -> Pictures | None:
    """The pictures of a witness in a record; None if its input is no image."""
    found = as_image(witness["inputs"], witness.get("shapes") or [[len(witness["inputs"])]])
    if found is None or not np.isfinite(found).all():
        return None
    centre = witness.get("centre")
    if centre is None:
        return Pictures(png(_gray(found, *_range(found))), width=found.shape[1])
    original = as_image(centre, witness["shapes"])
    if original is None or not np.isfinite(original).all():
        return None
    low, high = _range(np.stack([found, original]))
    change = found - original
    return Pictures(
        png(_gray(found, low, high)),
        png(_gray(original, low, high)),
        png(_signed(change)),
        float(np.abs(change).max()),
        found.shape[1],
    )


def as_image(values: Sequence[float], shapes: Sequence[Sequence[int]]) -> Image | None:
    """The one input as (height, width) or (height, width, 3), if its shape or its size is that of a picture."""
    if len(shapes) != 1 or math.prod(shapes[0]) != len(values):
        return None
    extents = [extent for extent in shapes[0] if extent != 1]
    flat = np.asarray(values, dtype=np.float64)
    if len(extents) == 1:
        extents = _square(extents[0])
    if len(extents) == 2 and min(extents) >= SMALLEST:
        return flat.reshape(extents)
    if len(extents) == 3 and extents[0] == 3 and min(extents[1:]) >= SMALLEST:
        return flat.reshape(extents).transpose(1, 2, 0)
    if len(extents) == 3 and extents[2] == 3 and min(extents[:2]) >= SMALLEST:
        return flat.reshape(extents)
    return None


def png(pixels: Bytes) -> str:
    """A data URI of (height, width) grey or (height, width, 3) coloured bytes. Format: RFC 2083."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _square(entries: int) -> list[int]:
    for channels in (1, 3):
        side = math.isqrt(entries // channels)
        if side >= 8 and channels * side * side == entries:
            return [side, side] if channels == 1 else [3, side, side]
    return [entries]


def _range(values: Image) -> tuple[float, float]:
    """The usual ranges of pixels where the values fit one, else their own."""
    low, high = float(values.min()), float(values.max())
    for top in (1.0, 16.0, 255.0):
        if low >= -1e-3 * top and high <= 1.001 * top and high > 0.25 * top:
            return 0.0, top
    return low, high if high > low else low + 1.0


def _gray(values: Image, low: float, high: float) -> Bytes:
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0 + 0.5, dtype=np.uint8)


def _signed(change: Image) -> Bytes:
    """White where nothing changed, orange for more, blue for less; the strongest change of a channel counts."""
    if change.ndim == 3:
        channel = np.abs(change).argmax(axis=2)
        change = np.take_along_axis(change, channel[:, :, None], axis=2)[:, :, 0]
    scale = float(np.abs(change).max()) or 1.0
    share = (change / scale)[:, :, None]
    more, less, none = (np.array(c, dtype=np.float64) for c in ((214, 94, 20), (30, 108, 180), (250, 249, 246)))
    colour = np.where(share >= 0, none + share * (more - none), none - share * (less - none))
    return np.asarray(colour + 0.5, dtype=np.uint8)
