"""Random small graphs of every structure the bound engine knows: chains, residual joins, products and maxima."""

from __future__ import annotations

import torch

from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape

STRUCTURES = ("chain", "residual", "product", "maximum")


def random_graph(
    seed: int, activation: str = "Relu", structure: str = "chain", depth: int = 3, width: int = 6
) -> Graph:
    """3 inputs, `depth` hidden layers of `width` (even), 2 outputs; float64 weights drawn from `seed`."""
    draw = torch.Generator().manual_seed(seed)
    nodes: list[Node] = [Node(InputOp(3), (), (3,), "input")]

    def add(op: object, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        nodes.append(Node(op, inputs, shape, f"n{len(nodes)}"))  # type: ignore[arg-type]
        return len(nodes) - 1

    def dense(source: int, size: int) -> int:
        entries = nodes[source].shape[-1]
        weight = torch.randn(entries, size, generator=draw, dtype=torch.float64) * (1.6 / entries**0.5)
        offset = torch.randn(size, generator=draw, dtype=torch.float64) * 0.3
        return add(Dense(weight, offset), (source,), (size,))

    function = find(activation, {})
    if function is None:
        raise ValueError(activation)
    current = dense(0, width)
    for _ in range(depth):
        active = add(Elementwise(function, 1), (current,), (width,))
        following = dense(active, width)
        if structure == "residual":
            following = add(Add(), (following, current), (width,))
        elif structure == "product":
            gate = dense(active, width)
            following = add(Product((width,), (width,)), (following, gate), (width,))
            following = dense(following, width)
        elif structure == "maximum":
            pairs = add(Reshape((width // 2, 2)), (following,), (width // 2, 2))
            following = dense(add(MaxLast(1), (pairs,), (width // 2,)), width)
        current = following
    last = add(Elementwise(function, 1), (current,), (width,))
    dense(last, 2)
    return Graph(tuple(nodes))


def random_boxes(seed: int, count: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` boxes in 3 dimensions; some axes are points."""
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    half = torch.rand(count, 3, generator=draw, dtype=torch.float64) * radius
    half[torch.rand(count, 3, generator=draw) < 0.15] = 0.0
    return centre - half, centre + half


def samples(lower: torch.Tensor, upper: torch.Tensor, seed: int, count: int = 400) -> torch.Tensor:
    """(count, domains, inputs): random points and corners of every box."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.rand(count, *lower.shape, generator=draw, dtype=torch.float64)
    spread[: count // 3] = (spread[: count // 3] < 0.5).double()
    return torch.minimum(torch.maximum(lower + spread * (upper - lower), lower), upper)
