"""Helpers for the scripts that make our models: a small ONNX writer, and writers of properties."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MODELS = Path(__file__).resolve().parent
SPECS = MODELS.parent / "vnnlib_specs"
TIMEOUT = 60

Array = npt.NDArray[Any]


class Writer:
    """Collects nodes and constants of one network, in order. Every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}

    def constant(self, value: Array, name: str) -> str:
        self.constants[name] = value
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def gemm(self, x: str, weight: Array, bias: Array, name: str) -> str:
        """x W^T + b, with W of shape (out, in) as PyTorch keeps it."""
        w, b = self.constant(_single(weight), f"{name}_weight"), self.constant(_single(bias), f"{name}_bias")
        return self.node("Gemm", [x, w, b], name, transB=1)

    def conv(self, x: str, weight: Array, bias: Array, name: str, **attributes: Any) -> str:
        w, b = self.constant(_single(weight), f"{name}_weight"), self.constant(_single(bias), f"{name}_bias")
        return self.node("Conv", [x, w, b], name, **attributes)

    def save(self, path: Path, shape: Sequence[int], output: str, outputs: int, opset: int = 13) -> Path:
        """Write the file. Equal weights give equal bytes."""
        from onnx import TensorProto, checker, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, outputs])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, producer_name="verinet", opset_imports=imports, ir_version=8)
        checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def _single(value: Array) -> Array:
    return np.ascontiguousarray(value, dtype=np.float32)


def run(path: Path, points: Array) -> Array:
    """Outputs of the file for flat inputs (points, size), by ONNX Runtime, one point at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    rows = [session.run(None, {entry.name: p.astype(np.float32).reshape(entry.shape)})[0].ravel() for p in points]
    return np.stack(rows)


def declarations(inputs: int, outputs: int) -> list[str]:
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    return [*lines, *(f"(declare-const Y_{i} Real)" for i in range(outputs)), ""]


def box_lines(lower: Array, upper: Array) -> list[str]:
    lines: list[str] = []
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {_text(low)}))", f"(assert (<= X_{i} {_text(high)}))"]
    return [*lines, ""]


def robust_spec(title: str, ball: tuple[Array, Array], label: int, classes: int) -> str:
    """VNN-LIB 1: some class other than `label` wins somewhere in the box."""
    lower, upper = ball
    others = "\n".join(f"    (and (>= Y_{k} Y_{label}))" for k in range(classes) if k != label)
    head = [f"; {title}", "; sat: another class wins somewhere in the box.", ""]
    return "\n".join(
        [*head, *declarations(len(lower), classes), *box_lines(lower, upper), f"(assert (or\n{others}\n))", ""]
    )


def robust_spec_2(title: str, ball: tuple[Array, Array], shape: Sequence[int], label: int, classes: int) -> str:
    """The same property in VNN-LIB 2, for an input of the given shape and an output of shape [1, classes]."""
    lower, upper = (side.reshape(shape) for side in ball)
    extents = ",".join(str(extent) for extent in shape)
    lines = [f"; {title}", "(vnnlib-version <2.0>)", "", "(declare-network f"]
    lines += [f"    (declare-input X float32 [{extents}])", f"    (declare-output Y float32 [1,{classes}])", ")", ""]
    for index in np.ndindex(*shape):
        entry = f"X[{','.join(str(i) for i in index)}]"
        lines += [
            f"(assert (>= {entry} {_text(float(lower[index]))}))",
            f"(assert (<= {entry} {_text(float(upper[index]))}))",
        ]
    others = "\n".join(f"    (>= Y[0,{k}] Y[0,{label}])" for k in range(classes) if k != label)
    return "\n".join([*lines, "", f"(assert (or\n{others}\n))", ""])


def output_spec(title: str, ball: tuple[Array, Array], outputs: int, claims: Iterable[str]) -> str:
    """VNN-LIB 1: all the given comparisons hold somewhere in the box."""
    lower, upper = ball
    asserts = [f"(assert {claim})" for claim in claims]
    return "\n".join([f"; {title}", "", *declarations(len(lower), outputs), *box_lines(lower, upper), *asserts, ""])


def cases_spec(title: str, ball: tuple[Array, Array], outputs: int, cases: Iterable[Sequence[str]]) -> str:
    """VNN-LIB 1: in the box, all comparisons of at least one case hold; a case may narrow the box."""
    lower, upper = ball
    options = "\n".join(f"    (and {' '.join(case)})" for case in cases)
    head = [f"; {title}", "", *declarations(len(lower), outputs), *box_lines(lower, upper)]
    return "\n".join([*head, f"(assert (or\n{options}\n))", ""])


def within(lower: Sequence[float], upper: Sequence[float]) -> list[str]:
    """Comparisons that keep the inputs in a box, for `cases_spec`."""
    pairs = enumerate(zip(lower, upper, strict=True))
    return [text for i, (a, b) in pairs for text in (f"(>= X_{i} {_text(a)})", f"(<= X_{i} {_text(b)})")]


def replace_rows(prefixes: Sequence[str], rows: Sequence[tuple[str, str]]) -> None:
    """Update instances.csv: rows of networks whose names begin with one of `prefixes` are replaced by `rows`."""
    path = SPECS / "instances.csv"
    old = list(csv.reader(path.open())) if path.exists() else []
    kept = [tuple(row) for row in old if not Path(row[0]).name.startswith(tuple(prefixes))]
    new = [(f"../models/{model}", spec, str(TIMEOUT)) for model, spec in rows]
    with path.open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows(sorted([*kept, *new]))


def _text(value: float) -> str:
    return np.format_float_positional(np.float64(value), unique=True, trim="0")
