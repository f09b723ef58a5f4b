"""Numerical edges and spellings that gave a wrong answer, or could: exact optima, jumps, overflow, cancellation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from verinet.solvers.branching.input_split import InputSplit

import verinet
from tests.unit.solvers.queries import one_row, silent
from verinet.errors import PropertyError, VerinetError
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.propagation.sweep import build_backward
from verinet.spec.property import Box

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
F, D = np.float32, np.float64
N = helper.make_node


def network(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, object] | None = None, size: int = 1, dtype: type = F
) -> Model:
    """x (1, size) to y; constants become arrays of `dtype` unless they are arrays."""
    fixed = {k: v if isinstance(v, np.ndarray) else np.asarray(v, dtype) for k, v in (constants or {}).items()}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(n, code, s) for n, s in (("x", [1, size]), ("y", None))]
    graph = helper.make_graph(
        list(nodes), "edge", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in fixed.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return load_onnx(made.SerializeToString())


def ask(folder: Path, model: Model, box: tuple[str, str], asserts: str, timeout: float = 4.0) -> str:
    """The verdict on a box with the same ends for all inputs."""
    size = model.graph.input_size
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} {box[0]}))(assert (<= X_{i} {box[1]}))" for i in range(size)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(model.graph.output_size)]
    path = folder / "edge.vnnlib"
    path.write_text("\n".join([*lines, *(f"(assert {a})" for a in asserts.split(" & "))]))
    return verinet.verify(model, path, timeout=timeout).status.value


def chain(*ops: str) -> list[onnx.NodeProto]:
    """Operators one after the other, from x to y."""
    names = ["x", *(f"t{i}" for i in range(len(ops) - 1)), "y"]
    return [N(op, [a], [b]) for op, a, b in zip(ops, names, names[1:], strict=False)]


SIGMOID_ABOVE = [N("Greater", ["x", "c"], ["g"]), N("Sigmoid", ["x"], ["s"]), N("Where", ["g", "five", "s"], ["y"])]
SIGMOID_HOLE = [
    N("Sub", ["x", "m"], ["d"]), N("Abs", ["d"], ["a"]), N("Less", ["a", "r"], ["g"]), N("Sigmoid", ["x"], ["s"]),
    N("Where", ["g", "five", "s"], ["y"]),
]  # fmt: skip
SOFTPLUS_ABOVE = [
    N("Greater", ["x", "c"], ["g"]), N("Exp", ["x"], ["e"]), N("Add", ["e", "one"], ["f"]), N("Log", ["f"], ["l"]),
    N("Mul", ["x", "two"], ["w"]), N("Where", ["g", "w", "l"], ["y"]),
]  # fmt: skip
CLIP_FAR = [N("Relu", ["x"], ["r"]), N("Min", ["r", "c"], ["y"])]
RELU_TWICE = chain("Relu", "Relu")


@pytest.mark.parametrize(
    ("nodes", "constants", "box", "asserts"),
    [
        (SIGMOID_ABOVE, {"c": 100.0, "five": 5.0}, ("0.0", "101.0"), "(>= Y_0 4.0)"),
        (SIGMOID_HOLE, {"m": 0.025, "r": 0.01, "five": 5.0}, ("0.0", "30.0"), "(>= Y_0 4.0)"),
        (SOFTPLUS_ABOVE, {"c": 65.0, "one": 1.0, "two": 2.0}, ("0.0", "66.0"), "(>= Y_0 100.0)"),
        (CLIP_FAR, {"c": 70.0}, ("60.0", "72.0"), "(>= Y_0 69.5)"),
        (RELU_TWICE, {}, ("0.0", "100.0"), "(>= Y_0 99.0)"),
    ],
    ids=["threshold beyond any grid", "hole between grid points", "switch far out", "far clip", "relu twice"],
)
def test_what_looks_like_a_known_function_on_a_grid_is_not_taken_for_it(
    tmp_path: Path, nodes: list[onnx.NodeProto], constants: dict[str, float], box: tuple[str, str], asserts: str
) -> None:
    assert ask(tmp_path, network(nodes, constants), box, asserts) == "sat"


def test_narrow_integers_count_in_a_circle(tmp_path: Path) -> None:
    """-1 as an unsigned byte is 255; 256 is 0."""
    nodes = [N("Cast", ["x"], ["i"], to=INT64), N("Cast", ["i"], ["u"], to=UINT8), N("Cast", ["u"], ["y"], to=FLOAT)]
    model = network(nodes)
    assert ask(tmp_path, model, ("-1.0", "10.0"), "(>= Y_0 11.0)") == "sat"
    assert ask(tmp_path, model, ("250.0", "300.0"), "(<= Y_0 20.0)") == "sat"
    assert ask(tmp_path, model, ("0.0", "200.0"), "(>= Y_0 201.0)") == "unsat"


def test_arithmetic_on_comparisons_is_read(tmp_path: Path) -> None:
    nodes = [
        N("Greater", ["x", "half"], ["g"]), N("Cast", ["g"], ["c"], to=FLOAT), N("Sub", ["c", "half"], ["s"]),
        N("Abs", ["s"], ["a"]), N("Mul", ["a", "x"], ["y"]),
    ]  # fmt: skip
    model = network(nodes, {"half": 0.5})
    assert ask(tmp_path, model, ("0.0", "1.0"), "(>= Y_0 0.45)") == "sat"
    assert ask(tmp_path, model, ("0.0", "1.0"), "(>= Y_0 0.6)") == "unsat"


def test_a_reversed_slice_of_one_entry_is_read() -> None:
    ends = {name: np.array([value], np.int64) for name, value in (("a", -1), ("b", -2), ("axis", 1), ("step", -1))}
    model = network([N("Slice", ["x", "a", "b", "axis", "step"], ["y"])], ends, size=3)
    assert model.graph.forward(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)).tolist() == [[3.0]]


def test_numbers_without_axes_inside_a_network(tmp_path: Path) -> None:
    nodes = [N("Sin", ["x"], ["s"]), N("ReduceMean", ["s"], ["m"], keepdims=0), N("Tanh", ["m"], ["y"])]
    model = network(nodes, size=2)
    # sin(1) is 0.8415 and tanh(0.8415) is 0.6866
    assert ask(tmp_path, model, ("-1.0", "1.0"), "(>= Y_0 0.68)") == "sat"
    assert ask(tmp_path, model, ("-1.0", "1.0"), "(>= Y_0 0.69)") == "unsat"


def test_a_point_that_bounds_cannot_close_stalls() -> None:
    model = network(chain("Sin"), dtype=D)
    point = torch.tensor([0.3], dtype=torch.float64)
    threshold = float(torch.sin(point)[0])
    query = one_row(model.graph, (point, point), torch.tensor([1.0], dtype=torch.float64), threshold, seconds=3.0)
    search = InputSplit(query, build_backward(query.graph, point, point))
    assert search.run(query.clock, lambda points: False, silent).end.name == "STALLED"


EXACT = [
    ("Relu", ("-1.0", "1.0"), "(>= Y_0 1.0)", "sat"),
    ("Relu", ("-1.0", "1.0"), "(<= Y_0 0.0)", "sat"),
    ("Relu", ("-1.0", "1.0"), "(< Y_0 0.0)", "unsat"),
    ("Relu", ("-1.0", "1.0"), "(>= Y_0 1.000000000001)", "unsat"),
    ("Sign", ("0.0", "1.0"), "(<= Y_0 0.0)", "sat"),
    ("Sign", ("-1.0", "0.0"), "(>= Y_0 0.0)", "sat"),
    ("Sign", ("0.0001", "1.0"), "(<= Y_0 0.0)", "unsat"),
    ("Floor", ("0.5", "3.0"), "(>= Y_0 3.0)", "sat"),
    ("Floor", ("0.5", "2.9999"), "(>= Y_0 3.0)", "unsat"),
    ("Ceil", ("-0.5", "3.0"), "(>= Y_0 4.0)", "unsat"),
    ("Round", ("1.9", "2.5"), "(>= Y_0 3.0)", "unsat"),  # ties go to even numbers
    ("Round", ("3.0", "3.5"), "(>= Y_0 4.0)", "sat"),
    ("Sqrt", ("0.0", "1.0"), "(<= Y_0 0.0)", "sat"),
    ("Abs", ("-1.0", "2.0"), "(<= Y_0 0.0)", "sat"),
]


@pytest.mark.parametrize(("op", "box", "asserts", "expected"), EXACT)
def test_thresholds_at_the_exact_optimum(
    tmp_path: Path, op: str, box: tuple[str, str], asserts: str, expected: str
) -> None:
    assert ask(tmp_path, network([N(op, ["x"], ["y"])]), box, asserts) == expected


def _scaled(*factors: float) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{i}" for i in range(len(factors) - 1)), "y"]
    return [N("Mul", [a, f"c{i}"], [b]) for i, (a, b) in enumerate(zip(names, names[1:], strict=False))]


@pytest.mark.parametrize(
    ("nodes", "constants", "asserts"),
    [
        (
            [
                N("Mul", ["x", "w"], ["t"]),
                N("Add", ["t", "b"], ["u"]),
                N("Sub", ["u", "b"], ["v"]),
                N("Relu", ["v"], ["y"]),
            ],
            {"w": 1e-6, "b": 1e10},
            "(>= Y_0 0.00000099)",
        ),
        (
            [N("MatMul", ["x", "w"], ["t"]), N("Relu", ["t"], ["r"]), N("MatMul", ["r", "v"], ["y"])],
            {"w": [[1e6, 1e6 + 1e-4]], "v": [[1.0], [-1.0]]},
            "(<= Y_0 -0.000099)",
        ),
        (_scaled(1, 1), {"c0": 1e-300, "c1": 1e300}, "(>= Y_0 0.9)"),
        (_scaled(1, 1, 1, 1), {"c0": 1e-170, "c1": 1e-170, "c2": 1e170, "c3": 1e170}, "(>= Y_0 0.9)"),
    ],
    ids=["bias cancels", "weights cancel", "tiny times huge", "underflow inside"],
)
def test_cancellation_and_underflow_prove_nothing_wrong(
    tmp_path: Path, nodes: list[onnx.NodeProto], constants: dict[str, object], asserts: str
) -> None:
    """Over the real numbers each of these is reached at x = 1."""
    assert ask(tmp_path, network(nodes, constants, dtype=D), ("0.0", "1.0"), asserts, 2.0) != "unsat"


@pytest.mark.parametrize("tail", ["Log", "Reciprocal", "Tanh", "Asinh", "Softsign", "Atan"])
@pytest.mark.parametrize("at", [300.0, 709.0, 712.0, 900.0])
def test_exponentials_beyond_the_range_of_float64(tail: str, at: float) -> None:
    """Bounds hold, or there are none; they are never infinite on the wrong side."""
    exact = {"Log": at, "Reciprocal": 0.0, "Tanh": 1.0, "Asinh": at + np.log(2.0), "Softsign": 1.0, "Atan": np.pi / 2}
    end = np.array([at])
    try:
        found = verinet.bounds(network(chain("Exp", tail), dtype=D), Box(end, end, end, end))
    except VerinetError:
        return
    assert found.lower[0] <= exact[tail] * (1 + 1e-12)
    assert found.upper[0] >= exact[tail] * (1 - 1e-12)


def test_large_arguments_of_periodic_functions(tmp_path: Path) -> None:
    """sin(100000) is 0.0357487979..."""
    model = network([N("Mul", ["x", "a"], ["t"]), N("Sin", ["t"], ["y"])], {"a": 1e5}, dtype=D)
    assert ask(tmp_path, model, ("1.0", "1.0001"), "(>= Y_0 0.999999)") == "sat"
    assert ask(tmp_path, model, ("1.0", "1.0"), "(>= Y_0 0.0357487)") == "sat"
    assert ask(tmp_path, model, ("1.0", "1.0"), "(<= Y_0 0.0357487)") == "unsat"
    assert ask(tmp_path, model, ("1.0", "1.0"), "(>= Y_0 0.0357489)") == "unsat"


def test_boxes_between_two_numbers(tmp_path: Path) -> None:
    """x = 0.1 is no float32: what holds at the decimal is what counts."""
    model = network([N("Relu", ["x"], ["y"])])
    assert ask(tmp_path, model, ("0.1", "0.1"), "(>= Y_0 0.1)", 1.0) != "unsat"
    assert ask(tmp_path, model, ("0.1", "0.1"), "(>= Y_0 0.100000000001)") == "unsat"
    assert ask(tmp_path, model, ("0.1", "0.1"), "(>= Y_0 0.0999999)") == "sat"
    after = "1.00000011920928955078125"  # the next float32
    assert ask(tmp_path, model, ("1.0", after), f"(>= Y_0 {after})") == "sat"


def test_poles_inside_the_box_are_never_proved_away(tmp_path: Path) -> None:
    model = network([N("Reciprocal", ["x"], ["y"])], dtype=D)
    for box in (("-1.0", "1.0"), ("0.0", "1.0")):
        try:
            assert ask(tmp_path, model, box, "(>= Y_0 1000000.0)", 2.0) != "unsat"
        except PropertyError as error:
            assert "no finite value" in str(error)


def test_bounds_of_inputs_beyond_float64_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PropertyError, match="float64"):
        ask(tmp_path, network([N("Relu", ["x"], ["y"])]), ("0.0", "1e400"), "(>= Y_0 100.0)")


def test_names_that_are_no_text_are_a_damaged_file() -> None:
    made = helper.make_graph(
        [N("Transpose", ["w"], ["v"]), N("MatMul", ["x", "v"], ["y"])],
        "edge",
        [helper.make_tensor_value_info("x", FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 2), F), "w")],
    )
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(VerinetError):
        load_onnx(data.replace(b"Transpose", b"Tr\xfenspose"))
