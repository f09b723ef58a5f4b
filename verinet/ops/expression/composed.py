"""A function given by a tape: its pieces are found when a range of arguments is asked for, once per range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from verinet.errors import UsageError
from verinet.ops.expression import evaluate
from verinet.ops.expression.charted import chart_map
from verinet.ops.expression.intervals import F32, F64, Array
from verinet.ops.expression.ranges import HINGES
from verinet.ops.expression.subdivide import Problem
from verinet.ops.expression.tape import COMPARE, Tape
from verinet.ops.scalar_function import DomainError, ScalarFunction
from verinet.ops.scalar_map import PieceMap

REACHES = (8.0, 64.0, 1024.0, 2.0**15, 2.0**25, 2.0**40)
"""Ranges [-r, r] for which pieces are found; the smallest one that holds the bounds is used."""
CHANNELS = 512
"""Different sets of parameters that one function may have."""


Key = tuple[float, torch.dtype, torch.device]


@dataclass(frozen=True)
class Channels:
    """Parameter tensors as distinct rows: `rows` (channels,) each, and which channel every entry belongs to."""

    rows: tuple[Array, ...]
    base: Tensor

    @property
    def count(self) -> int:
        return self.rows[0].size if self.rows else 1


def channels_of(parameters: Sequence[Tensor]) -> Channels:
    """Distinct combinations of the parameters' entries after broadcasting."""
    if not parameters:
        return Channels((), torch.zeros((), dtype=torch.long))
    spread = [p.numpy() for p in torch.broadcast_tensors(*(p.double().cpu() for p in parameters))]
    flat = np.stack([p.reshape(-1) for p in spread], 1)
    rows, inverse = np.unique(flat, axis=0, return_inverse=True)
    base = torch.from_numpy(np.asarray(inverse).reshape(spread[0].shape).astype(np.int64))
    return Channels(tuple(np.ascontiguousarray(rows[:, i]) for i in range(rows.shape[1])), base)


@dataclass(frozen=True, eq=False)
class ComposedFunction(ScalarFunction):
    """f as a tape. `on` gives the function with its pieces; the other uses of a `ScalarFunction` go through it."""

    tape: Tape | None = None
    channels: Channels | None = None
    memory: dict[Key, ScalarFunction] = field(default_factory=dict, repr=False)
    """The function with its pieces by range, type and device, kept with the function and its casts."""
    charts: dict[Key, PieceMap] = field(default_factory=dict, repr=False)
    """The pieces alone, which equal functions (those of other layers, say) share."""

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """A copy with cast parameters that shares the pieces already found."""
        if not self.parameters:
            return self
        return replace(self, parameters=tuple(p.to(device, dtype) for p in self.parameters))

    @property
    def bend(self) -> int:
        """0: not known before a range is."""
        return 0

    def outside(self, lower: Tensor, upper: Tensor) -> bool:
        return self.on(lower, upper).outside(lower, upper)

    def on(self, lower: Tensor, upper: Tensor) -> ScalarFunction:
        """The function with the pieces that it has on a range which holds all the intervals.

        Raises:
            DomainError: bounds that are infinite or beyond the largest range.
        """
        most = float(torch.maximum(upper.max(), -lower.min())) if lower.numel() else 0.0
        reach = next((r for r in REACHES if most <= r), None)
        if reach is None or math.isnan(most):
            raise DomainError(self.name)
        key = (reach, lower.dtype, lower.device)
        if key not in self.memory:
            self.memory[key] = self._found(reach, lower)
        return self.memory[key]

    def _found(self, reach: float, like: Tensor) -> ScalarFunction:
        tape, channels = self.tape, self.channels
        if tape is None or channels is None:
            raise UsageError(f"the function '{self.name}' has no expression")
        arithmetic = F64 if like.dtype == torch.float64 else F32
        problem = Problem(tape, channels.rows, channels.count, reach, arithmetic)

        def derivative(places: Array, channel: Array) -> Array:
            rows = [torch.from_numpy(row[channel]).unsqueeze(-1) for row in channels.rows]
            return evaluate.slope(tape, torch.from_numpy(places), rows).numpy()

        key = (reach, like.dtype, like.device)
        if key not in self.charts:
            self.charts[key] = chart_map(problem, channels.base, derivative, like)
        return mapped(self.to(like.dtype, like.device), self.charts[key])


def mapped(function: ScalarFunction, chart: PieceMap) -> ScalarFunction:
    """A plain record with a map in place of breakpoints."""
    return ScalarFunction(
        name=function.name,
        value=function.value,
        slope=function.slope,
        curvature=function.curvature,
        bounds=function.bounds,
        slope_range=function.slope_range,
        error_ulps=0.0,
        slope_ulps=0.0,
        parameters=function.parameters,
        deviation=function.deviation,
        chart=chart,
    )


def compose(name: str, tape: Tape, parameters: Sequence[Tensor] = ()) -> ComposedFunction:
    """The function that a tape computes, entry by entry, with parameter tensors that broadcast against its input.

    Raises:
        UsageError: more distinct sets of parameters than can be analysed one by one, or parameters that are not finite.
    """
    numbers = [torch.as_tensor(p).detach().to(torch.float64) for p in parameters]
    if any(not bool(torch.isfinite(p).all()) for p in numbers):
        raise UsageError(f"a parameter of the function '{name}' is not finite")
    if all(p.numel() == 1 for p in numbers) and numbers:
        tape, numbers = _with_numbers(tape, [float(p) for p in numbers]), []
    channels = channels_of(numbers)
    if channels.count > CHANNELS:
        raise UsageError(
            f"the function '{name}' has {channels.count} different sets of parameters (at most {CHANNELS})",
            hint="share parameters between channels, or leave the parts of the function as separate operators",
        )

    def value(x: Tensor, *given: Tensor) -> Tensor:
        return evaluate.value(tape, x, given)

    def slope(x: Tensor, *given: Tensor) -> Tensor:
        return evaluate.slope(tape, x, given)

    return ComposedFunction(
        name=name,
        value=value,
        slope=slope,
        curvature=(0,) if _piecewise_linear(tape) else (1,),
        error_ulps=0.0,
        slope_ulps=0.0,
        parameters=tuple(numbers),
        tape=tape,
        channels=channels,
        charts=_shared(tape, _fingerprint(channels)),
    )


def _fingerprint(channels: Channels) -> tuple[bytes | tuple[int, ...], ...]:
    return (*(row.tobytes() for row in channels.rows), channels.base.numpy().tobytes(), tuple(channels.base.shape))


@lru_cache(maxsize=256)
def _shared(tape: Tape, parameters: tuple[bytes | tuple[int, ...], ...]) -> dict[Key, PieceMap]:
    """One store of pieces for all functions with this tape and these parameters; it only ever grows by equal facts."""
    return {}


def _with_numbers(tape: Tape, numbers: Sequence[float]) -> Tape:
    """Parameters with one entry become constants."""
    steps = [
        replace(step, kind="const", number=numbers[int(step.number)]) if step.kind == "param" else step
        for step in tape.steps
    ]
    return Tape(tuple(steps))


def _piecewise_linear(tape: Tape) -> bool:
    """True if no step bends or jumps: affine ones, hinges, minima and maxima."""
    smooth = [s for s in tape.steps if s.kind not in ("x", "const", "param", "neg", "add", "mul", "max", "min")]
    if any(s.kind not in HINGES for s in smooth) or any(s.kind in COMPARE for s in tape.steps):
        return False
    fixed = {i for i, step in enumerate(tape.steps) if step.kind in ("const", "param")}
    return all(set(s.inputs) & fixed for s in tape.steps if s.kind == "mul")
