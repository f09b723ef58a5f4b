"""How models come in: paths, packed files, external weights, several inputs and outputs, and broken files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError, UsageError
from verinet.frontends.crosscheck import compare_with_onnxruntime, open_session, run_session, session_of
from verinet.frontends.onnx import inspect_onnx, load_onnx
from verinet.ir.check import check_graph

GEMM = Spec(
    "gemm", [node("Gemm", "x B C", "h"), node("Relu", "h", "y")], {"x": (1, 5)}, {"B": weights(5, 3), "C": weights(3)}
)


def samples(model, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, model.graph.input_size))


def test_path_bytes_proto_and_gzip_agree(tmp_path: Path) -> None:
    raw = GEMM.model().SerializeToString()
    plain, packed = tmp_path / "m.onnx", tmp_path / "m.onnx.gz"
    plain.write_bytes(raw)
    packed.write_bytes(gzip.compress(raw))
    models = [load_onnx(g) for g in (plain, str(packed), raw, gzip.compress(raw), GEMM.model())]
    x = torch.randn(2, 5, dtype=torch.float64)
    values = [m.graph.to(torch.float64).forward(x) for m in models]
    assert all(torch.equal(values[0], v) for v in values)
    assert models[0].sha256 == hashlib.sha256(raw).hexdigest()
    assert models[1].sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert models[1].raw == raw
    assert models[0].path == plain and models[2].path is None
    assert all(compare_with_onnxruntime(m, samples(m)) < 1e-6 for m in models)


def test_facts_of_a_model() -> None:
    model = load_onnx(GEMM.model())
    assert (model.input_names, model.input_shapes, model.output_names) == (("x",), ((1, 5),), ("y",))
    assert model.output_shapes == ((1, 3),)
    assert model.element_type == np.float32 and model.opset == 13
    assert [r.status for r in model.records] == ["bounded", "bounded"]
    assert model.graph.nodes[model.tensors["h"]].name == "h"
    assert model.graph.nodes[model.tensors["y"]].shape == (1, 3)


def test_weights_keep_their_type() -> None:
    weight = next(n.op.weight for n in load_onnx(GEMM.model()).graph.nodes if n.op.kind == "Dense")
    assert weight.dtype == torch.float32


def test_external_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = GEMM.model()
    onnx.save_model(model, str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    loaded = load_onnx(path)
    assert loaded.raw is None
    assert compare_with_onnxruntime(loaded, samples(loaded)) < 1e-6
    packed = tmp_path / "m.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert compare_with_onnxruntime(load_onnx(packed), samples(loaded)) < 1e-6
    with pytest.raises(ModelError, match="separate file"):
        load_onnx(path.read_bytes())
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match="external weight"):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1f\x8b broken", GEMM.model().SerializeToString()[:-40]])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for read in (load_onnx, inspect_onnx):
        with pytest.raises(ModelError) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_onnx("nowhere/m.onnx")
    with pytest.raises(UsageError, match="a model is"):
        load_onnx(3)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_refused_by_name(kind: int) -> None:
    spec = Spec("half", [node("Relu")], {"x": (1, 2)}, dtype=kind)
    with pytest.raises(ModelError, match="float16"):
        load_onnx(spec.model())


def test_half_precision_weights_are_refused_by_name() -> None:
    constants = {"B": weights(5, 3).astype(np.float16)}
    with pytest.raises(ModelError, match="float16"):
        load_onnx(Spec("half", [node("Cast", "B", "c", to=1), node("MatMul", "x c")], {"x": (1, 5)}, constants).model())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    weight = weights(5, 3)
    weight[2, 1] = bad
    with pytest.raises(ModelError, match=r"'B'.*\(2, 1\)"):
        load_onnx(Spec("bad", [node("MatMul", "x B")], {"x": (1, 5)}, {"B": weight}).model())


def test_several_inputs_and_outputs_are_flat_in_order() -> None:
    chain = [node("Add", "a b", "s"), node("Mul", "s C", "p"), node("Transpose", "a", "t")]
    spec = Spec("multi", chain, {"b": (3,), "a": (2, 3)}, {"C": weights(3)}, outputs=("t", "p"))
    model = load_onnx(spec.model())
    check_graph(model.graph)
    assert model.graph.input_size == 9 and model.graph.output_size == 12
    assert model.input_shapes == ((3,), (2, 3)) and model.output_shapes == ((3, 2), (2, 3))
    assert compare_with_onnxruntime(model, samples(model)) < 1e-6


def test_symbolic_extents_are_one_and_float64_stays() -> None:
    spec = Spec("wide", [node("MatMul", "x B")], {"x": ("batch", 5)}, {"B": weights(5, 3).astype(np.float64)}, dtype=11)
    model = load_onnx(spec.model())
    assert model.input_shapes == ((1, 5),) and model.element_type == np.float64
    assert compare_with_onnxruntime(model, samples(model)) < 1e-14


def test_initialisers_listed_among_the_inputs() -> None:
    proto = GEMM.model()
    proto.graph.input.extend(
        [helper.make_tensor_value_info("B", 1, [5, 3]), helper.make_tensor_value_info("C", 1, [3])]
    )
    model = load_onnx(proto)
    assert model.input_names == ("x",)
    assert compare_with_onnxruntime(model, samples(model)) < 1e-6


def test_local_functions_are_inlined() -> None:
    body = [node("Relu", "a", "r"), node("Neg", "r", "b")]
    function = helper.make_function("my", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 13)])
    x, y = (helper.make_tensor_value_info(n, 1, [2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Block", ["x"], ["y"], domain="my")], "g", [x], [y])
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("my", 1)]
    model = load_onnx(helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8))
    assert [n.op.kind for n in model.graph.nodes] == ["Input", "Elementwise", "Neg"]


def test_outputs_that_are_constant_or_inputs() -> None:
    spec = Spec(
        "odd", [node("Shape", "x", "y"), node("Relu", "x", "unused")], {"x": (2, 3)}, outputs=("y", "x"), out_type=7
    )
    proto = spec.model()
    proto.graph.output[1].type.tensor_type.elem_type = 1
    model = load_onnx(proto)
    found = model.graph.to(torch.float64).forward(torch.arange(6.0, dtype=torch.float64).unsqueeze(0))
    assert found.tolist() == [[2, 3, 0, 1, 2, 3, 4, 5]]
    assert "Relu" not in [record.op for record in model.records]
    assert ("Relu", "folded") in [(record.op, record.status) for record in inspect_onnx(proto)]


def test_shape_arithmetic_is_folded() -> None:
    chain = [
        node("Shape", "x", "s"),
        node("Gather", "s i", "batch"),
        node("Unsqueeze", "batch a", "b1"),
        node("Concat", "b1 m", "target", axis=0),
        node("Reshape", "x target"),
    ]
    constants = {"i": np.array(0), "a": ints(0), "m": ints(-1)}
    model = load_onnx(Spec("fold", chain, {"x": ("n", 2, 3)}, constants).model())
    assert [record.status for record in model.records] == ["folded"] * 4 + ["bounded"]
    assert model.output_shapes == ((1, 6),)


@pytest.mark.parametrize(
    ("left", "right"), [(ints(7, -7, 7, -7), ints(2, 2, -2, -2)), (weights(4), np.abs(weights(4, seed=3)))]
)
def test_folding_divides_as_onnx_does(left: np.ndarray, right: np.ndarray) -> None:
    kind = 7 if left.dtype.kind == "i" else 1
    chain = [node("Div", "A B", "q"), node("Cast", "q", "f", to=1), node("Add", "x f")]
    model = load_onnx(Spec("div", chain, {"x": (4,)}, {"A": left, "B": right}).model())
    assert kind and compare_with_onnxruntime(model, samples(model)) < 1e-6


def test_unusual_constant_nodes_are_folded_by_onnxruntime() -> None:
    chain = [node("CumSum", "A i", "c"), node("Mod", "c two", "m", fmod=1), node("Add", "x m")]
    constants = {"A": weights(4), "i": np.array(0), "two": np.array(np.float32(2))}
    model = load_onnx(Spec("cum", chain, {"x": (4,)}, constants).model())
    assert compare_with_onnxruntime(model, samples(model)) < 1e-6


def test_constant_nodes_in_all_spellings() -> None:
    chain = [
        node("Constant", "", "a", value_float=1.5),
        node("Constant", "", "b", value_floats=[1.0, 2.0]),
        node("Constant", "", "c", value=numpy_helper.from_array(np.array([3.0, 4.0], np.float32))),
        node("Constant", "", "d", value_ints=[1, 2]),
        node("Add", "x a", "s"),
        node("Mul", "s b", "t"),
        node("Sub", "t c", "u"),
        node("Reshape", "u d"),
    ]
    model = load_onnx(Spec("constants", chain, {"x": (2,)}).model())
    assert compare_with_onnxruntime(model, samples(model)) < 1e-6


def test_old_and_new_opsets_are_refused_politely() -> None:
    with pytest.raises(ModelError, match="opset 5"):
        load_onnx(Spec("old", [node("Relu")], {"x": (2,)}, opset=5).model())


def test_crosscheck_notices_a_wrong_graph() -> None:
    model = load_onnx(GEMM.model())
    other = load_onnx(Spec("other", GEMM.nodes, GEMM.inputs, {"B": weights(5, 3, seed=9), "C": weights(3)}).model())
    broken = dataclasses.replace(model, graph=other.graph)
    with pytest.raises(ModelError, match="differs from ONNX Runtime"):
        compare_with_onnxruntime(broken, samples(model))


def test_sessions_take_flat_inputs() -> None:
    model = load_onnx(GEMM.model())
    assert run_session(open_session(model, optimise=True), model, np.zeros(5)).shape == (3,)


def test_inspect_goes_on_behind_a_gap() -> None:
    chain = [node("Softmax", "x", "s"), node("NonZero", "s", "n"), node("Cast", "n", "c", to=1), node("Relu", "c")]
    records = inspect_onnx(Spec("gaps", chain, {"x": (1, 3)}).model())
    status = {record.op: record.status for record in records}
    assert status["NonZero"] == "unsupported" and status["Relu"] == "bounded"
    assert len(records) == 4


MALFORMED = [
    Spec("shapes", [node("Add", "x z")], {"x": (2, 3), "z": (4,)}),
    Spec("matmul", [node("MatMul", "x B")], {"x": (1, 4)}, {"B": weights(5, 3)}),
    Spec("reshape", [node("Reshape", "x S")], {"x": (2, 3)}, {"S": ints(4)}),
    Spec("gather", [node("Gather", "x I")], {"x": (2, 3)}, {"I": ints(5)}),
    Spec("conv", [node("Conv", "x W")], {"x": (1, 2, 2, 2)}, {"W": weights(1, 2, 5, 5)}),
    Spec("channels", [node("Conv", "x W")], {"x": (1, 2, 4, 4)}, {"W": weights(1, 3, 2, 2)}),
    Spec("axis", [node("Concat", "x x", axis=5)], {"x": (2, 3)}),
    Spec("missing input", [node("Add", "x nowhere")], {"x": (2, 3)}),
    Spec("missing output", [node("Relu", "x", "z")], {"x": (2, 3)}),
    Spec("no kernel", [node("MaxPool", "x")], {"x": (1, 1, 2, 3)}),
    Spec("transpose", [node("Transpose", "x", perm=[0, 7])], {"x": (2, 3)}),
    Spec("division by zero", [node("Div", "x Z")], {"x": (2,)}, {"Z": np.zeros(2, np.float32)}),
    Spec(
        "variance",
        [node("BatchNormalization", "x S S S V")],
        {"x": (1, 2)},
        {"S": weights(2), "V": -np.ones(2, np.float32)},
    ),
]


@pytest.mark.parametrize("spec", MALFORMED, ids=lambda spec: spec.name)
def test_malformed_models_raise_typed_errors(spec: Spec) -> None:
    with pytest.raises(ModelError) as caught:
        load_onnx(spec.model())
    assert caught.value.where
    assert inspect_onnx(spec.model()) is not None


def test_crosscheck_forgives_a_jump_but_not_a_wrong_graph() -> None:
    steps = [node("Mul", "x third", "t"), node("Mul", "t three", "u"), node("Sub", "u x", "d"), node("Sign", "d")]
    constants = {"third": np.array(np.float32(1 / 3)), "three": np.array(np.float32(3))}
    model = load_onnx(Spec("jump", steps, {"x": (1,)}, constants).model())
    points = np.array([[0.0], [1.0], [0.7]])
    assert compare_with_onnxruntime(model, points) >= 0.5  # the sign of a rounding error


def test_crosscheck_notices_values_that_are_no_numbers() -> None:
    model = load_onnx(GEMM.model())
    bad = load_onnx(
        Spec("log", [node("Log", "x", "l"), node("MatMul", "l B")], GEMM.inputs, {"B": weights(5, 3)}).model()
    )
    with pytest.raises(ModelError, match="differs"):
        compare_with_onnxruntime(dataclasses.replace(model, graph=bad.graph), -np.ones((1, 5)))


def test_a_session_is_kept_with_its_network_only() -> None:
    """Opened once per setting; a changed copy opens its own."""
    model = load_onnx(GEMM.model())
    plain = session_of(model)
    assert session_of(model) is plain and session_of(model, optimise=True) is not plain
    assert session_of(dataclasses.replace(model)) is not plain
