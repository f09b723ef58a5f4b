"""Queries over several networks: the composed graph, the witness, and verdicts that stand up to sampling."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import verinet
from tests.kits.vnnlib_oracle import Oracle, random_query, reference
from verinet.errors import InternalError, ModelError, PropertyError
from verinet.frontends.compose import Composite, alone, check_composite, compose
from verinet.frontends.model import Model
from verinet.results import Reason, Status
from verinet.spec import ExactProperty, parse_property
from verinet.spec.property import Property
from verinet.witness.replay import Replayer
from verinet.witness.runner import Runner


def network(seed: int) -> bytes:
    """inner = relu(A W + b), y = inner V, as float32; A has 2 entries, b is a scalar, inner [1, 2], y [2]."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=(2, 2)).astype(np.float32)
    second = draw.normal(size=(2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["A", "row"], ["rowed"]),
        helper.make_node("MatMul", ["rowed", "w"], ["product"], name="product node"),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["inner"]),
        helper.make_node("MatMul", ["inner", "v"], ["wide"]),
        helper.make_node("Reshape", ["wide", "flat"], ["y"]),
    ]
    fixed = [("w", first), ("v", second), ("row", np.array([1, 2])), ("flat", np.array([2]))]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("A", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(array, name) for name, array in fixed],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def pair() -> dict[str, Model]:
    from verinet.frontends.onnx import load_onnx

    return {"f": load_onnx(network(1)), "g": load_onnx(network(2))}


def columns(whole: Composite, prop: Property, free: np.ndarray) -> np.ndarray:
    """What the composed graph should give, from ONNX Runtime on the files and products of its outputs."""
    declared = whole.spread.declared(free)
    values = Runner(whole).run(declared)[0]
    assert prop.layout is not None
    sides = (free, values)
    extras = [np.prod([sides[code & 1][code >> 1] for code in codes]) for codes in prop.layout.extras]
    return np.concatenate([values, extras])


@pytest.mark.parametrize("seed", range(40))
def test_the_composed_graph_computes_all_columns(seed: int, pair: dict[str, Model]) -> None:
    prop = parse_property(random_query(random.Random(seed)))
    whole = compose(pair, prop)
    assert (whole.graph.input_size, whole.graph.output_size) == (prop.inputs, prop.outputs)
    for point in np.random.default_rng(seed).uniform(-2, 2, (5, prop.inputs)).astype(np.float32).astype(np.float64):
        found = whole.graph.to(torch.float64).forward(torch.from_numpy(point)[None])[0].numpy()
        expected = columns(whole, prop, point)
        assert np.allclose(found, expected, rtol=2e-5, atol=1e-4 * (1 + np.abs(expected).max()))
    check_composite(whole, np.random.default_rng(seed).uniform(-2, 2, (3, prop.inputs)))


@pytest.mark.parametrize("seed", range(40))
def test_verdicts_stand_up_to_sampling(seed: int, pair: dict[str, Model], tmp_path: Path) -> None:
    """`sat` comes with values that the reference parser's reading of the file accepts; `unsat` survives sampling."""
    draw = random.Random(1000 + seed)
    text = random_query(draw).replace("-2.0)", "-1.0)").replace("5.0)", "1.0)")
    (tmp_path / "q.vnnlib").write_text(text)
    oracle = Oracle(reference().parse_query_string(text))
    verdict = verinet.verify(pair, tmp_path / "q.vnnlib", timeout=1.0, device="cpu")
    prop = parse_property(text)
    if verdict.status is Status.SAT:
        assert verdict.witness is not None
        inputs = verdict.witness.inputs
        assert verdict.notes or np.array_equal(inputs.astype(np.float32).astype(np.float64), inputs)
        assert oracle.holds((inputs.tolist(), verdict.witness.outputs.tolist()))
    elif verdict.status is Status.UNSAT and prop.clauses:
        whole, points = compose(pair, prop), np.random.default_rng(seed)
        runner = Runner(whole)
        for k in range(200):
            box = prop.boxes[k % len(prop.boxes)]
            share = points.choice([0.0, 1.0, points.uniform()], size=prop.inputs)
            point = (box.lower + share * (box.upper - box.lower)).astype(np.float32).astype(np.float64)
            declared = whole.spread.declared(point).astype(np.float32).astype(np.float64)
            assert not oracle.holds((declared.tolist(), runner.run(declared)[0].tolist()))


