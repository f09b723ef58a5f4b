"""Elementwise parts of one tensor become one function: which parts, with which constants, and with the right values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import verinet
from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.model import Model
from verinet.frontends.onnx import inspect_onnx, load_onnx
from verinet.ops.activations import registry
from verinet.ops.expression.composed import ComposedFunction
from verinet.ops.scalar import Elementwise

F = np.float32
Steps = list[tuple[str, str, str]]
NUMBERS: dict[str, Any] = {
    "one": F(1), "two": F(2), "half": F(0.5), "three": F(3), "small": F(0.3), "minus": F(-1), "low": F(-0.75),
    "rates": np.linspace(0.5, 2, 6, dtype=F), "column": np.linspace(1, 3, 6, dtype=F).reshape(1, 6),
    "ones6": np.ones(6, F), "wide": np.linspace(0.5, 1, 12, dtype=F).reshape(2, 6),
}  # fmt: skip

COLLAPSE: dict[str, Steps] = {
    "GoLU": [("Neg", "x", "a"), ("Exp", "a", "b"), ("Neg", "b", "d"), ("Exp", "d", "e"), ("Mul", "x e", "y")],
    "snake": [
        ("Mul", "x two", "a"), ("Sin", "a", "b"), ("Mul", "b b", "d"), ("Div", "d two", "e"), ("Add", "x e", "y"),
    ],
    "snake per channel": [
        ("Mul", "x rates", "a"), ("Sin", "a", "b"), ("Pow", "b two", "d"), ("Div", "d rates", "e"), ("Add", "e x", "y"),
    ],
    "sine plus square": [("Sin", "x", "a"), ("Mul", "x x", "b"), ("Add", "a b", "y")],
    "squared relu": [("Relu", "x", "a"), ("Mul", "a a", "y")],
    "gaussian": [("Mul", "x x", "a"), ("Neg", "a", "b"), ("Exp", "b", "y")],
    "where": [("Greater", "x small", "g"), ("Sin", "x", "a"), ("Exp", "x", "e"), ("Where", "g a e", "y")],
    "mask": [("Less", "x small", "g"), ("Cast", "g", "m"), ("Tanh", "x", "a"), ("Mul", "m a", "y")],
    "hat": [("Sub", "x one", "a"), ("Abs", "a", "b"), ("Sub", "one b", "d"), ("Relu", "d", "y")],
    "min and max": [("Max", "x low", "a"), ("Sin", "a", "b"), ("Min", "b small", "d"), ("Mul", "d x", "y")],
    "swish with a rate per channel": [("Mul", "x rates", "a"), ("Sigmoid", "a", "b"), ("Mul", "x b", "y")],
    "rational": [("Mul", "x x", "a"), ("Add", "a one", "b"), ("Div", "x b", "y")],
    "tanh of exp": [("Exp", "x", "a"), ("Tanh", "a", "y")],
    "constants in the middle": [
        ("Add", "one half", "k"), ("Mul", "x k", "a"), ("Erf", "a", "b"), ("Mul", "b x", "d"), ("Cos", "d", "y"),
    ],
}  # fmt: skip
KEEP: dict[str, tuple[Steps, list[str]]] = {
    "one function": ([("Tanh", "x", "y")], ["Tanh"]),
    "scaled": ([("Mul", "x two", "a"), ("Tanh", "a", "b"), ("Add", "b one", "y")], ["Tanh"]),
    "affine only": ([("Mul", "x two", "a"), ("Sub", "a x", "b"), ("Add", "b one", "y")], []),
    "residual": ([("Tanh", "x", "a"), ("Add", "x a", "y")], ["Tanh"]),
    "a known pattern": ([("Sigmoid", "x", "a"), ("Mul", "x a", "y")], ["Swish"]),
    "clip": ([("Relu", "x", "a"), ("Min", "a one", "y")], ["Clip"]),
}


def spec(name: str, steps: Steps) -> Spec:
    used = {k: np.asarray(v) for k, v in NUMBERS.items() if any(k in i.split() for _, i, _ in steps)}
    extra: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}}
    made = [node(op, inputs.replace("x", "h") if "x" in inputs.split() else inputs, out, **extra.get(op, {}))
            for op, inputs, out in [(o, " ".join(i.split()), u) for o, i, u in steps]]  # fmt: skip
    chain = [node("MatMul", "x A", "h"), *made, node("MatMul", "y B", "z")]
    return Spec(name, chain, {"x": (1, 4)}, {**used, "A": weights(4, 6), "B": weights(6, 2)}, outputs=("z",))


def functions(model: Model) -> list[Any]:
    return [n.op.function for n in model.graph.nodes if isinstance(n.op, Elementwise)]


def agrees(model: Model) -> None:
    size = model.graph.input_size
    assert compare_with_onnxruntime(model, 2 * np.random.default_rng(0).normal(size=(6, size))) < 1e-5


@pytest.mark.parametrize("name", COLLAPSE)
def test_parts_of_one_tensor_become_one_function(name: str) -> None:
    steps = COLLAPSE[name]
    model = load_onnx(spec(name, steps).model())
    found = functions(model)
    assert len(found) == 1 and isinstance(found[0], ComposedFunction)
    assert [n.op.kind for n in model.graph.nodes[2:]] == ["Dense", "Elementwise", "Dense", "Reshape"]
    agrees(model)


@pytest.mark.parametrize("name", COLLAPSE)
def test_bounds_of_collapsed_networks_hold_and_beat_those_of_the_parts(name: str) -> None:
    model = load_onnx(spec(name, COLLAPSE[name]).model())
    draw = torch.Generator().manual_seed(1)
    low = torch.randn(1, 4, generator=draw, dtype=torch.float64) * 0.3 - 0.1
    high = low + 0.2
    last = verinet.bounds(model, verinet.box(low[0].numpy(), high[0].numpy()))
    x = low + (high - low) * torch.rand(4000, 4, generator=draw, dtype=torch.float64)
    y = model.graph.to(torch.float64).forward(x).numpy()
    assert (last.lower <= y.min(0)).all() and (y.max(0) <= last.upper).all()
    spread = y.max(0) - y.min(0)
    assert (last.upper - last.lower <= 4 * spread + 1e-6).all(), "sampled ranges are inner ones; bounds are near them"


@pytest.mark.parametrize("name", KEEP)
def test_what_gains_nothing_stays(name: str) -> None:
    steps, expected = KEEP[name]
    model = load_onnx(spec(name, steps).model())
    assert [f.name for f in functions(model)] == expected
    agrees(model)


def test_only_the_nonlinear_middle_is_taken() -> None:
    """Affine steps before and behind, with constants by channel, stay linear."""
    steps = [("Mul", "x rates", "s"), ("Add", "s column", "t"), *[(o, i.replace("x", "t"), u) for o, i, u in (
        ("Sin", "x", "a"), ("Mul", "a x", "w"))], ("Mul", "w rates", "y")]  # fmt: skip
    model = load_onnx(spec("middle", steps).model())
    (found,) = functions(model)
    assert isinstance(found, ComposedFunction) and not found.parameters
    agrees(model)


def test_a_tensor_that_others_read_stays_available() -> None:
    steps = [("Sin", "x", "a"), ("Mul", "a x", "b"), ("Exp", "b", "d"), ("Add", "d a", "y")]
    model = load_onnx(spec("shared", steps).model())
    assert len(functions(model)) == 1
    agrees(model)
    chain = [node("Sin", "x", "a"), node("Mul", "a x", "b"), node("MatMul", "a B", "c"), node("MatMul", "b B", "e")]
    double = Spec("two", [*chain, node("Add", "c e")], {"x": (1, 4)}, {"B": weights(4, 3)})
    model = load_onnx(double.model())
    assert [f.name for f in functions(model) if not isinstance(f, ComposedFunction)] == ["Sin"]
    agrees(model)


def test_two_variables_are_no_function_of_one() -> None:
    chain = [node("Sin", "a", "s"), node("Exp", "b", "e"), node("Mul", "s e", "p"), node("Tanh", "p")]
    model = load_onnx(Spec("pair", chain, {"a": (1, 3), "b": (1, 3)}).model())
    assert all(not isinstance(f, ComposedFunction) for f in functions(model))
    agrees(model)


def test_moves_end_a_part() -> None:
    """A transposed copy is another tensor: entry i meets entry j."""
    chain = [node("Transpose", "x", "t", perm=[1, 0]), node("Sin", "t", "s"), node("Mul", "x s")]
    model = load_onnx(Spec("moved", chain, {"x": (3, 3)}).model())
    assert all(not isinstance(f, ComposedFunction) for f in functions(model))
    agrees(model)


def test_constants_may_widen_the_shape() -> None:
    chain = [node("Mul", "x wide", "a"), node("Sin", "a", "s"), node("Mul", "s s", "q"), node("Add", "q x")]
    model = load_onnx(Spec("wide", chain, {"x": (6,)}, {"wide": NUMBERS["wide"]}).model())
    assert model.output_shapes == ((2, 6),) and len(functions(model)) == 1
    agrees(model)


def test_many_different_constants_stay_apart() -> None:
    rates = np.linspace(0.5, 2, 600, dtype=F)
    chain = [node("Mul", "x r", "a"), node("Sin", "a", "s"), node("Mul", "s x")]
    model = load_onnx(Spec("many", chain, {"x": (1, 600)}, {"r": rates}).model())
    assert all(not isinstance(f, ComposedFunction) for f in functions(model))
    agrees(model)


def test_inspect_says_what_was_joined() -> None:
    records = {r.name: r for r in inspect_onnx(spec("GoLU", COLLAPSE["GoLU"]).model())}
    assert records["y"].status == "bounded" and "one function of one variable" in records["y"].detail
    assert records["b"].status == "folded"


def test_a_query_on_a_collapsed_network_is_decided(tmp_path: Any) -> None:
    """Branching on a composed function with parameters by channel proves what the root bound does not."""
    built = spec("snake per channel", COLLAPSE["snake per channel"])
    path = tmp_path / "net.onnx"
    onnx.save(built.model(), path)
    model = load_onnx(path)
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(60000, 4, generator=draw, dtype=torch.float64) - 0.5
    top = float(model.graph.to(torch.float64).forward(x)[:, 0].max())
    inputs = "".join(
        f"(declare-const X_{i} Real)\n(assert (>= X_{i} -0.5))\n(assert (<= X_{i} 0.5))\n" for i in range(4)
    )
    outputs = "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    for limit, status in ((top + 0.3, verinet.Status.UNSAT), (top - 0.5, verinet.Status.SAT)):
        file = tmp_path / "p.vnnlib"
        file.write_text(f"{inputs}{outputs}(assert (>= Y_0 {limit:.6f}))\n")
        assert verinet.verify(path, file, timeout=60).status is status


@pytest.fixture
def _restored() -> Iterator[None]:
    before = dict(registry._TABLE)
    yield
    registry._TABLE.clear()
    registry._TABLE.update(before)


@pytest.mark.usefixtures("_restored")
def test_operators_of_other_domains_may_be_registered() -> None:
    made = helper.make_node("Bump", ["x"], ["y"], domain="acme")
    graph = helper.make_graph(
        [made],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("acme", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    with pytest.raises(verinet.VerinetError, match="acme"):
        load_onnx(model)
    verinet.register_activation("acme::Bump", "exp(-x**2) * x")
    (found,) = functions(load_onnx(model))
    assert found.name == "acme::Bump"
    assert [r.status for r in inspect_onnx(model)] == ["bounded"]


def test_local_functions_are_opened_and_collapsed() -> None:
    """A function that the file itself defines runs in ONNX Runtime too, and needs no registration."""
    body = [helper.make_node("Sin", ["a"], ["s"]), helper.make_node("Mul", ["s", "s"], ["q"])]
    body.append(helper.make_node("Add", ["q", "a"], ["b"]))
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("acme", 1)]
    local = helper.make_function("acme", "Snake", ["a"], ["b"], body, imports)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "A"], ["h"]), helper.make_node("Snake", ["h"], ["y"], domain="acme")],
        "local",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(weights(3, 5), "A")],
    )
    model = load_onnx(helper.make_model(graph, functions=[local], opset_imports=imports, ir_version=8))
    assert len(functions(model)) == 1 and isinstance(functions(model)[0], ComposedFunction)
    agrees(model)
