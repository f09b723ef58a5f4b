"""The command line with the real engine behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from verinet.cli.app import app
from verinet.cli.session import Session


@pytest.fixture
def command() -> Callable[..., Any]:
    """Run a command line in this process; the result has exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(
        app, [str(a) for a in arguments], obj=Session(time.monotonic(), owns_process=False)
    )


@pytest.fixture
def network() -> Callable[..., bytes]:
    """A maker of the bytes of y = activation(x W), with 2 inputs and 2 outputs."""
    from onnx import TensorProto, helper, numpy_helper

    def make(op: str = "Relu", weight: float = 1.0, dtype: Any = np.float32) -> bytes:
        kind = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[dtype]
        values = np.array([[weight, -1.0], [0.5, 2.0]], dtype=dtype)
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["z"], name="first"),
                helper.make_node(op, ["z"], ["y"], name="last"),
            ],
            "tiny",
            [helper.make_tensor_value_info("x", kind, [1, 2])],
            [helper.make_tensor_value_info("y", kind, [1, 2])],
            [numpy_helper.from_array(values, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    return make
