"""Random small networks with a Lipschitz constant: dense layers, convolutions, residuals and all kinds of activations.

Each network knows the constants of its layers as far as it is a chain, so that a product of norms can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch

from tests.unit.frontends.onnx_models import Spec, node
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx

Random = np.random.Generator
Floats = np.ndarray[Any, np.dtype[np.float64]]

SLOPES = {
    **dict.fromkeys(("Relu", "Tanh", "Softplus", "Elu", "LeakyRelu", "Abs", "HardSwish", "Softsign", "Clip"), 1.0),
    "Sigmoid": 0.25,
    "HardSigmoid": 0.2,
    "HardSwish": 1.5,
    "Selu": 1.0507009873554805 * 1.6732632423543772,
    "PRelu": 1.25,
}
"""Largest slope of each elementwise activation as it is drawn here."""
BENDING = ("Exp", "square", "gate", "Sin", "product")
"""Activations that have a bound over a region only, or a slope beyond those above."""


@dataclass
class Drawn:
    """A network under construction; `value` has shape `shape` (without the batch axis of 1)."""

    random: Random
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Floats] = field(default_factory=dict)
    value: str = "x"
    shape: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    norms: dict[float, float] | None = field(default_factory=lambda: {2.0: 1.0, math.inf: 1.0})
    words: list[str] = field(default_factory=list)
    local: bool = False
    """True if only a region can give a bound."""

    def name(self) -> str:
        return f"t{len(self.nodes)}"

    def constant(self, array: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype=kind)
        return name

    def add(self, op: str, inputs: str, count: int = 1, **attributes: Any) -> str:
        """A node; the name of its first output."""
        first = self.name()
        outputs = " ".join([first, *(f"{first}_{i}" for i in range(1, count))])
        self.nodes.append(node(op, inputs, outputs, **attributes))
        return first

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def scaled(self, two: float, infinity: float) -> None:
        """Multiply the norms of a chain by those of a further layer."""
        if self.norms is not None:
            self.norms[2.0] *= two
            self.norms[math.inf] *= infinity

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def _matrix(drawn: Drawn, rows: int, columns: int) -> Floats:
    """Sizes of all orders; rows may vanish or come twice."""
    random = drawn.random
    matrix = random.normal(size=(rows, columns)) * math.sqrt(2 / columns) * 10 ** random.uniform(-0.5, 0.5)
    if random.random() < 0.1:
        matrix[int(random.integers(rows))] = 0.0
    if random.random() < 0.15:
        matrix[int(random.integers(rows))] = matrix[int(random.integers(rows))] * drawn.pick(-1.0, 1.0, 2.0)
    return matrix.astype(np.float32).astype(np.float64)


def dense(drawn: Drawn) -> None:
    """A flat layer of 2 to 6 units."""
    if len(drawn.shape) > 1:
        drawn.value, drawn.shape = drawn.add("Flatten", drawn.value), (drawn.size,)
    units = 2 * int(drawn.random.integers(1, 4))
    matrix = _matrix(drawn, units, drawn.size)
    offset = drawn.constant(drawn.random.normal(size=units) * drawn.pick(0.0, 0.3, 3.0))
    drawn.value = drawn.add("Gemm", f"{drawn.value} {drawn.constant(matrix.T)} {offset}")
    drawn.shape = (units,)
    drawn.scaled(float(np.linalg.norm(matrix, 2)), float(np.abs(matrix).sum(1).max()))


def conv(drawn: Drawn) -> None:
    """A convolution, or a mean pool, on images."""
    if len(drawn.shape) != 3:
        dense(drawn)
        return
    channels, height, width = drawn.shape
    drawn.norms = None
    if drawn.random.random() < 0.2:
        drawn.value = drawn.add("AveragePool", drawn.value, kernel_shape=[2, 2])
        drawn.shape = (channels, height - 1, width - 1)
    else:
        out, stride = int(drawn.random.integers(1, 3)), drawn.pick(1, 1, 2)
        kernel = drawn.constant(drawn.random.normal(size=(out, channels, 3, 3)) * 0.5)
        drawn.value = drawn.add("Conv", f"{drawn.value} {kernel}", pads=[1, 1, 1, 1], strides=[stride, stride])
        drawn.shape = (out, -(-height // stride), -(-width // stride))
    if drawn.shape[1] < 2 or drawn.shape[2] < 2:
        dense(drawn)


def elementwise(drawn: Drawn) -> None:
    """One of the activations with a known slope."""
    op = drawn.pick(*SLOPES)
    slope = SLOPES[op]
    attributes: dict[str, Any] = {}
    inputs = drawn.value
    if op == "LeakyRelu":
        attributes["alpha"] = drawn.pick(0.01, 0.5, -0.5, 0.99)
    elif op == "Clip":
        low, high = sorted(drawn.random.normal(size=2))
        inputs += f" {drawn.constant(low)} {drawn.constant(high)}"
    elif op == "PRelu":
        inputs += (
            f" {drawn.constant(drawn.random.uniform(-1.25, 1.25, (drawn.shape[0],) + (1,) * (len(drawn.shape) - 1)))}"
        )
    drawn.value = drawn.add(op, inputs, **attributes)
    drawn.scaled(slope, slope)


def _grouped(drawn: Drawn, size: int) -> str:
    """The value, flat, as groups (1, groups, size)."""
    if len(drawn.shape) > 1 or drawn.size % size:
        dense(drawn)
    drawn.shape = (drawn.size,)
    return drawn.add("Reshape", f"{drawn.value} {drawn.constant([1, -1, size], np.int64)}")


def _flat(drawn: Drawn, value: str, size: int) -> None:
    drawn.value = drawn.add("Reshape", f"{value} {drawn.constant([1, size], np.int64)}")
    drawn.shape = (size,)


def maxmin(drawn: Drawn) -> None:
    grouped = _grouped(drawn, 2)
    ends = [drawn.add(op, grouped, axes=[2], keepdims=1) for op in ("ReduceMax", "ReduceMin")]
    _flat(drawn, drawn.add("Concat", " ".join(ends), axis=2), drawn.size)


def groupsort(drawn: Drawn) -> None:
    size = drawn.size if len(drawn.shape) == 1 and drawn.random.random() < 0.3 else 2
    grouped = _grouped(drawn, size)
    _flat(drawn, drawn.add("TopK", f"{grouped} {drawn.constant([size], np.int64)}", count=2, axis=2), drawn.size)


def maxpool(drawn: Drawn) -> None:
    """The larger of neighbours; of disjoint ones it moves nothing apart."""
    grouped = _grouped(drawn, 2)
    _flat(drawn, drawn.add("ReduceMax", grouped, axes=[2], keepdims=0), drawn.size // 2)


def crelu(drawn: Drawn) -> None:
    if len(drawn.shape) > 1:
        dense(drawn)
    both = [drawn.add("Relu", drawn.value), drawn.add("Relu", drawn.add("Neg", drawn.value))]
    drawn.value, drawn.shape = drawn.add("Concat", " ".join(both), axis=1), (2 * drawn.size,)


def residual(drawn: Drawn) -> None:
    """x + s g(x), or x concatenated to g(x)."""
    drawn.norms = None
    start, shape = drawn.value, drawn.shape
    elementwise(drawn)
    if drawn.random.random() < 0.25 and len(shape) == 1:
        drawn.value, drawn.shape = drawn.add("Concat", f"{start} {drawn.value}", axis=1), (2 * shape[0],)
        return
    scale = drawn.constant(drawn.pick(1.0, -1.0, 0.5, 0.1))
    drawn.value = drawn.add("Add", f"{start} {drawn.add('Mul', f'{drawn.value} {scale}')}")


def softmax(drawn: Drawn) -> None:
    if len(drawn.shape) > 1 or drawn.size < 2:
        dense(drawn)
    drawn.norms = None
    drawn.value = drawn.add(drawn.pick("Softmax", "LogSoftmax"), drawn.value, axis=1)


def swish(drawn: Drawn) -> None:
    """x * sigmoid(x), written out."""
    drawn.norms = None
    drawn.value = drawn.add("Mul", f"{drawn.value} {drawn.add('Sigmoid', drawn.value)}")


def bending(drawn: Drawn) -> None:
    """A function with unbounded slope, or a product of two."""
    kind = drawn.pick(*BENDING)
    drawn.norms, drawn.local = None, True
    if kind in ("Exp", "Sin"):
        drawn.value = drawn.add(kind, drawn.value)
    elif kind == "square":
        drawn.value = drawn.add("Mul", f"{drawn.value} {drawn.value}")
    else:
        other = drawn.add("Sigmoid" if kind == "gate" else "Tanh", drawn.add("Neg", drawn.value))
        drawn.value = drawn.add("Mul", f"{drawn.add('Relu', drawn.value)} {other}")


LAYERS: tuple[Callable[[Drawn], None], ...] = (
    *(elementwise,) * 6,
    *(dense,) * 2,
    *(conv, maxmin, groupsort, maxpool, crelu, residual, residual, softmax, swish),
)


@dataclass(frozen=True)
class Subject:
    """A random network: its model, the constants of a chain (None for others), and what it is made of."""

    model: Model
    norms: dict[float, float] | None
    words: tuple[str, ...]
    local: bool

    @property
    def graph(self) -> Any:
        return self.model.graph.to(torch.float64)


def subject(random: Random) -> Subject:
    """The next network."""
    drawn = Drawn(random)
    images = random.random() < 0.25
    drawn.shape = drawn.inputs = drawn.pick((1, 3, 3), (2, 2, 2), (1, 2, 3)) if images else (drawn.pick(1, 2, 3, 4),)
    layers = [conv if images else dense]
    if random.random() < 0.3:  # what the methods for chains take
        layers += [drawn.pick(elementwise, elementwise, maxmin, groupsort), dense] * int(random.integers(1, 4))
    else:
        for _ in range(int(random.integers(1, 4))):
            layers += [drawn.pick(*LAYERS), drawn.pick(dense, conv)]
        if random.random() < 0.2:
            layers.insert(1, bending)
    for layer in layers:
        layer(drawn)
        drawn.words.append(layer.__name__)
    if drawn.random.random() < 0.5:
        dense(drawn)
    drawn.nodes.append(node("Flatten", drawn.value, "y"))
    spec = Spec("drawn", drawn.nodes, {"x": (1, *drawn.inputs)}, drawn.constants, 14)
    return Subject(load_onnx(spec.model()), drawn.norms, tuple(drawn.words), drawn.local)
