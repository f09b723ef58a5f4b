"""Norms that reduce to several programs: q = infinity output by output, p = 1 input by input. Choice of outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.extract import select_outputs
from verinet.solvers.lipschitz.form import Floats, Form, Matrix

from verinet.errors import UsageError
from verinet.ir.graph import Graph, Node
from verinet.ops.linear.dense import Dense


@dataclass(frozen=True)
class Part:
    """A form and norms that one program covers."""

    form: Form
    norm: Norm

    @property
    def euclidean(self) -> bool:
        return self.norm == 2


def parts_of(form: Form, norm: Norm) -> list[Part]:
    """Programs whose largest bound is the bound for `norm`: 2, infinity, or (p, q).

    To the infinity norm the constant is the largest one over single outputs. From the 1-norm it is the largest one
    over single inputs, because the unit ball is the hull of the axes: a difference of outputs is a secant matrix times
    the difference of inputs, and every column of that matrix obeys the constraints of the form by itself.
    """
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    outputs, inputs = form.dy.value.shape
    forms = [form] if not math.isinf(q) else [select_outputs(form, [k]) for k in range(outputs)]
    q = 2.0 if math.isinf(q) else q
    if p == 1:
        forms = [_column(one, j) for one in forms for j in range(inputs)]
        p = 2.0
    return [Part(one, 2.0 if (p, q) == (2.0, 2.0) else (p, q)) for one in forms]


def whole_of(form: Form, norm: Norm) -> Part:
    """One program that covers all parts at once, only looser: |x|_2 <= |x|_1 and |y|_inf <= |y|_2."""
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    p, q = max(p, 2.0), min(q, 2.0)
    return Part(form, 2.0 if (p, q) == (2.0, 2.0) else (p, q))


def chosen_rows(output: Any, count: int) -> Floats | None:
    """A matrix (rows, outputs) that picks outputs by number or combines them; None for all. Raises UsageError."""
    if output is None:
        return None
    given = np.asarray(output)
    if given.ndim == 2 and given.dtype.kind in "fiu":
        if given.shape[1] != count or not given.shape[0]:
            raise UsageError(
                f"a matrix of shape {given.shape} does not combine {count} outputs", hint="(rows, outputs)"
            )
        if not np.isfinite(given).all():
            raise UsageError("the matrix that combines outputs has an entry that is not finite")
        return np.asarray(given, dtype=np.float64)
    numbers = given.reshape(-1)
    fits = given.ndim < 2 and numbers.size > 0 and numbers.dtype.kind in "iu"
    if not fits or ((numbers < 0) | (numbers >= count)).any():
        raise UsageError(f"no such output: {output}", hint=f"the network's outputs are 0 to {count - 1}")
    rows: Floats = np.eye(count)[numbers]
    return rows


def with_outputs(graph: Graph, rows: Floats | None) -> Graph:
    """The graph with its outputs combined by a matrix (rows, outputs)."""
    if rows is None:
        return graph
    offset = torch.zeros(rows.shape[0], dtype=torch.float64)
    dense = Dense(torch.from_numpy(np.ascontiguousarray(rows.T)), offset)
    return Graph((*graph.nodes, Node(dense, (graph.output,), (rows.shape[0],), "chosen outputs")))


def _column(form: Form, j: int) -> Form:
    """The same network as a function of input j alone."""

    def cut(matrix: Matrix) -> Matrix:
        radius = None if matrix.radius is None else np.ascontiguousarray(matrix.radius[:, j : j + 1])
        return Matrix(np.ascontiguousarray(matrix.value[:, j : j + 1]), radius)

    return Form(
        form.c,
        cut(form.d),
        form.cy,
        cut(form.dy),
        form.v_block,
        form.w_block,
        form.layer,
        form.labels,
        form.implicit,
    )
