"""Queries, properties and small ONNX models made by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from verinet.solvers.query import Clock, Query, clause_table

from tests.soundness.networks import random_graph, samples
from verinet.ir.graph import Graph
from verinet.spec.property import Box, Clause, Property, Rows

Floats = npt.NDArray[np.float64]
CPU = torch.device("cpu")


def rows(weights: npt.ArrayLike, bounds: npt.ArrayLike, strict: bool = False, error: float = 0.0) -> Rows:
    """The conjunction weights @ y <= bounds, from a dense matrix (rows, outputs)."""
    matrix, limits = np.atleast_2d(np.asarray(weights, dtype=np.float64)), np.asarray(bounds, dtype=np.float64)
    count = limits.size
    starts = np.arange(count + 1, dtype=np.int64) * matrix.shape[1]
    columns = np.tile(np.arange(matrix.shape[1], dtype=np.int64), count)
    values = matrix.ravel() if count else np.zeros(0)
    return Rows(starts, columns, values, limits.reshape(count), np.full(count, strict), error)


def property_of(
    boxes: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], clauses: Sequence[Clause], outputs: int
) -> Property:
    """Boxes (lower, upper) and clauses that name them by position."""
    made = []
    for lower, upper in boxes:
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        made.append(Box(low, high, low, high))
    return Property(tuple(made), tuple(clauses), len(made[0].lower), outputs)


def query_of(graph: Graph, prop: Property, seconds: float = 20.0, stop: Callable[[], bool] | None = None) -> Query:
    """A float64 query on the CPU that may take `seconds` from now."""
    clock = Clock(time.monotonic, time.monotonic() + seconds, stop)
    lower = torch.from_numpy(np.stack([b.lower for b in prop.boxes]))
    upper = torch.from_numpy(np.stack([b.upper for b in prop.boxes]))
    return Query(graph, lower, upper, clause_table(prop, CPU), prop, clock)


def one_row(
    graph: Graph, box: tuple[torch.Tensor, torch.Tensor], row: torch.Tensor, threshold: float, seconds: float = 20.0
) -> Query:
    """Whether row @ y <= threshold somewhere in one box (inputs,)."""
    prop = property_of(
        [(box[0].numpy(), box[1].numpy())], [Clause(0, rows(row.numpy(), [threshold]))], graph.output_size
    )
    return query_of(graph, prop, seconds)


def violates(query: Query, point: Floats) -> bool:
    """Whether an input (inputs,) of some box satisfies all rows of one of its clauses, by a plain float64 run."""
    outputs = query.graph.forward(torch.from_numpy(point).unsqueeze(0))[0].numpy()
    for clause in query.prop.clauses:
        box = query.prop.boxes[clause.box]
        inside = bool(((point >= box.lower) & (point <= box.upper)).all())
        found = clause.rows
        matrix = np.zeros((len(found), len(outputs)))
        owner = np.repeat(np.arange(len(found)), np.diff(found.starts))
        np.add.at(matrix, (owner, found.columns), found.values)
        if inside and bool((matrix @ outputs <= found.bounds).all()):
            return True
    return False


@dataclass
class Referee:
    """An `offer` that checks every candidate and remembers what it was shown."""

    query: Query
    confirmed: list[Floats] = field(default_factory=list)
    refused: list[Floats] = field(default_factory=list)

    def __call__(self, points: Floats) -> bool:
        for point in points:
            (self.confirmed if violates(self.query, point) else self.refused).append(point)
        return bool(self.confirmed)


def silent(phase: str, still_open: int, closed: int, bound: float | None) -> None:
    """A report that goes nowhere."""


def onnx_chain(
    layers: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], folder: Path, activation: str = "Relu"
) -> Path:
    """Gemm layers (weight (in, out), offset) with activations between them, written to an ONNX file."""
    nodes, fixed, name = [], [], "x"
    for number, (weight, offset) in enumerate(layers):
        fixed += [numpy_helper.from_array(weight, f"w{number}"), numpy_helper.from_array(offset, f"b{number}")]
        target = "y" if number == len(layers) - 1 else f"z{number}"
        nodes.append(helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [target]))
        if number < len(layers) - 1:
            nodes.append(helper.make_node(activation, [target], [f"a{number}"]))
            name = f"a{number}"
    shapes = (layers[0][0].shape[0], layers[-1][0].shape[1])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in zip("xy", shapes, strict=True)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], fixed)
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def random_chain(sizes: Sequence[int], seed: int) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Random float32 layers (weight (in, out), offset (out,)) of the sizes given."""
    draw = np.random.default_rng(seed)
    return [
        (
            (draw.normal(size=(n, m)) * 1.6 / n**0.5).astype(np.float32),
            (draw.normal(size=m) * 0.3).astype(np.float32),
        )
        for n, m in zip(sizes, sizes[1:], strict=False)
    ]


def hard_row(depth: int = 6, width: int = 24, below: float = 0.05, seed: int = 1) -> Query:
    """A random ReLU network and a row that takes some hundred domains."""
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    graph = random_graph(seed, "Relu", "chain", depth, width)
    low, high = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
    values = graph.forward(samples(low[None], high[None], seed, 30_000)[:, 0]) @ row
    return one_row(graph, (low, high), row, float(values.min() - below * (values.max() - values.min())), 60.0)


def query_files(folder: Path, below: float, hidden: tuple[int, ...] = (16, 16)) -> tuple[Path, Path]:
    """A random network over 4 inputs, and outputs that it cannot (or, with a negative share, can) reach."""
    import onnxruntime

    path = onnx_chain(random_chain((4, *hidden, 1), 5), folder)
    points: Floats = np.random.default_rng(0).uniform(-1, 1, (5000, 4))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = np.concatenate([session.run(None, {"x": p[None].astype(np.float32)})[0].ravel() for p in points])
    threshold = values.min() - below * (values.max() - values.min())
    lines = [*(f"(declare-const X_{i} Real)" for i in range(4)), "(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(4)]
    prop = folder / "query.vnnlib"
    prop.write_text("\n".join([*lines, f"(assert (<= Y_0 {threshold:.6f}))"]))
    return path, prop
