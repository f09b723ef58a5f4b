"""A cone problem as one matrix inequality in scaled variables, the form that the interior point works on.

    S(y) = base + sum_k y_k F_k >= 0,   F_k = sum over positions of k: e_j e_j^T - sum over rows of k: r_i r_i^T

The start point becomes y = 1, and S has rows and columns scaled so that each variable's diagonal part is y_k itself:
multipliers of deep networks span many decades, and without this the first steps are lost (design note, section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from verinet.solvers.sdp.cone import ConeProblem, Floats, Ints, Point, multiplier_norms


@dataclass(frozen=True)
class Term:
    """`scale / 2 * ||weights * y[part]||_norm` with 1 <= norm < inf; one term of the objective."""

    part: Ints
    weights: Floats
    norm: float

    def value(self, y: Floats) -> float:
        return 0.5 * float(np.linalg.norm(self.weights * y[self.part], self.norm))

    def derivatives(self, y: Floats) -> tuple[Floats, Floats | None]:
        """Gradient and Hessian (None where it is zero) over the part."""
        if self.norm == 1:
            return 0.5 * self.weights, None
        entries = self.weights * y[self.part]
        size = float(np.linalg.norm(entries, self.norm))
        unit = (entries / size) ** (self.norm - 1)
        curved = np.diag((entries / size) ** (self.norm - 2)) - np.outer(unit, unit)
        return 0.5 * self.weights * unit, 0.5 * (self.norm - 1) / size * curved * np.outer(self.weights, self.weights)


@dataclass(frozen=True)
class Program:
    """Scaled data; see the module. Shapes: rows (q, N), row_variable (q,), position_variable (N,), base (N, N).

    `scale` (variables,) turns y back into multipliers; `signed` numbers the variables that need y >= 0 on their own.
    `objective_scale` is the true objective at y = 1, which becomes 1.
    """

    rows: Floats
    row_variable: Ints
    position_variable: Ints
    base: Floats
    terms: tuple[Term, ...]
    scale: Floats
    signed: int
    problem: ConeProblem
    rotation: Floats | None  # (inputs, kept): the input directions kept by compression

    @property
    def variables(self) -> int:
        return len(self.scale)

    def objective(self, y: Floats) -> float:
        return sum(term.value(y) for term in self.terms)

    def derivatives(self, y: Floats) -> tuple[Floats, Floats]:
        """Gradient (variables,) and Hessian (variables, variables) of the objective."""
        gradient, hessian = np.zeros(self.variables), np.zeros((self.variables, self.variables))
        for term in self.terms:
            slope, curved = term.derivatives(y)
            gradient[term.part] += slope
            if curved is not None:
                hessian[np.ix_(term.part, term.part)] += curved
        return gradient, hessian

    def point(self, y: Floats) -> Point:
        """The multipliers that y stands for."""
        true = self.scale * y
        problem, blocks = self.problem, self.problem.blocks
        if problem.euclidean:
            return Point(true[:blocks], np.ones(problem.outputs), np.full(problem.inputs, true[blocks]))
        rest, (s, t) = true[blocks:], multiplier_norms(problem)
        outputs = 1 if math.isinf(s) else problem.outputs
        mu = np.broadcast_to(rest[:outputs], (problem.outputs,)).copy()
        tau = np.broadcast_to(rest[outputs:], (problem.inputs,)).copy() if math.isinf(t) else rest[outputs:]
        return Point(true[:blocks], mu, tau)

    def bound(self, y: Floats) -> float:
        """The Lipschitz bound at y."""
        value = self.objective(y)
        return math.sqrt(value) if self.problem.euclidean else value


def compress(matrix: Floats, columns: int) -> tuple[Floats, Floats | None]:
    """Rotate the last `columns` columns so that all but `rank` of them vanish, and drop those.

    Inputs that no row sees cost nothing in the 2-norm (or any norm with one shared multiplier), so a network with 784
    inputs and 64 first neurons has at most 64 input directions. Returns the matrix and the directions (columns, kept).
    """
    import torch  # noqa: PLC0415 - start-up time

    rows = matrix.shape[0]
    if columns <= rows:
        return matrix, None
    split = matrix.shape[1] - columns
    directions, triangle = torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(matrix[:, split:].T)))
    return np.hstack([matrix[:, :split], triangle.T.numpy()]), directions.numpy()


def build(problem: ConeProblem, start: Point) -> Program:
    """The program of `problem` scaled by a strictly feasible `start`."""
    stacked, rotation = np.vstack([problem.m, problem.my]), None
    shared_input = problem.euclidean or math.isinf(multiplier_norms(problem)[1])
    if shared_input:
        stacked, rotation = compress(stacked, problem.inputs)
    m, my = stacked[: len(problem.m)], stacked[len(problem.m) :]
    inputs = stacked.shape[1] - problem.channels
    if problem.euclidean:
        return _euclidean(problem, start, m, my, rotation)
    return _bordered(problem, start, (m, my, inputs), rotation)


def _euclidean(problem: ConeProblem, start: Point, m: Floats, my: Floats, rotation: Floats | None) -> Program:
    """Program (1): variables (lambda, rho)."""
    blocks, inputs = problem.blocks, m.shape[1] - problem.channels
    scale = np.append(start.multipliers, start.rho)
    position = np.concatenate([problem.w_block, np.full(inputs, blocks, dtype=np.int64)])
    # The objective rho is twice the half-norm that a term stands for.
    terms = (Term(np.array([blocks]), np.array([2 * start.rho]), 1.0),)
    rows, base = _scaled(m, problem.v_block, position, scale), my / np.sqrt(scale[position])
    return Program(rows, problem.v_block, position, -base.T @ base, terms, scale, blocks, problem, rotation)


def _bordered(problem: ConeProblem, start: Point, data: tuple[Floats, Floats, int], rotation: Floats | None) -> Program:
    """Program (2): variables (lambda, mu, tau), mu and tau shared where their norm is the maximum."""
    m, my, inputs = data
    s, t = multiplier_norms(problem)
    blocks, outputs = problem.blocks, problem.outputs
    mus, taus = (1 if math.isinf(s) else outputs), (1 if math.isinf(t) else inputs)
    mu = start.mu[:1] * 0 + start.mu.max() if math.isinf(s) else start.mu
    tau = start.tau[:1] * 0 + start.tau.max() if math.isinf(t) else start.tau
    scale = np.concatenate([start.multipliers, mu, tau])
    mu_part, tau_part = blocks + np.arange(mus), blocks + mus + np.arange(taus)
    position = np.concatenate(
        [np.resize(mu_part, outputs), problem.w_block, np.resize(tau_part, inputs)],
    ).astype(np.int64)
    rows = _scaled(np.hstack([np.zeros((len(m), outputs)), m]), problem.v_block, position, scale)
    size = len(position)
    base = np.zeros((size, size))
    base[:outputs, outputs:] = -my
    root = np.sqrt(scale[position])  # one by one: their products may underflow
    base = (base + base.T) / root[:, None] / root[None, :]
    terms = (
        Term(mu_part, scale[mu_part], 1.0 if math.isinf(s) else s),
        Term(tau_part, scale[tau_part], 1.0 if math.isinf(t) else t),
    )
    return Program(rows, problem.v_block, position, base, terms, scale, blocks, problem, rotation)


def _scaled(rows: Floats, variable: Ints, position: Ints, scale: Floats) -> Floats:
    return np.sqrt(scale[variable])[:, None] * rows / np.sqrt(scale[position])
