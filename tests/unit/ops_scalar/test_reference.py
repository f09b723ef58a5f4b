"""The promise about rounding: computed values and slopes against 60-digit arithmetic, in both precisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import pytest
import torch

from tests.kits.scalar_check import channels_of
from tests.kits.scalar_reference import domain, inside, reference
from verinet.ops.activations import find
from verinet.ops.activations.registry import table
from verinet.ops.scalar import ScalarFunction

CASES = [(op, example) for op, activation in table().items() for example in activation.examples]
TINY = {torch.float64: 1e-50, torch.float32: 1e-34}  # also hides cancellation in the reference slopes


def _points(onnx_op: str, attributes: Mapping[str, Any], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    wide = 10.0 ** torch.linspace(-12, 6, 46, dtype=torch.float64)
    near = torch.randn(100, generator=generator, dtype=torch.float64) * 4
    function = find(onnx_op, attributes)
    assert function is not None
    marks = torch.tensor(
        [*function.breakpoints, *function.extrema, 0.0, 1.0, -1.0, 0.5, 20.0, -20.0], dtype=torch.float64
    )
    beside = torch.cat([torch.nextafter(marks.to(dtype), torch.tensor(s, dtype=dtype)) for s in (math.inf, -math.inf)])
    points = torch.cat([wide, -wide, near, marks]).to(dtype)
    return inside(torch.cat([points, beside]), domain(onnx_op, attributes))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("onnx_op", "attributes"), CASES, ids=[f"{op}-{i}" for i, (op, _) in enumerate(CASES)])
def test_values_and_slopes_are_as_accurate_as_promised(
    onnx_op: str, attributes: Mapping[str, Any], dtype: torch.dtype
) -> None:
    function = find(onnx_op, attributes)
    assert function is not None
    function = function.to(dtype, torch.device("cpu"))
    points = _points(onnx_op, attributes, dtype)
    channels = channels_of(function)
    values = function.at(points.unsqueeze(-1).expand(-1, channels))
    slopes = function.derivative(points.unsqueeze(-1).expand(-1, channels))
    eps = torch.finfo(dtype).eps
    errors, corners = _charged(function, points.unsqueeze(-1).expand(-1, channels))
    kinks = {float(torch.tensor(k, dtype=dtype)) for k in (*function.kinks, *corners)}
    with mp.workdps(100):
        for entry in range(channels):
            exact = reference(onnx_op, attributes, entry)
            columns = values[:, entry].tolist(), slopes[:, entry].tolist(), *(e[:, entry].tolist() for e in errors)
            for x, value, slope, charge, slope_charge in zip(points.tolist(), *columns, strict=True):
                truth = exact(mp.mpf(x))
                allowed = function.error_ulps * eps * (function.error_floor + abs(truth)) + TINY[dtype]
                allowed += charge + function.deviation * (1 + abs(truth))
                # Multiplication by a rounded constant costs relative errors that every line charges anyway.
                allowed += eps * abs(truth) if function.error_ulps else 0
                assert abs(mp.mpf(value) - truth) <= allowed, (
                    x,
                    value,
                    mp.nstr(truth, 20),
                    float(abs(value - truth) / eps),
                )
                if x in kinks or function.jumps is not None or not math.isfinite(slope):
                    continue
                if kinks and min(abs(x - k) for k in kinks) < 1e-6 * (1 + abs(x)):
                    continue
                if abs(x) < 1e-30 or abs(x) in function.domain:
                    continue
                truth = mp.diff(exact, mp.mpf(x), h=mp.mpf(10) ** -45 * min(abs(mp.mpf(x)), 1))
                allowed = function.slope_ulps * eps * (function.slope_floor + abs(truth)) + TINY[dtype] + slope_charge
                allowed += 64 * function.deviation * (1 + abs(truth))
                assert abs(mp.mpf(slope) - truth) <= allowed, (
                    "slope",
                    x,
                    slope,
                    mp.nstr(truth, 20),
                    float(abs(slope - truth) / eps / (1 + abs(truth))),
                )


def _charged(function: ScalarFunction, x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], list[float]]:
    """Errors of values and slopes by place, and the corners, of functions that have a map; else nothing."""
    chart = function.on(x, x).chart
    if chart is None:
        return (torch.zeros_like(x), torch.zeros_like(x)), []
    corners = torch.cat([chart.corners.start.reshape(-1), chart.corners.stop.reshape(-1)])
    found = chart.errors(x)
    return (found[0].expand_as(x), found[1].expand_as(x)), corners[torch.isfinite(corners)].tolist()


def test_a_deviation_widens_bounds_and_lines() -> None:
    from dataclasses import replace

    from verinet.ops.activations import find
    from verinet.ops.scalar import Elementwise

    function = find("Gelu", {})
    assert function is not None
    low, high = torch.tensor([[-3.0, -0.5]]).double(), torch.tensor([[2.0, 40.0]]).double()
    exact, loose = Elementwise(function, 1), Elementwise(replace(function, deviation=1e-6), 1)
    (a, b), (c, d) = exact.interval([low], [high]), loose.interval([low], [high])
    assert bool((c <= a - 1e-6).all()) and bool((d >= b + 1e-6 * (1 + b.abs())).all())
    tight, wide = exact.lines([low], [high]), loose.lines([low], [high])
    assert bool((wide[1] <= tight[1] - 1e-6).all()) and bool((wide[3] >= tight[3] + 1e-6 * (1 + b.abs())).all())
