"""Does a pair of lines enclose a function? Candidates are found in float64, the verdict is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import torch
from torch import Tensor

from tests.kits.scalar_reference import Real, domain, inside, reference
from verinet.ops.activations import find
from verinet.ops.activations.registry import table
from verinet.ops.base import Lines
from verinet.ops.scalar import Elementwise, ScalarFunction

CPU = torch.device("cpu")
Attributes = Mapping[str, Any]
CASES = [(op, example) for op, activation in table().items() for example in activation.examples]
IDS = [f"{op}-{i}" for i, (op, _) in enumerate(CASES)]


def channels_of(function: ScalarFunction) -> int:
    """Entries that the parameters broadcast to; 1 without any."""
    return torch.broadcast_tensors(*function.parameters)[0].numel() if function.parameters else 1


@dataclass(frozen=True)
class Case:
    """One function with intervals: `lower`, `upper` are (intervals, channels) of the dtype under test."""

    exact: tuple[Real, ...]
    op: Elementwise
    lower: Tensor
    upper: Tensor

    @property
    def function(self) -> ScalarFunction:
        return self.op.function

    def points(self, extra: Tensor | None = None) -> Tensor:
        """(points, intervals, channels) float64 inside the intervals: ends, a grid, breakpoints and `extra`."""
        low, high = self.lower.double(), self.upper.double()
        grid = torch.linspace(0, 1, 41, dtype=torch.float64).reshape(-1, 1, 1)
        marks = [*self.function.breakpoints, *self.function.extrema, *self.places()]
        if self.function.jumps is not None:
            jump = self.function.jumps.nearest(0.5 * low + 0.5 * high)
            marks_at = [torch.nextafter(jump, high), torch.nextafter(jump, low), jump]
        else:
            marks_at = []
        marks_at += [torch.full_like(low, m) for m in marks]
        parts = [low + (high - low) * grid, low.unsqueeze(0), high.unsqueeze(0)]
        parts += [m.unsqueeze(0) for m in marks_at]
        # Points close to the ends, where chords of steep functions are tight.
        parts += [low + (high - low) * grid[1:5] * 1e-6, high - (high - low) * grid[1:5] * 1e-6]
        if extra is not None:
            parts.append(extra.double())
            parts.append(torch.nextafter(extra.double(), high.expand_as(extra)))
            parts.append(torch.nextafter(extra.double(), low.expand_as(extra)))
        return torch.minimum(torch.maximum(torch.cat(parts), low), high)

    def places(self) -> list[float]:
        """Corners, extrema and inflections that were found for these intervals: the first few dozen inside."""
        chart = self.function.on(self.lower, self.upper).chart
        if chart is None:
            return []
        bands = (chart.corners, chart.extrema, chart.turns)
        found = torch.cat([t.reshape(-1).double() for band in bands for t in (band.start, band.stop)])
        inside = found[(found >= self.lower.min()) & (found <= self.upper.max())].unique()
        return [float(x) for x in inside[:: 1 + inside.numel() // 40]]


def make_case(onnx_op: str, attributes: Attributes, lower: Tensor, upper: Tensor) -> Case:
    """A case from (intervals, 1) bounds; channels are repeated for functions with parameters."""
    function = find(onnx_op, attributes)
    assert function is not None
    channels = channels_of(function)
    limits = domain(onnx_op, attributes)
    lower, upper = (inside(t, limits).expand(-1, channels).contiguous() for t in (lower, upper))
    exact = tuple(reference(onnx_op, attributes, c) for c in range(channels))
    return Case(exact, Elementwise(function, 1).to(lower.dtype, CPU), lower, torch.maximum(lower, upper))


def gaps(case: Case, slope: Tensor, offset: Tensor, sign: int, points: Tensor, keep: int = 3) -> list[tuple[Any, ...]]:
    """Exact sign * (f(x) - slope x - offset) at the `keep` points per entry where it is least in float64."""
    value = case.op.to(torch.float64, CPU).forward(points)
    gap = (value - slope.double() * points - offset.double()) * sign
    gap = torch.nan_to_num(gap, nan=0.0)
    found = []
    with mp.workdps(60):
        for entry in range(points.shape[1]):
            for channel in range(points.shape[2]):
                line = float(slope[entry, channel]), float(offset[entry, channel])
                for i in gap[:, entry, channel].argsort()[:keep].tolist():
                    x = float(points[i, entry, channel])
                    true = case.exact[channel](mp.mpf(x)) - mp.mpf(line[0]) * mp.mpf(x) - mp.mpf(line[1])
                    found.append(
                        (sign * true, x, line, float(case.lower[entry, channel]), float(case.upper[entry, channel]))
                    )
    return found


def check_lines(case: Case, lines: Lines) -> None:
    """Raise unless both lines hold at every sampled point, in exact arithmetic and without slack."""
    for sign, (slope, offset, touch) in ((1, (lines[0], lines[1], lines[4])), (-1, (lines[2], lines[3], lines[5]))):
        assert bool(torch.isfinite(slope).all()) and bool(torch.isfinite(offset).all())
        points = case.points(touch.double().expand(case.lower.shape).unsqueeze(0))
        worst = min(gaps(case, slope, offset, sign, points))
        assert worst[0] >= 0, (
            f"{case.function.name}, side {sign}: {mp.nstr(worst[0], 5)} at x, line, interval {worst[1:]}"
        )
