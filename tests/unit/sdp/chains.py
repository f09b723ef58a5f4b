"""Random chains of every kind of block, and Jacobians of the class that a bound has to cover."""

from __future__ import annotations

import numpy as np
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Matrix
from verinet.solvers.sdp.cone import ConeProblem

KINDS = ("relu", "leaky", "tanh", "abs", "local", "maxmin", "groupsort3")


def chain(kind: str, sizes: tuple[int, ...], seed: int = 0) -> Chain:
    """Gaussian weights / sqrt(fan-in); hidden sizes must be multiples of the group size."""
    draw = np.random.default_rng(seed)
    weights = tuple(
        Matrix(draw.standard_normal((rows, columns)) / np.sqrt(columns))
        for columns, rows in zip(sizes, sizes[1:], strict=False)
    )
    return Chain(weights, tuple(activation(kind, size, draw) for size in sizes[1:-1]))


def activation(kind: str, size: int, draw: np.random.Generator) -> Activation:
    if kind == "maxmin":
        return grouped(size, 2)
    if kind == "groupsort3":
        return grouped(size, 3)
    low, high = {"relu": (0, 1), "leaky": (0.1, 1), "tanh": (0, 1), "abs": (-1, 1), "local": (0, 1)}[kind]
    lows, highs = np.full(size, float(low)), np.full(size, float(high))
    if kind == "local":
        lows, highs = draw.uniform(0, 0.5, size), draw.uniform(0.6, 1, size)
        highs[::3] = lows[::3]
    active = np.flatnonzero(highs > lows)
    numbers, eye = np.arange(len(active)), np.eye(size)
    return Activation(np.diag((lows + highs) / 2), (eye * (highs - lows) / 2)[:, active], eye[active], numbers, numbers)


def grouped(size: int, width: int) -> Activation:
    """GroupSort of groups of `width`: the sum passes, the rest is one block of width - 1."""
    groups = size // width
    mean = np.full((width, width), 1 / width)
    basis = np.linalg.svd(np.eye(width) - mean)[0][:, : width - 1]
    block = np.repeat(np.arange(groups), width - 1)
    r = np.kron(np.eye(groups), basis)
    return Activation(np.kron(np.eye(groups), mean), r, r.T, block, block)


def jacobians(problem: ConeProblem, count: int, seed: int = 0) -> list[Floats]:
    """dy/dx for w_g = U_g v_g with random contractions U_g (at vertices: signs, for scalar blocks)."""
    draw = np.random.default_rng(seed)
    cut, found = problem.channels, []
    c, d = problem.m[:, :cut], problem.m[:, cut:]
    for _ in range(count):
        gain = np.zeros((cut, len(c)))
        for block in range(problem.blocks):
            rows, columns = np.flatnonzero(problem.w_block == block), np.flatnonzero(problem.v_block == block)
            u, _, v = np.linalg.svd(draw.standard_normal((len(rows), len(columns))), full_matrices=False)
            gain[np.ix_(rows, columns)] = u @ v
        worst = np.linalg.solve(np.eye(cut) - gain @ c, gain @ d)
        found.append(problem.my[:, :cut] @ worst + problem.my[:, cut:])
    return found


def ratio(problem: ConeProblem, jacobian: Floats, seed: int = 0) -> float:
    """A lower bound of ||J||_{p -> q}: exact for p = q = 2, the best of random directions else."""
    if problem.euclidean:
        return float(np.linalg.norm(jacobian, 2))
    directions = np.random.default_rng(seed).choice([-1.0, 1.0], (64, problem.inputs))
    sizes = np.linalg.norm(directions @ jacobian.T, problem.norm_out, axis=1)
    return float((sizes / np.linalg.norm(directions, problem.norm_in, axis=1)).max())


def product(net: Chain) -> float:
    return float(np.prod([np.linalg.norm(weight.value, 2) for weight in net.weights]))
