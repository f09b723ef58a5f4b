"""Regions as users give them: a box, a ball, or the boxes of a property."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verinet.errors import InternalError, PropertyError, UsageError
from verinet.spec.property import Box, Floats, Property

if TYPE_CHECKING:
    from verinet.solvers.lipschitz.local import Zone
    from verinet.solvers.lipschitz.lower import Region

    from verinet.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Ball:
    """All x with `||x - center||_2 <= radius`."""

    center: npt.ArrayLike
    radius: float


LipschitzRegion = Box | Ball | Property | str | Path | None


@dataclass(frozen=True, slots=True)
class Place:
    """A region in the terms of the solvers: bounds of a box around it, None for everywhere."""

    name: str
    lower: Floats | None = None
    upper: Floats | None = None
    ball: Ball | None = None

    def zone(self) -> Zone:
        """The region for bound propagation. Raises `InternalError` for everywhere."""
        from verinet.solvers.lipschitz.local import ball_zone, box_zone

        if self.ball is not None:
            return ball_zone(np.asarray(self.ball.center, dtype=np.float64), float(self.ball.radius))
        if self.lower is None or self.upper is None:
            raise InternalError("a local bound without a region")
        return box_zone(self.lower, self.upper)

    def sampled(self, inputs: int) -> Region:
        """The region for the search of lower bounds."""
        from verinet.solvers.lipschitz.lower import ball, box, everywhere

        if self.ball is not None:
            return ball(np.asarray(self.ball.center, dtype=np.float64), float(self.ball.radius))
        if self.lower is not None and self.upper is not None:
            return box(self.lower, self.upper)
        return everywhere(inputs)


def place_of(region: LipschitzRegion, graph: Graph | None) -> Place:
    """The region as bounds for a network, None for an implicit one; `UsageError` where it does not fit."""
    if region is None:
        return Place("everywhere")
    if graph is None:
        raise UsageError("bounds of implicit models are for the whole space", hint="leave the region out")
    size = graph.input_size
    if isinstance(region, Ball):
        from verinet.solvers.lipschitz.balls import ball_box

        lower, upper = ball_box(np.asarray(region.center, dtype=np.float64), float(region.radius))
        _fits(lower, size)
        return Place("ball", lower, upper, region)
    if isinstance(region, Box):
        _fits(region.lower, size)
        return Place("box", region.lower, region.upper)
    statement = region if isinstance(region, Property) else _read(region, graph)
    if not statement.boxes:
        raise PropertyError("the region is empty: there is nothing to bound", where=statement.name)
    lower = np.min([b.lower for b in statement.boxes], axis=0)
    upper = np.max([b.upper for b in statement.boxes], axis=0)
    _fits(lower, size)
    return Place("box", lower, upper)


def _fits(values: Floats, size: int) -> None:
    if values.size != size:
        raise UsageError(
            f"the region has {values.size} inputs, the network {size}",
            hint="give one number per input, flat, in the order X_0, X_1, ...",
        )


def _read(path: str | Path, graph: Graph) -> Property:
    from verinet.spec import read_property

    return read_property(path, graph.input_size, graph.output_size)
