"""Random intervals and slopes for functions of one variable: wide, narrow, degenerate and huge ones, in batches."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tests.kits.scalar_check import Attributes, Case, gaps, make_case
from tests.kits.scalar_reference import domain
from verinet.ops.scalar import DomainError

_RADII = (0.0, 1e-300, 1e-16, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 1.0, 4.0)
_SLOPES = (0.0, 1.0, -1.0, 0.25, 1e-9, 1e3, -1e3, 1e6)


def intervals(onnx_op: str, attributes: Attributes, count: int, seed: int, dtype: torch.dtype) -> Case:
    """`count` intervals of every kind, many of them near 0 and near small whole numbers."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=draw, dtype=torch.float64)

    def choose(options: list[Tensor]) -> Tensor:
        pick = torch.randint(len(options), (1, count, 1), generator=draw)
        return torch.stack(options).gather(0, pick)[0]

    low, high = domain(onnx_op, attributes)
    scale = 0.2 if high - low < 4 else 1.0
    near = torch.randint(-8, 9, (count, 1), generator=draw).double() * 0.25
    centre = choose([uniform(-6, 6), uniform(-6, 6), near, near * 1.2, uniform(-100, 100), uniform(-1e5, 1e5)]) * scale
    known = torch.tensor(_RADII, dtype=torch.float64)
    fixed = known[torch.randint(len(_RADII), (count, 1), generator=draw)]
    radius = choose([uniform(0, 4), uniform(0, 4), fixed, fixed, uniform(0, 50), uniform(0, 2e3)]) * scale
    centre = centre.abs() if low >= 0 else centre
    return make_case(onnx_op, attributes, (centre - radius).to(dtype), (centre + radius).to(dtype))


def slopes(case: Case, seed: int) -> tuple[Tensor, Tensor]:
    """Slopes of both lines: about those of the function, and any others."""
    draw = torch.Generator().manual_seed(seed)
    shape = case.lower.shape
    made = []
    for _ in range(2):
        near = torch.rand(shape, generator=draw, dtype=torch.float64) * 1.6 - 0.3
        any_ = torch.randn(shape, generator=draw, dtype=torch.float64) * 4
        fixed = torch.tensor(_SLOPES, dtype=torch.float64)[torch.randint(len(_SLOPES), shape, generator=draw)]
        pick = torch.randint(4, shape, generator=draw)
        found = torch.where(pick == 0, any_, torch.where(pick == 1, fixed, near))
        made.append(found.to(case.lower.dtype))
    return made[0], made[1]


def violations(case: Case, lines: tuple[Tensor, ...]) -> list[str]:
    """Entries at which a line crosses the function, in exact arithmetic at the points where it comes closest."""
    found = []
    for sign, (slope, offset, touch) in ((1, (lines[0], lines[1], lines[4])), (-1, (lines[2], lines[3], lines[5]))):
        points = case.points(touch.double().expand(case.lower.shape).unsqueeze(0))
        shape = case.lower.shape
        worst = min(gaps(case, slope.expand(shape), offset.expand(shape), sign, points, keep=2))
        if not worst[0] >= 0:
            found.append(f"{case.function.name} {case.lower.dtype} side {sign}: {float(worst[0]):.3g} at {worst[1:]}")
    return found


def check_batch(case: Case, seed: int) -> tuple[int, list[str]]:
    """(queries, violations) of lines with chosen and default slopes and of intervals; undefined ones are left out."""
    case = defined(case)
    if not case.lower.numel():
        return 0, []
    chosen = slopes(case, seed)
    known = tuple(chosen[: 1 if case.function.hinge is not None else 2])
    found: list[str] = []
    for given in (known, None):
        lines = case.op.lines([case.lower], [case.upper], given)
        found += violations(case, lines)
    low, high = case.op.interval([case.lower], [case.upper])
    zero = torch.zeros_like(low)
    found += violations(case, (zero, low, zero, high, case.lower, case.upper))
    return 3 * case.lower.numel(), found


def defined(case: Case) -> Case:
    """The intervals of a case on which the function is defined and finite."""
    if _is_defined(case):
        return case
    rows = [
        replace(case, lower=low, upper=high) for low, high in zip(case.lower.split(1), case.upper.split(1), strict=True)
    ]
    keep = [i for i, row in enumerate(rows) if _is_defined(row)]
    return replace(case, lower=case.lower[keep], upper=case.upper[keep])


def _is_defined(case: Case) -> bool:
    try:
        case.op.lines([case.lower], [case.upper])
        case.op.interval([case.lower], [case.upper])
    except DomainError:
        return False
    return True
