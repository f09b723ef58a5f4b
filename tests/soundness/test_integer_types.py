"""Integer arithmetic wraps around where it leaves its type, real arithmetic does not: nothing may be proved there."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto

from tests.kits.small_queries import ask
from tests.unit.frontends.onnx_models import Spec, ints, node
from verinet.errors import ModelError, PropertyError
from verinet.frontends.onnx import load_onnx
from verinet.ops.scalar import DomainError
from verinet.propagation.interval import interval_pass
from verinet.results import Status

INT32, INT64 = TensorProto.INT32, TensorProto.INT64
LARGEST = {INT32: 2.0**31, INT64: 2.0**63}


def through(kind: int, *nodes: object, **constants: np.ndarray) -> ModelProto:
    """x (2 floats) -> an integer type, i -> the nodes, z -> float64."""
    chain = [node("Cast", "x", "i", to=kind), *nodes, node("Cast", "z", "y", to=TensorProto.DOUBLE)]
    return Spec("integers", chain, {"x": (2,)}, constants, dtype=TensorProto.DOUBLE, opset=15).model()  # type: ignore[arg-type]


def array(kind: int, *values: int) -> np.ndarray:
    return np.array(values, np.int32 if kind == INT32 else np.int64)


CASES = {
    "Add": lambda kind: through(kind, node("Add", "i i", "z")),
    "Sub": lambda kind: through(kind, node("Neg", "i", "n"), node("Sub", "i n", "z")),
    "Mul": lambda kind: through(kind, node("Mul", "i c", "z"), c=array(kind, 2)),
    "ReduceSum": lambda kind: through(kind, node("ReduceSum", "i", "z")),
    "ReduceL1": lambda kind: through(kind, node("ReduceL1", "i", "z", axes=[0])),
    "MatMul": lambda kind: through(kind, node("MatMul", "i c", "z"), c=array(kind, 1, 1)),
    "inner": lambda kind: through(kind, node("Add", "i i", "a"), node("Sub", "a i", "z")),
}


@pytest.mark.parametrize("kind", (INT32, INT64))
@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_as_long_as_the_type_does_and_are_refused_beyond(name: str, kind: int) -> None:
    """At half of the largest number everything still fits; at 1.1 of it twice that does not."""
    made = CASES[name](kind)
    graph, session = load_onnx(made).graph.to(torch.float64), onnxruntime.InferenceSession(made.SerializeToString())
    fits, beyond = (torch.full((1, 2), share * LARGEST[kind] / 2, dtype=torch.float64) for share in (0.99, 1.1))
    low, high = (end.numpy() for end in interval_pass(graph, fits - 3, fits + 3)[-1])
    for step in (-3, 0, 3):
        value = session.run(None, {"x": fits[0].numpy() + step})[0]
        assert bool((low <= value).all() and (value <= high).all())
    assert bool(torch.isnan(graph.forward(beyond)).all())
    with pytest.raises(DomainError, match="int(32|64) at '?.") as caught:
        interval_pass(graph, torch.zeros_like(beyond), beyond)
    assert "a" in caught.value.function or "z" in caught.value.function


def test_a_query_that_leaves_the_type_is_refused_and_names_the_node(tmp_path) -> None:  # type: ignore[no-untyped-def]
    square = through(INT32, node("Mul", "i i", "z", name="square"))
    assert ask(square, (0.0, 40_000.0), "(assert (<= Y_0 -1))", tmp_path).status is Status.UNSAT
    with pytest.raises((PropertyError, ModelError), match="node 'z'"):
        ask(square, (0.0, 46_400.0), "(assert (<= Y_0 -3e9))", tmp_path, timeout=1.5)  # squares up to 2.15e9 > 2**31


def test_the_cast_itself_is_checked(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = through(INT32, node("Identity", "i", "z"))
    assert ask(made, (-2e9, 2e9), "(assert (>= Y_0 2.1e9))", tmp_path).status is Status.UNSAT
    with pytest.raises((PropertyError, ModelError), match="node 'i'"):
        ask(made, (-2e9, 2.2e9), "(assert (>= Y_0 2.3e9))", tmp_path, timeout=1.5)


def test_unsigned_numbers_do_not_go_below_zero() -> None:
    chain = [
        node("Relu", "x", "r"),
        node("Cast", "r", "i", to=TensorProto.UINT32),
        node("Sub", "i c", "z"),
        node("Cast", "z", "y", to=TensorProto.FLOAT),
    ]
    made = Spec("unsigned", chain, {"x": (2,)}, {"c": np.array([3], np.uint32)}, opset=15).model()
    graph = load_onnx(made).graph.to(torch.float64)
    at = torch.full((1, 2), 3.0, dtype=torch.float64)
    low, high = interval_pass(graph, at, at + 4)[-1]
    assert float(low.min()) <= 0 and float(high.max()) >= 4  # rounding below 0 is none of the type's
    with pytest.raises(DomainError, match="uint32"):
        interval_pass(graph, at - 1, at)


def test_constants_that_float64_cannot_hold_are_refused() -> None:
    with pytest.raises(ModelError, match="'C' holds integers beyond"):
        load_onnx(through(INT64, node("Add", "i C", "z"), C=ints(2**53 + 1)))
    load_onnx(through(INT64, node("Add", "i C", "z"), C=ints(2**53)))
