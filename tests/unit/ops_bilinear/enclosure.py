"""What every operator of several variables must satisfy, checked in extended precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verinet.ir.graph import total
from verinet.numerics.rounding import gamma, tiny, unit_roundoff
from verinet.ops.base import NonlinearOp

Shape = tuple[int, ...]
Reference = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Case:
    """An operator, the event shapes of its inputs and output, and its value on (samples, *shape) in long double."""

    op: NonlinearOp
    shapes: tuple[Shape, ...]
    out: Shape
    reference: Reference


def boxes(
    shapes: Sequence[Shape], count: int, radius: float, seed: int, dtype: torch.dtype, scale: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """`count` random boxes; some entries are points, some ten times wider."""
    draw = torch.Generator().manual_seed(seed)
    lowers, uppers = [], []
    for shape in shapes:
        centre = torch.randn(count, *shape, generator=draw, dtype=torch.float64) * scale
        half = torch.rand(count, *shape, generator=draw, dtype=torch.float64) * radius
        half[torch.rand(half.shape, generator=draw) < 0.15] = 0.0
        half[torch.rand(half.shape, generator=draw) < 0.1] *= 10
        lowers.append((centre - half).to(dtype))
        uppers.append(torch.maximum((centre + half).to(dtype), lowers[-1]))
    return lowers, uppers


def points(lowers: Sequence[Tensor], uppers: Sequence[Tensor], seed: int, count: int = 60) -> list[Tensor]:
    """(count, boxes, *shape) per input: corners, points with some entries at an end, and inner points."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for low, high in zip(lowers, uppers, strict=True):
        share = torch.rand(count, *low.shape, generator=draw, dtype=torch.float64)
        share[: count // 3] = (share[: count // 3] < 0.5).double()
        ends = torch.rand(share.shape, generator=draw) < 0.5
        share[count // 3 : count // 2] = torch.where(ends, share.round(), share)[count // 3 : count // 2]
        inner = low + share.to(low.dtype) * (high - low)
        found.append(torch.minimum(torch.maximum(inner, low), high))
    return found


def multipliers(
    op: NonlinearOp, lowers: Sequence[Tensor], uppers: Sequence[Tensor], kind: str, seed: int
) -> tuple[Tensor, ...] | None:
    """None (the operator's own), the default, anything at all, or anything that is useful."""
    if kind == "none":
        return None
    default = op.multipliers(lowers, uppers)
    if kind == "default":
        return default
    draw = torch.Generator().manual_seed(seed)
    wide = 10.0 if seed % 2 else 1.0
    random = [(torch.rand(m.shape, generator=draw, dtype=torch.float64) * 3 - 1) * wide for m in default]
    moved = [m.to(lowers[0].dtype) for m in random]
    return op.project(moved, lowers, uppers) if kind == "projected" else tuple(moved)


def _long(value: Tensor) -> np.ndarray:
    return value.double().numpy().astype(np.longdouble)


def charged(case: Case, rows: Tensor, lines: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]):
    """Coefficients and constant of the rows' bounds, with what the backward pass charges for an operator."""
    pulled = case.op.pull(rows, tuple(lines))
    constant = pulled.offset - pulled.magnitude * gamma(total(case.out) + 8, rows.dtype) - tiny(rows.dtype)
    unit = unit_roundoff(rows.dtype)
    for part, low, high in zip(pulled.rows, lowers, uppers, strict=True):
        size = torch.maximum(low.abs(), high.abs())
        constant = constant - (part.abs() * size).reshape(part.shape[0], -1).sum(-1) * (4 * unit)
    return pulled.rows, constant


def worst_violation(
    case: Case, lowers: Sequence[Tensor], uppers: Sequence[Tensor], rows: Tensor, kind: str, seed: int
) -> float:
    """How far a bound exceeds a sampled value, at most; anything above 0 is unsound."""
    chosen = multipliers(case.op, lowers, uppers, kind, seed)
    parts, constant = charged(case, rows, case.op.lines(lowers, uppers, chosen), lowers, uppers)
    samples = points(lowers, uppers, seed + 1)
    inputs = [_long(s) for s in samples]
    flat = [x.reshape(-1, *x.shape[2:]) for x in inputs]
    values = case.reference(*flat).reshape(*inputs[0].shape[:2], *case.out)
    weight = _long(rows)
    truth = (values * weight).reshape(*values.shape[:2], -1).sum(-1)
    bound = _long(constant)[None]
    for part, x in zip(parts, inputs, strict=True):
        bound = bound + (x * _long(part)).reshape(*x.shape[:2], -1).sum(-1)
    return float((bound - truth).max())


def interval_violation(case: Case, lowers: Sequence[Tensor], uppers: Sequence[Tensor], seed: int) -> float:
    """How far a sampled value leaves the interval, at most."""
    low, high = case.op.interval(lowers, uppers)
    inputs = [_long(s) for s in points(lowers, uppers, seed)]
    flat = [x.reshape(-1, *x.shape[2:]) for x in inputs]
    values = case.reference(*flat).reshape(*inputs[0].shape[:2], *case.out)
    slack = tiny(low.dtype)
    return float(max((_long(low) - values).max(), (values - _long(high)).max()) - slack)


def rows_of(out: Shape, count: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Random rows; a third have a common part, a third are single entries."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, *out, generator=draw, dtype=torch.float64)
    rows[::3] += 2.0
    flat = rows[1::3].reshape(rows[1::3].shape[0], -1)
    flat = flat * torch.nn.functional.one_hot(
        torch.randint(flat.shape[1], (flat.shape[0],), generator=draw), flat.shape[1]
    )
    rows[1::3] = flat.reshape(rows[1::3].shape)
    return rows.to(dtype)


def gradient_error(
    case: Case, lowers: Sequence[Tensor], uppers: Sequence[Tensor], seed: int, spans: Sequence[float] = (1.0,) * 8
) -> float:
    """Largest difference between closed-form and finite-difference derivatives of the bound at fixed points.

    `spans` are the sizes of the multipliers' boxes.

    Relative to the size of the gradient. Multipliers are drawn from the inside of their boxes, away from kinks.
    """
    op, dtype = case.op, torch.float64
    rows = rows_of(case.out, lowers[0].shape[0], seed, dtype)
    draw = torch.Generator().manual_seed(seed + 7)
    chosen = [
        span * (m * 0 + 0.3 + 0.4 * torch.rand(m.shape, generator=draw, dtype=dtype))
        for m, span in zip(op.multipliers(lowers, uppers), spans, strict=False)
    ]
    inputs = [s[-1] for s in points(lowers, uppers, seed + 2)]

    def value(changed: Sequence[Tensor]) -> Tensor:
        pulled = op.pull(rows, op.lines(lowers, uppers, tuple(changed)))
        total_value = pulled.offset.clone()
        for part, x in zip(pulled.rows, inputs, strict=True):
            total_value += (part * x).reshape(x.shape[0], -1).sum(-1)
        return total_value

    gradients = op.gradient(rows, op.lines(lowers, uppers, tuple(chosen)), *inputs)
    worst, step = 0.0, 1e-6
    for position, m in enumerate(chosen):
        direction = torch.randn(m.shape, generator=draw, dtype=dtype)
        moved = [
            [c + (sign * step * direction if i == position else 0) for i, c in enumerate(chosen)] for sign in (1, -1)
        ]
        numeric = (value(moved[0]) - value(moved[1])) / (2 * step)
        exact = (gradients[position].expand(m.shape) * direction).reshape(m.shape[0], -1).sum(-1)
        scale = (gradients[position].expand(m.shape) * direction).abs().reshape(m.shape[0], -1).sum(-1) + 1e-3
        worst = max(worst, float(((numeric - exact).abs() / scale).max()))
    return worst
