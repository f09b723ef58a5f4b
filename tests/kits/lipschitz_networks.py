"""Small networks for Lipschitz tests: chains with known activations, their forms, and true Jacobians at points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Form, Matrix

from verinet.numerics.cholesky import UNIT

Layer = tuple[Activation, Callable[[torch.Tensor], torch.Tensor]]


@dataclass(frozen=True)
class Network:
    """A chain and the same network as a function of a batch (batch, inputs) in float64."""

    chain: Chain
    function: Callable[[torch.Tensor], torch.Tensor]
    inputs: int

    def jacobians(self, points: torch.Tensor) -> Floats:
        """(batch, outputs, inputs)."""
        rows = torch.func.vmap(torch.func.jacrev(lambda x: self.function(x[None])[0]))(points)
        return rows.numpy()


def scalar(count: int, low: float, high: float, label: str = "scalar") -> Activation:
    """Slopes in [low, high] for every neuron."""
    one, numbers = np.eye(count), np.arange(count)
    slopes = (np.full(count, low), np.full(count, high))
    return Activation(one * (low + high) / 2, one * (high - low) / 2, one, numbers, numbers, label, slopes)


def sorting(count: int, size: int) -> Activation:
    """Ascending sort of groups of `size` neighbours; the directions of constant sum are left out."""
    basis = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, : size - 1]]))[0][:, 1:]
    groups = count // size
    right = np.kron(np.eye(groups), basis)
    numbers = np.repeat(np.arange(groups), size - 1)
    mean = np.kron(np.eye(groups), np.full((size, size), 1 / size))
    return Activation(mean, right, right.T, numbers, numbers, f"sort{size}")


def maxmin(count: int) -> Activation:
    """[min, max] of neighbours with the exact channel |a - b|."""
    groups = count // 2
    half = np.kron(np.eye(groups), np.array([[-0.5], [0.5]]))
    difference = np.kron(np.eye(groups), np.array([[1.0, -1.0]]))
    mean = np.kron(np.eye(groups), np.full((2, 2), 0.5))
    numbers = np.arange(groups)
    return Activation(mean, half, difference, numbers, numbers, "maxmin")


def householder(count: int, vectors: Floats) -> Activation:
    """Reflection of groups along unit vectors, (groups, size)."""
    groups, size = vectors.shape
    column = np.zeros((count, groups))
    for g in range(groups):
        column[g * size : (g + 1) * size, g] = vectors[g]
    numbers = np.arange(groups)
    return Activation(np.eye(count) - column @ column.T, column, column.T, numbers, numbers, "householder")


def layer(kind: str, count: int, draw: np.random.Generator) -> Layer:
    """One activation by name."""
    if kind in ("relu", "tanh", "leaky", "abs"):
        low = {"relu": 0.0, "tanh": 0.0, "leaky": 0.125, "abs": -1.0}[kind]
        functions = {
            "relu": torch.relu,
            "tanh": torch.tanh,
            "leaky": lambda x: torch.where(x > 0, x, 0.125 * x),
            "abs": torch.abs,
        }
        return scalar(count, low, 1.0, kind), functions[kind]
    if kind.startswith("sort"):
        size = int(kind[4:])
        return sorting(count, size), lambda x: x.unflatten(1, (-1, size)).sort(-1).values.flatten(1)
    if kind == "maxmin":
        return maxmin(count), lambda x: x.unflatten(1, (-1, 2)).sort(-1).values.flatten(1)
    vectors = draw.standard_normal((count // 2, 2))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    activation = householder(count, vectors)
    column = torch.from_numpy(activation.r)
    return activation, lambda x: x - (x @ column - (x @ column).abs()) @ column.T


def network(widths: Sequence[int], kind: str, seed: int = 0, scale: float = 1.0) -> Network:
    """A random network: input, hidden widths, output."""
    draw = np.random.default_rng(seed)
    weights = [scale * draw.standard_normal((b, a)) / np.sqrt(a) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    return network_of(weights, [layer(kind, n, draw) for n in widths[1:-1]])


def network_of(weights: Sequence[Floats], layers: Sequence[Layer]) -> Network:
    """A network from its weights and activations, with random biases for the function."""
    draw = np.random.default_rng(1)
    tensors = [torch.from_numpy(w) for w in weights]
    biases = [torch.from_numpy(0.3 * draw.standard_normal(len(w))) for w in weights]

    def function(x: torch.Tensor) -> torch.Tensor:
        for i, (weight, bias) in enumerate(zip(tensors, biases, strict=True)):
            x = x @ weight.T + bias
            if i < len(layers):
                x = layers[i][1](x)
        return x

    chain = Chain(tuple(Matrix(w) for w in weights), tuple(activation for activation, _ in layers))
    return Network(chain, function, weights[0].shape[1])


def form_of(chain: Chain) -> Form:
    """The form of a chain, with radii from a crude count of roundings."""
    inputs, total = chain.weights[0].value.shape[1], sum(len(a.w_block) for a in chain.activations)
    state = np.hstack([np.zeros((inputs, total)), np.eye(inputs)])  # columns (w, x)
    size, rows, radii, v_block, w_block, depth = np.abs(state), [], [], [], [], []
    at, block = 0, 0
    for level, (weight, activation) in enumerate(zip(chain.weights[:-1], chain.activations, strict=True)):
        state, size = weight.value @ state, np.abs(weight.value) @ size
        rows.append(activation.q @ state)
        radii.append(np.abs(activation.q) @ size)
        count = len(activation.w_block)
        state, size = activation.p @ state, np.abs(activation.p) @ size
        state[:, at : at + count] += activation.r
        size[:, at : at + count] += np.abs(activation.r)
        v_block.append(activation.v_block + block)
        w_block.append(activation.w_block + block)
        blocks = int(activation.w_block.max()) + 1
        depth += [level] * blocks
        at, block = at + count, block + blocks
    output, output_size = chain.weights[-1].value @ state, np.abs(chain.weights[-1].value) @ size
    charge = 8 * UNIT * sum(w.value.shape[1] + 4 for w in chain.weights)
    v, error = np.vstack(rows), np.vstack(radii) * charge

    def matrix(value: Floats, radius: Floats, columns: slice) -> Matrix:
        return Matrix(np.ascontiguousarray(value[:, columns]), np.ascontiguousarray(radius[:, columns]))

    w_part, x_part = slice(0, total), slice(total, None)
    return Form(
        matrix(v, error, w_part),
        matrix(v, error, x_part),
        matrix(output, output_size * charge, w_part),
        matrix(output, output_size * charge, x_part),
        np.concatenate(v_block),
        np.concatenate(w_block),
        np.asarray(depth),
        tuple(f"layer {level}" for level in depth),
    )


def product_bound(net: Network) -> float:
    """Product of the 2-norms, for activations that do not expand distances."""
    return float(np.prod([np.linalg.norm(w.value, 2) for w in net.chain.weights]))


def sampled(net: Network, count: int = 200, seed: int = 0, order: float = 2) -> float:
    """Largest norm of a Jacobian at random points: a lower bound."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(count, net.inputs, generator=draw, dtype=torch.float64)
    points *= 10 ** torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    return float(max(np.linalg.norm(j, order) for j in net.jacobians(points)))
