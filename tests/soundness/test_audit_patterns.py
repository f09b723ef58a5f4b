"""Functions that a file spells out with constants a few units in the last place off: bounds hold for the file's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verinet
from verinet.spec.property import Box

Number = Any
Spelled = tuple[list[tuple[str, list[str], str]], dict[str, float], Callable[[Number], Number]]
DELTAS = [0.0, 2.0**-51, 1e-15, -3e-15, 1.3e-14, -1.3e-14, 3e-14, 1e-10, 3e-8]
POINTS = [-6.0, -1.3, -0.5, 0.0, 0.7, 1.2, 4.0, 30.0]


def gelu(delta: float) -> Spelled:
    root = math.sqrt(2) * (1 + delta)
    steps = [("Div", ["X", "s"], "a"), ("Erf", ["a"], "b"), ("Add", ["b", "one"], "c"), ("Mul", ["X", "c"], "d")]
    steps.append(("Mul", ["d", "half"], "Y"))
    numbers = {"s": root, "one": 1.0, "half": 0.5}
    return steps, numbers, lambda x: x / 2 * (1 + mpmath.erf(x / mpmath.mpf(root)))


def sigmoid(delta: float) -> Spelled:
    rate = -(1 + delta)
    steps = [("Mul", ["X", "k"], "a"), ("Exp", ["a"], "b"), ("Add", ["b", "one"], "c"), ("Reciprocal", ["c"], "Y")]
    return steps, {"k": rate, "one": 1.0}, lambda x: 1 / (1 + mpmath.exp(mpmath.mpf(rate) * x))


def softplus(delta: float) -> Spelled:
    rate = 1 + delta
    steps = [("Mul", ["X", "k"], "a"), ("Exp", ["a"], "b"), ("Add", ["b", "one"], "c"), ("Log", ["c"], "Y")]
    return steps, {"k": rate, "one": 1.0}, lambda x: mpmath.log(1 + mpmath.exp(mpmath.mpf(rate) * x))


def softsign(delta: float) -> Spelled:
    one = 1 + delta
    steps = [("Abs", ["X"], "a"), ("Add", ["a", "one"], "b"), ("Div", ["X", "b"], "Y")]
    return steps, {"one": one}, lambda x: x / (mpmath.mpf(one) + abs(x))


def hard_swish(delta: float) -> Spelled:
    three = 3 * (1 + delta)
    steps = [("Add", ["X", "three"], "a"), ("Clip", ["a", "zero", "six"], "b"), ("Mul", ["X", "b"], "c")]
    steps.append(("Div", ["c", "six"], "Y"))
    numbers = {"three": three, "zero": 0.0, "six": 6.0}
    return steps, numbers, lambda x: x * min(max(x + mpmath.mpf(three), 0), 6) / 6


def leaky(delta: float) -> Spelled:
    above = 0.5 + delta
    steps = [("Relu", ["X"], "a"), ("Mul", ["a", "above"], "b"), ("Mul", ["X", "half"], "c"), ("Add", ["b", "c"], "Y")]
    return steps, {"above": above, "half": 0.5}, lambda x: x / 2 + mpmath.mpf(above) * max(x, 0)


def swish(delta: float) -> Spelled:
    factor = 1 + delta
    steps = [("Sigmoid", ["X"], "a"), ("Mul", ["X", "a"], "b"), ("Mul", ["b", "k"], "Y")]
    return steps, {"k": factor}, lambda x: mpmath.mpf(factor) * x / (1 + mpmath.exp(-x))


def saved(path: Path, spelled: Spelled) -> Path:
    steps, numbers, _ = spelled
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
    arrays = [numpy_helper.from_array(np.array(v), k) for k, v in numbers.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, [1, 1]) for n in "XY")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spell", [gelu, sigmoid, softplus, softsign, hard_swish, leaky, swish])
def test_bounds_are_those_of_the_constants_in_the_file(
    tmp_path: Path, spell: Callable[[float], Spelled], delta: float
) -> None:
    spelled = spell(delta)
    model = verinet.load(saved(tmp_path / "m.onnx", spelled))
    with mpmath.workprec(200):
        for x in POINTS:
            point = np.array([x])
            for method in ("interval", "linear"):
                found = verinet.bounds(model, Box(point, point, point, point), method=method)
                value = spelled[2](mpmath.mpf(x))
                assert float(found.lower[0]) <= value <= float(found.upper[0]), f"{method} at {x}"
                assert float(found.upper[0] - found.lower[0]) < 1e-5 * (1 + abs(float(value)))
