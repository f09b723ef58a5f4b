"""Verdicts for thresholds one float64 away from the true extreme, on networks that cancel almost everything.

One input and a few ReLU layers: the function is piecewise linear, so its greatest value is known as a rational number.
`unsat` for a threshold that the network reaches in real arithmetic would be wrong; `unknown` and `timed-out` are not.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verinet
from verinet.spec.decimals import enclose

Floats = npt.NDArray[np.float64]
Layer = tuple[Floats, Floats]
Line = tuple[Fraction, Fraction]  # slope and offset


def drawn(random: np.random.Generator) -> list[Layer]:
    """Layers (weight (n, m), offset (m,)) of one of several kinds of bad conditioning."""
    kind = random.choice(["powers", "cancel", "copies", "plain"])
    sizes = [1, *random.integers(2, 4, random.integers(1, 4)).tolist(), 1]
    layers: list[Layer] = []
    for rows, columns in zip(sizes, sizes[1:], strict=False):
        weight, offset = random.normal(size=(rows, columns)), random.normal(size=columns)
        if kind == "powers":
            weight, offset = weight * 10.0 ** random.integers(-20, 21), offset * 10.0 ** random.integers(-20, 21)
        if kind == "cancel" and rows == 1:
            offset = np.round(offset) * 2.0**53
        if kind == "copies" and rows > 1:
            weight[1] = -weight[0] * (1 + 2.0**-52 * random.integers(-2, 3))
        layers.append((weight, offset))
    if kind == "cancel":  # 1e16 + x - 1e16: the last layer takes off what the first has added
        layers[-1] = (np.round(layers[-1][0]), -np.round(random.normal(size=1)) * 2.0**53)
    return layers


def pieces(layers: list[Layer], low: Fraction, high: Fraction) -> list[Fraction]:
    """Points between which the network is affine on [low, high], ends included."""
    points = [low, high]
    for depth in range(1, len(layers)):
        found = set(points)
        for left, right in zip(points, points[1:], strict=False):
            for a, b in zip(before(layers, depth, left), before(layers, depth, right), strict=True):
                if a * b < 0:
                    found.add(left + (right - left) * a / (a - b))
        points = sorted(found)
    return points


def before(layers: list[Layer], depth: int, x: Fraction) -> list[Fraction]:
    """What stands before the ReLU behind layer `depth` (from 1)."""
    values = [x]
    for k, (weight, offset) in enumerate(layers[:depth]):
        if k:
            values = [max(v, Fraction(0)) for v in values]
        columns = zip(weight.T.tolist(), offset.tolist(), strict=True)
        values = [sum((Fraction(w) * v for w, v in zip(c, values, strict=True)), Fraction(b)) for c, b in columns]
    return values


def greatest(layers: list[Layer], low: float, high: float) -> Fraction:
    points = pieces(layers, Fraction(low), Fraction(high))
    return max(before(layers, len(layers), x)[0] for x in points)


def saved(path: Path, layers: list[Layer]) -> Path:
    nodes, arrays, last = [], [], "X"
    for k, (weight, offset) in enumerate(layers):
        arrays += [numpy_helper.from_array(weight, f"W{k}"), numpy_helper.from_array(offset, f"B{k}")]
        out = "Y" if k == len(layers) - 1 else f"z{k}"
        nodes.append(helper.make_node("Gemm", [last, f"W{k}", f"B{k}"], [out]))
        if out != "Y":
            nodes.append(helper.make_node("Relu", [out], [f"r{k}"]))
            last = f"r{k}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, [1, 1]) for n in "XY")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def decimal(value: float) -> str:
    """The float exactly, as VNN-LIB writes numbers."""
    return format(Decimal(value), "f")


def asked(model: Path, box: tuple[float, float], violation: str, seconds: float = 1.0) -> verinet.Status:
    spec = model.with_suffix(".vnnlib")
    bounds = f"(assert (>= X_0 {decimal(box[0])}))(assert (<= X_0 {decimal(box[1])}))"
    spec.write_text(f"(declare-const X_0 Real)(declare-const Y_0 Real){bounds}(assert {violation})")
    return verinet.verify(model, spec, timeout=seconds).status


def reached(limit: Fraction) -> list[str]:
    """Violations that the greatest value `limit` satisfies, as tight as float64 numbers can be."""
    down, up = enclose(limit)
    found = [f"(>= Y_0 {decimal(down)})", f"(> Y_0 {decimal(float(np.nextafter(down, -np.inf)))})"]
    return found if down == up else [*found, f"(> Y_0 {decimal(down)})"]


def check(folder: Path, seed: int, seconds: float = 1.0) -> list[verinet.Status]:
    random = np.random.default_rng(seed)
    layers = drawn(random)
    centre = float(random.normal()) * 10.0 ** int(random.integers(-3, 4))
    half = abs(centre) * float(random.choice([0.0, 2.0**-50, 1e-3, 2.0]))
    box = (centre - half, centre + half)
    model = saved(folder / "m.onnx", layers)
    found = [asked(model, box, violation, seconds) for violation in reached(greatest(layers, *box))]
    assert verinet.Status.UNSAT not in found, f"seed {seed}: {found}"
    return found


@pytest.mark.parametrize("seed", range(10))
def test_no_threshold_that_is_reached_is_called_unreached(tmp_path: Path, seed: int) -> None:
    check(tmp_path, seed)


def test_thresholds_well_above_are_proved(tmp_path: Path) -> None:
    """The check above would pass for a verifier that never answers."""
    proved = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        layers = drawn(random)
        model, limit = saved(tmp_path / "m.onnx", layers), greatest(layers, -1.0, 1.0)
        size = abs(limit) + max(abs(Fraction(float(b))) for _, offset in layers for b in offset)
        threshold = enclose(limit + size)[1]
        proved += asked(model, (-1.0, 1.0), f"(>= Y_0 {decimal(threshold)})") is verinet.Status.UNSAT
    assert proved >= 8


def test_the_extreme_is_the_one_of_a_fine_grid() -> None:
    for seed in range(6):
        layers = drawn(np.random.default_rng(seed))
        limit = greatest(layers, -1.0, 1.0)
        grid = [before(layers, len(layers), Fraction(k, 64))[0] for k in range(-64, 65)]
        assert max(grid) <= limit