SHIFTED = """(vnnlib-version <2.0>)
(declare-network f (declare-input A float32 [2]) (declare-input b float32 []) (declare-output Y float32 [2]))
(declare-network g (equal-to f)
    (declare-input C float32 [2]) (declare-input d float32 []) (declare-output Z float32 [2]))
(assert (and (>= A[0] -1.0) (<= A[0] 1.0) (>= A[1] -1.0) (<= A[1] 1.0) (>= b 0.0) (<= b 1.0)))
(assert (and (== A[0] C[0]) (== A[1] C[1])))
"""


def test_equal_networks_at_tied_points_are_equal(pair: dict[str, Model], tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    path.write_text(SHIFTED + "(assert (== b d))(assert (> (- Y[0] Z[0]) 0.001))")
    verdict = verinet.verify(pair["f"], path, timeout=20.0)
    assert verdict.status is Status.UNSAT
    path.write_text(SHIFTED + "(assert (== d (+ b 0.5)))(assert (!= Y[0] Z[0]))")
    verdict = verinet.verify({"f": pair["f"]}, path, timeout=20.0)
    assert verdict.status is Status.SAT and verdict.witness is not None
    assert verdict.witness.inputs[5] == verdict.witness.inputs[2] + 0.5
    assert ExactProperty.read(path).holds(verdict.witness.inputs, verdict.witness.outputs)


def test_ties_are_checked_exactly_without_a_file(pair: dict[str, Model]) -> None:
    """0.1 is no float32, so the tied input misses its equation by a hair."""
    text = SHIFTED + "(assert (== d (+ b 0.1)))(assert (<= Y[0] 1000.0))"
    prop = parse_property(text)
    for spec in (None, text):
        replayer = Replayer(compose(pair["f"], prop), spec, prop)
        assert not replayer(np.array([0.5, 0.5, 0.25])).confirmed
    loose = parse_property(SHIFTED + "(assert (== d (+ b 0.5)))(assert (<= Y[0] 1000.0))")
    assert Replayer(compose(pair["f"], loose), None, loose)(np.array([0.5, 0.5, 0.25])).confirmed


def test_hidden_tensors_come_from_the_network(pair: dict[str, Model], tmp_path: Path) -> None:
    head = (
        "(vnnlib-version <2.0>)\n(declare-network f (declare-input A float32 [2]) (declare-input b float32 [])\n"
        '(declare-hidden P float32 [1,2] "product node") (declare-hidden H float32 [1,2] "inner")\n'
        "(declare-output Y float32 [2]))\n"
    )
    box = "(assert (and (>= A[0] -1.0) (<= A[0] 1.0) (>= A[1] -1.0) (<= A[1] 1.0) (>= b 0.0) (<= b 1.0)))\n"
    path = tmp_path / "q.vnnlib"
    path.write_text(head + box + "(assert (< H[0,0] (+ P[0,0] b -0.0001)))")
    assert verinet.verify(pair["f"], path, timeout=20.0).status is Status.UNSAT  # relu(p + b) >= p + b
    path.write_text(head + box + "(assert (> H[0,1] (+ P[0,1] b 0.125)))")
    verdict = verinet.verify(pair["f"], path, timeout=20.0)
    assert verdict.status is Status.SAT and verdict.witness is not None and verdict.witness.outputs.shape == (6,)
    assert ExactProperty.read(path).holds(verdict.witness.inputs, verdict.witness.outputs)
    assert verdict.witness.outputs[3] == 0 or verdict.witness.outputs[3] > verdict.witness.outputs[1]


def test_polynomials_are_bounded(pair: dict[str, Model], tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    path.write_text(
        SHIFTED + "(assert (== b d))(assert (< (* Y[0] Y[0]) (- 0.01 (* b b A[0] A[0]))))(assert (> b 2.0))"
    )
    assert verinet.verify(pair["f"], path, timeout=20.0).reason is Reason.EMPTY_REGION
    path.write_text(SHIFTED + "(assert (== b d))(assert (< (+ (* Y[0] Y[0]) (* A[0] A[0] b b)) -0.01))")
    assert verinet.verify(pair["f"], path, timeout=20.0).status is Status.UNSAT
    path.write_text(SHIFTED + "(assert (== b d))(assert (> (* A[0] A[1] b) 0.875))")
    verdict = verinet.verify(pair["f"], path, timeout=20.0)
    assert verdict.status is Status.SAT and verdict.witness is not None
    assert np.prod(verdict.witness.inputs[:3]) > 0.875


ONE = "(vnnlib-version <2.0>)\n(declare-network f {})\n(assert (and (>= A[0] 0.0) (<= A[0] 1.0)))"
A, B, Y = "(declare-input A float32 [2])", "(declare-input b float32 [])", "(declare-output Y float32 [2])"
MISFITS = [
    (f"{A} {Y}", "declares 1 input, but its file has 2"),
    (f"{A} {B} {Y} (declare-output Z real [1])", "declares 2 outputs, but its file has 1"),
    (f"{A.replace('[2]', '[3]')} {B} {Y}", r"shape \[3\], but the file has \[2\]"),
    (f"{A} {B.replace('float32', 'float64')} {Y}", "declared float64, but the file has float32"),
    (f"{A} {B} {Y.replace('float32', 'int64')}", "declared int64, but the file has float32"),
    (f'{A} {B} (declare-hidden H float32 [2] "nowhere") {Y}', "no hidden tensor 'nowhere'.*\n.*\n.*it has inner"),
    (f'{A} {B} (declare-hidden H float32 [1] "inner") {Y}', r"H is declared with shape \[1\]"),
    (f'{A} {B} (declare-hidden H float32 [] "b") {Y}', "no hidden tensor 'b'.*\n.*\n.*declare-input"),
]


@pytest.mark.parametrize(("body", "message"), MISFITS)
def test_declarations_that_do_not_fit_are_named(body: str, message: str, pair: dict[str, Model]) -> None:
    query = ONE.format(body) + "(assert (and (>= A[1] 0.0) (<= A[1] 1.0)))"
    query += "(assert (and (>= b 0.0) (<= b 1.0)))" if " b " in body else ""
    query += "(assert (and (>= A[2] 0.0) (<= A[2] 1.0)))" if "[3]" in body else ""
    with pytest.raises(PropertyError, match=message):
        compose(pair["f"], parse_property(query, "q"))


def test_other_shapes_of_the_same_size_are_noted(pair: dict[str, Model]) -> None:
    body = f"{A.replace('[2]', '[1,2]')} {B} {Y.replace('float32', 'real')}"
    query = ONE.format(body).replace("A[0]", "A[0,0]") + "(assert (and (>= A[0,1] 0.0) (<= A[0,1] b)))"
    whole = compose(pair["f"], parse_property(query + "(assert (<= A[0,1] 1.0))(assert (and (<= b 1.0) (>= b 0.0)))"))
    assert len(whole.notes) == 1 and "row-major" in whole.notes[0]


def test_networks_are_matched_by_name(pair: dict[str, Model]) -> None:
    prop = parse_property(random_query(random.Random(0)))
    whole = compose({"g": pair["g"], "f": pair["f"]}, prop)
    assert [part.original.sha256 for part in whole.parts] == [pair["f"].sha256, pair["g"].sha256]
    for given, message in (
        ({"f": pair["f"]}, "no file is given for g"),
        ({**pair, "h": pair["f"]}, "declares no network h"),
        (pair["f"], "the query needs 2: f, g"),
    ):
        with pytest.raises(PropertyError, match=message):
            compose(given, prop)
    equal = parse_property(SHIFTED + "(assert (== b d))(assert (<= Y[0] 1.0))")
    with pytest.raises(PropertyError, match="but their files differ"):
        compose(pair, equal)
    with pytest.raises(PropertyError, match="speaks of one"):
        compose(pair, parse_property("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (= X_0 1))"))


def test_open_sizes_are_taken_from_the_query(tmp_path: Path) -> None:
    from verinet.frontends.onnx import load_onnx

    draw = numpy_helper.from_array(np.ones((1,), dtype=np.float32), "one")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [draw],
    )
    model = load_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    text = "(vnnlib-version <2.0>)(declare-network f (declare-input A real [3,2]) (declare-output Y real [3,2]))"
    text += "".join(f"(assert (and (>= A[{i},{j}] 0.0) (<= A[{i},{j}] 1.0)))" for i in range(3) for j in range(2))
    whole = compose(model, parse_property(text + "(assert (<= Y[2,1] 0.5))"))
    assert whole.graph.input_size == 6 and whole.notes == ()
    assert Runner(whole).run(np.arange(6.0))[1].tolist() == [1, 2, 3, 4, 5, 6]
    (tmp_path / "q.vnnlib").write_text(text + "(assert (<= Y[2,1] 0.5))")
    assert verinet.verify(model, tmp_path / "q.vnnlib", timeout=20.0).status is Status.UNSAT


def test_a_plain_network_is_left_alone(pair: dict[str, Model]) -> None:
    assert alone(pair["f"]).graph is pair["f"].graph


def test_a_composition_that_computes_something_else_is_noticed(pair: dict[str, Model]) -> None:
    prop = parse_property(random_query(random.Random(3)))
    right, wrong = compose(pair, prop), compose({"f": pair["g"], "g": pair["f"]}, prop)
    mixed = Composite(wrong.graph, right.parts, right.dtypes, right.layout)
    with pytest.raises(InternalError, match="differs from its networks"):
        check_composite(mixed, np.full((1, prop.inputs), 0.75))


def test_inputs_without_bounds_allow_sat_only(pair: dict[str, Model], tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    bounds = "(assert (and (<= A[1] 1.0) (>= A[1] -1.0) (<= b 1.0) (>= b 0.0) (>= A[0] 5.0)))"
    query = ONE.partition("\n(assert")[0].format(f"{A} {B} {Y}") + bounds
    path.write_text(query + "(assert (!= Y[0] Y[1]))")
    verdict = verinet.verify(pair["f"], path, timeout=20.0)
    assert verdict.status is Status.SAT and any("no bounds" in note for note in verdict.notes)
    path.write_text(query + "(assert (> (- Y[0] Y[0]) 1.0))(assert (< (* Y[1] Y[1]) -1.0))")
    assert verinet.verify(pair["f"], path, timeout=5.0).reason is Reason.EMPTY_REGION
    path.write_text(query + "(assert (< (* Y[1] Y[1]) -1.0))")
    with pytest.raises(PropertyError, match=r"A\[0\] has no upper bound"):
        verinet.verify(pair["f"], path, timeout=5.0)


def test_a_hidden_tensor_without_bounds_is_an_error_of_the_model() -> None:
    from verinet.frontends.onnx import load_onnx

    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["x"], ["where"]),
            helper.make_node("Relu", ["x"], ["y"]),
        ],
        "side",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = load_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    text = '(vnnlib-version <2.0>)(declare-network f (declare-input A real [2]) (declare-hidden H int64 [2] "where")'
    text += "(declare-output Y real [2]))(assert (and (<= A[0] 1.0) (>= A[0] 0.0) (== A[1] A[0]) (>= H[0] 1)))"
    with pytest.raises(ModelError, match="NonZero"):
        compose(model, parse_property(text))
