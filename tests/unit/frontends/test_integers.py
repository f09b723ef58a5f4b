"""Operators whose result on integers is an integer: as ONNX Runtime rounds it, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinet.errors import UnsupportedOperatorError
from verinet.frontends.onnx import load_onnx
from verinet.frontends.tensors import Array
from verinet.propagation.interval import interval_pass

KINDS = pytest.mark.parametrize("kind", (TensorProto.INT32, TensorProto.INT64))
POINTS = np.arange(-9.0, 10.0)


def _model(kind: int, op: str, constants: list[Array], first: bool = True, **attributes: object) -> bytes:
    """x (1, 4) float -> 3 x cast to an integer type -> op with constants -> float."""
    names = [f"c{i}" for i in range(len(constants))]
    inputs = ["whole", *names] if first else [*names, "whole"]
    nodes = [
        helper.make_node("Mul", ["x", "three"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["whole"], to=kind),
        helper.make_node(op, inputs, ["z"], **attributes),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    fixed = [numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True)]
    fixed.append(numpy_helper.from_array(np.array([3.0], np.float32), "three"))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, op, ends[:1], ends[1:], fixed)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return bytes(made.SerializeToString())


def _check(data: bytes, folder: Path) -> None:
    """Our value equals ONNX Runtime's everywhere on a grid, and the intervals of small boxes hold it."""
    import onnxruntime

    path = folder / "model.onnx"
    onnx.save(onnx.load_from_string(data), path)
    graph = load_onnx(path).graph.to(torch.float64)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    inputs = np.concatenate([draw.choice(POINTS, (200, 4)), draw.uniform(-4, 4, (200, 4))]).astype(np.float32)
    expected = np.stack([session.run(None, {"x": x[None]})[0].ravel() for x in inputs])
    values = torch.from_numpy(inputs.astype(np.float64))
    assert np.array_equal(graph.forward(values).numpy(), expected.astype(np.float64))
    low, high = interval_pass(graph, values - 0.1, values + 0.1)[-1]
    assert bool((low.numpy() <= expected).all() and (high.numpy() >= expected).all())


@KINDS
@pytest.mark.parametrize("axes", ([0], [1], [0, 1]))
def test_the_mean_of_integers_loses_its_fraction(tmp_path: Path, kind: int, axes: list[int]) -> None:
    _check(_model(kind, "ReduceMean", [], axes=axes, keepdims=0), tmp_path)


@KINDS
@pytest.mark.parametrize("exponent", (0, 1, 2, 3))
def test_whole_powers_of_integers_are_exact(tmp_path: Path, kind: int, exponent: int) -> None:
    _check(_model(kind, "Pow", [np.array([exponent])]), tmp_path)
    _check(_model(kind, "Pow", [np.array([float(exponent)], np.float32)]), tmp_path)


@KINDS
@pytest.mark.parametrize("exponent", (0.5, 1.5, -1.0, -2.0))
def test_other_powers_of_integers_are_refused(tmp_path: Path, kind: int, exponent: float) -> None:
    """ONNX Runtime cuts off the fraction of 5 ** 0.5, and 2 ** -1 is 0 there."""
    (tmp_path / "model.onnx").write_bytes(_model(kind, "Pow", [np.array([exponent], np.float32)]))
    with pytest.raises(UnsupportedOperatorError, match="Pow.*of integers"):
        load_onnx(tmp_path / "model.onnx")


def test_an_integer_base_is_refused(tmp_path: Path) -> None:
    """2 ** x has the type of 2: ONNX Runtime rounds it."""
    (tmp_path / "model.onnx").write_bytes(_model(TensorProto.FLOAT, "Pow", [np.array([2])], first=False))
    with pytest.raises(UnsupportedOperatorError, match="integer base"):
        load_onnx(tmp_path / "model.onnx")


@KINDS
@pytest.mark.parametrize("op", ("ReduceL1", "ReduceSumSquare"))
def test_sums_of_integers_are_exact(tmp_path: Path, kind: int, op: str) -> None:
    _check(_model(kind, op, [], axes=[1]), tmp_path)


@KINDS
@pytest.mark.parametrize("op", ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"))
def test_roots_and_logarithms_of_integers_are_refused(tmp_path: Path, kind: int, op: str) -> None:
    (tmp_path / "model.onnx").write_bytes(_model(kind, op, [], axes=[1]))
    with pytest.raises(UnsupportedOperatorError, match="of integers"):
        load_onnx(tmp_path / "model.onnx")
