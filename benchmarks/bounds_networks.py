"""Small random networks around one operator each, for `bench_bounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, InputOp, Node, Op
from verinet.ops.activations import find
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Shift
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import ScalarFunction
from verinet.ops.shape.reshape import Reshape


class _Growing:
    """A graph that is built node by node from random numbers."""

    def __init__(self, size: int, seed: int) -> None:
        self.nodes = [Node(InputOp(size), (), (size,), "x")]
        self.draw = torch.Generator().manual_seed(seed)

    def add(self, op: Op, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        self.nodes.append(Node(op, inputs, shape, f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def matrix(self, rows: int, columns: int, scale: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=self.draw, dtype=torch.float64) * scale

    def dense(self, source: int, size: int, scale: float = 1.0) -> int:
        before = self.nodes[source].shape
        return self.add(Dense(self.matrix(before[-1], size, scale)), (source,), (*before[:-1], size))

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes))


def softmax(seed: int) -> Graph:
    """4 inputs, a dense layer, softmax over 6, three outputs."""
    made = _Growing(4, seed)
    made.dense(made.add(Softmax(1), (made.dense(0, 6),), (6,)), 3)
    return made.graph()


def attention(seed: int) -> Graph:
    """softmax(q k') v of three tokens of width 4."""
    made = _Growing(12, seed)
    x = made.add(Reshape((3, 4)), (0,), (3, 4))
    query, key, value = (made.dense(x, 4, 0.5) for _ in range(3))
    scores = made.add(MatMulTwo((3, 4), (4, 3)), (query, made.add(Reshape((4, 3)), (key,), (4, 3))), (3, 3))
    shares = made.add(Softmax(2), (scores,), (3, 3))
    mixed = made.add(MatMulTwo((3, 3), (3, 4)), (shares, value), (3, 4))
    made.add(Reshape((12,)), (mixed,), (12,))
    return made.graph()


def product(seed: int) -> Graph:
    """A polynomial of degree 4: products of dense layers, twice, and two outputs."""
    made, current = _Growing(3, seed), 0
    for _ in range(2):
        factors = made.dense(current, 6, 0.5), made.dense(current, 6, 0.5)
        current = made.add(Product((6,), (6,)), factors, (6,))
    made.dense(current, 2)
    return made.graph()


def matrices(seed: int) -> Graph:
    """(X A) (B X') (X C): products of matrices that depend on the input."""
    made = _Growing(12, seed)
    x = made.add(Reshape((3, 4)), (0,), (3, 4))
    first, second, third = (made.dense(x, 4, 0.5) for _ in range(3))
    inner = made.add(MatMulTwo((3, 4), (4, 3)), (first, made.add(Reshape((4, 3)), (second,), (4, 3))), (3, 3))
    outer = made.add(MatMulTwo((3, 3), (3, 4)), (inner, third), (3, 4))
    made.dense(made.add(Reshape((12,)), (outer,), (12,)), 2)
    return made.graph()


def _power(exponent: float) -> ScalarFunction:
    found = find("Pow", {"exponent": exponent})
    if found is None:
        raise InternalError("powers are not registered")
    return found


def layer_norm(seed: int) -> Graph:
    """4 inputs, a dense layer of 6, normalised to mean 0 and variance 1, and three outputs."""
    made = _Growing(4, seed)
    centring = torch.eye(6, dtype=torch.float64) - 1 / 6
    centred = made.add(Dense(centring), (made.dense(0, 6),), (6,))
    squares = made.add(Elementwise(_power(2.0), 1), (centred,), (6,))
    variance = made.add(Dense(torch.full((6, 1), 1 / 6, dtype=torch.float64)), (squares,), (1,))
    spread = made.add(Shift(torch.tensor(1e-2, dtype=torch.float64)), (variance,), (1,))
    made.dense(made.add(Gate(_power(-0.5), (1,), (6,), limit=5.0**0.5), (spread, centred), (6,)), 3)
    return made.graph()


BUILT: Mapping[str, Callable[[int], Graph]] = {
    "product": product,
    "MatMul": matrices,
    "softmax": softmax,
    "attention": attention,
    "LayerNorm": layer_norm,
}
