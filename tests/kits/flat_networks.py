"""Small networks of flat functions (Sign, Floor, ...) with all the values that they take, by exact enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import ScalarFunction
from verinet.ops.sorting.steps import STEP, WHOLE

Floats = npt.NDArray[np.float64]


def flat_functions() -> dict[str, ScalarFunction]:
    """All functions that are constant between jumps."""
    found = {name: find(name, {}) for name in ("Sign", "Floor", "Ceil", "Round")}
    return {name: f for name, f in found.items() if f is not None} | {"Step": STEP, "Whole": WHOLE}


def chain(layers: list[tuple[Floats, Floats]], function: ScalarFunction) -> Graph:
    """Affine layers (weight (out, in), bias (out,)) with the function between them, but not after the last."""
    width = layers[0][0].shape[1]
    nodes = [Node(InputOp(width), (), (width,), "x")]
    for number, (weight, bias) in enumerate(layers):
        op = Dense(torch.from_numpy(weight.T.copy()), torch.from_numpy(bias))
        nodes.append(Node(op, (len(nodes) - 1,), bias.shape, f"layer {number}"))
        if number + 1 < len(layers):
            nodes.append(Node(Elementwise(function, 1), (len(nodes) - 1,), bias.shape, f"{function.name} {number}"))
    return Graph(tuple(nodes))


@dataclass(frozen=True)
class Enumerated:
    """A network of one output on the box [-1, 1]^inputs, and the values it takes there."""

    graph: Graph
    values: tuple[float, ...]


def enumerated(function: ScalarFunction, random: np.random.Generator, inputs: int) -> Enumerated:
    """A random network with whole numbers for weights and halves for biases, one or two hidden layers.

    All later layers are functions of the first flat one, so its pattern decides the output. One point of every face of
    the arrangement of its jumps in the box gives every pattern, also those that only a corner or an edge has.
    """
    hidden = [3, 2] if random.integers(2) else [3]
    widths = [inputs, *hidden, 1]
    layers = [
        (random.integers(-2, 3, (m, n)).astype(float), random.integers(-2, 3, m) / 2)
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    points = _faces(layers[0], inputs)
    # Inexact only by rounding of the points: what is meant are multiples of a half.
    value = _snapped(points @ layers[0][0].T + layers[0][1])
    for weight, bias in layers[1:]:
        value = function.at(torch.from_numpy(value)).numpy() @ weight.T + bias
    return Enumerated(chain(layers, function), tuple(sorted(set(value[:, 0].tolist()))))


def shared(functions: Sequence[ScalarFunction], random: np.random.Generator, inputs: int) -> Enumerated:
    """A sum over several functions of the same three affine terms; `values` are some that it takes, at every face."""
    weight, bias = random.integers(-2, 3, (3, inputs)).astype(float), random.integers(-2, 3, 3) / 2
    points = _snapped(_faces((weight, bias), inputs) @ weight.T + bias)
    nodes = [Node(InputOp(inputs), (), (inputs,), "x")]
    nodes.append(Node(Dense(torch.from_numpy(weight.T.copy()), torch.from_numpy(bias)), (0,), (3,), "terms"))
    value, total = np.zeros(len(points)), -1
    for function in functions:
        row = random.integers(-2, 3, (3, 1)).astype(float)
        nodes.append(Node(Elementwise(function, 1), (1,), (3,), function.name))
        nodes.append(Node(Dense(torch.from_numpy(row), None), (len(nodes) - 1,), (1,), f"part of {function.name}"))
        part = len(nodes) - 1
        if total >= 0:
            nodes.append(Node(Add(), (total, part), (1,), "sum"))
        total = len(nodes) - 1
        value = value + (function.at(torch.from_numpy(points)).numpy() @ row)[:, 0]
    return Enumerated(Graph(tuple(nodes)), tuple(sorted(set(value.tolist()))))


def _snapped(value: Floats) -> Floats:
    near = np.round(2 * value) / 2
    return np.where(np.abs(near - value) < 1e-9, near, value)


def _faces(layer: tuple[Floats, Floats], inputs: int) -> Floats:
    """A point of every face that the lines `layer = half a whole number` and the walls leave of [-1, 1]^inputs."""
    weight, bias = layer
    lines = [(row, level - b) for row, b in zip(weight, bias, strict=True) for level in np.arange(-6, 6.5, 0.5)]
    lines += [(axis, side) for axis in np.eye(inputs) for side in (-1.0, 1.0)]
    lines = [(row, level) for row, level in lines if np.abs(row).sum() >= abs(level) and row.any()]
    corners = []
    for chosen in combinations(lines, inputs):
        matrix = np.stack([row for row, _ in chosen])
        if abs(np.linalg.det(matrix)) > 1e-9:
            corners.append(np.linalg.solve(matrix, np.array([level for _, level in chosen])))
    points = np.unique(np.round(np.stack(corners), 12), axis=0)
    points = points[(np.abs(points) <= 1 + 1e-9).all(1)]
    found = [points]
    for size in range(2, inputs + 2):  # an edge contains the middle of its ends, a cell that of any three corners
        index = np.array(list(combinations(range(len(points)), size)))
        found.append(points[index].mean(1) if len(index) else points[:0])
    return np.clip(np.concatenate(found), -1.0, 1.0)
