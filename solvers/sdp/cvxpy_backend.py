"""Semidefinite programs through CVXPY: the reference for our own solver, and the way to Clarabel, SCS and MOSEK.

minimise  cost . x + sum of norms of parts of x   subject to   F_i0 + sum_k x_k F_ik >= 0,   x >= 0 where signed.

Each matrix inequality is written once as a sparse map from x to vec(F), which is what CVXPY canonicalises fastest; no
variable per neuron, no diag() inside bmat(). An interior-point method on a cone of order N stores a block of N^4 bytes
and more, so orders beyond about 100 are out of reach for Clarabel; SCS goes further at low accuracy. Whatever the
solver returns is a proposal: a certificate has to turn it into a bound.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from verinet.solvers.sdp.cone import ConeProblem, Floats, Ints, Point, SdpResult, bound_of, multiplier_norms
from verinet.solvers.sdp.start import feasible_start

from verinet.errors import CertificationError, UsageError

SOLVERS = ("clarabel", "scs", "mosek")
_INSTALL = {
    "clarabel": "pip install 'verinet[sdp]'",
    "scs": "pip install 'verinet[sdp]'",
    "mosek": "pip install 'verinet[mosek]', and put its licence where MOSEK looks for it; or use clarabel or scs",
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clarabel": {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9},
    "scs": {"eps_abs": 1e-7, "eps_rel": 1e-7, "max_iters": 200_000},
    "mosek": {},
}


class MatrixInequality:
    """F_0 + sum_k x_k F_k >= 0 of order `size`, collected term by term."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.constant = np.zeros((size, size))
        self._terms: list[tuple[Ints, Ints, Floats]] = []

    def add(self, variable: int, matrix: Floats, rows: Ints | None = None) -> None:
        """Add x_variable times a symmetric matrix, placed at the given rows and columns (all by default)."""
        i, j = np.nonzero(matrix)
        values = matrix[i, j]
        if rows is not None:
            i, j = rows[i], rows[j]
        self._terms.append((i + j * self.size, np.full(len(i), variable, dtype=np.int64), values))

    def scaled(self, diagonal: Floats) -> MatrixInequality:
        """The same inequality with rows and columns multiplied by positive numbers: better conditioned, equivalent."""
        other = MatrixInequality(self.size)
        other.constant = self.constant * diagonal[:, None] * diagonal
        both = np.outer(diagonal, diagonal).reshape(-1, order="F")
        other._terms = [(place, variable, value * both[place]) for place, variable, value in self._terms]
        return other

    def map(self, variables: int) -> Any:
        """The sparse matrix (size^2, variables) from x to vec(F - F_0), column by column."""
        from scipy import sparse  # noqa: PLC0415 - optional, and costs start-up time

        if not self._terms:
            return sparse.csc_matrix((self.size**2, variables))
        places, numbers, values = (np.concatenate(part) for part in zip(*self._terms, strict=True))
        return sparse.csc_matrix((values, (places, numbers)), shape=(self.size**2, variables))


@dataclass(frozen=True)
class Program:
    """Minimise cost . x + sum weight ||x[part]||_exponent under matrix inequalities; `signed` marks x >= 0."""

    cost: Floats
    signed: Ints
    inequalities: Sequence[MatrixInequality]
    norms: Sequence[tuple[float, Ints, float]] = field(default=())


@dataclass(frozen=True)
class Solution:
    """What the solver returned, unverified. `status` is CVXPY's word for it."""

    x: Floats
    value: float
    status: str
    seconds: float


def solve(program: Program, solver: str = "clarabel", *, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve through CVXPY. `solver` is clarabel, scs or mosek; `options` go to the solver as they are.

    Raises UsageError when the solver or CVXPY is not installed, CertificationError when no values come back.
    """
    cvxpy = _library(solver)
    begin = time.perf_counter()
    x = cvxpy.Variable(len(program.cost))
    constraints = [x[program.signed] >= 0] if len(program.signed) else []
    for inequality in program.inequalities:
        flat = inequality.map(len(program.cost)) @ x + inequality.constant.reshape(-1, order="F")
        constraints.append(cvxpy.reshape(flat, (inequality.size, inequality.size), order="F") >> 0)
    goal = program.cost @ x
    for weight, part, exponent in program.norms:
        goal = goal + weight * cvxpy.norm(x[part], "inf" if math.isinf(exponent) else exponent)
    problem = cvxpy.Problem(cvxpy.Minimize(goal), constraints)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about accuracy: `status` says it, and nothing here is taken as proved
            problem.solve(solver=solver.upper(), **{**_OPTIONS[solver], **(options or {})})
    except cvxpy.SolverError as error:
        raise CertificationError(f"{solver} failed: {error}", hint="try another solver, or solver='verinet'") from error
    if x.value is None or not np.isfinite(x.value).all():
        raise CertificationError(
            f"{solver} returned no multipliers: status '{problem.status}'",
            hint="try another solver, or solver='verinet'",
        )
    return Solution(np.asarray(x.value), float(problem.value), problem.status, time.perf_counter() - begin)


def _library(solver: str) -> Any:
    """The module cvxpy, once it is known to have the solver."""
    if solver not in SOLVERS:
        raise UsageError(f"no solver called '{solver}'", hint=f"one of {', '.join(SOLVERS)}")
    try:
        library: Any = importlib.import_module("cvxpy")  # here: optional, and costs start-up time
    except ImportError as error:
        raise UsageError("CVXPY is not installed", hint="pip install 'verinet[sdp]'") from error
    if solver.upper() not in library.installed_solvers():
        raise UsageError(f"the solver {solver.upper()} is not installed", hint=_INSTALL[solver])
    return library


def solve_cone(
    problem: ConeProblem, solver: str = "clarabel", *, options: Mapping[str, Any] | None = None
) -> SdpResult:
    """The program (1) or (2) of `cone` through CVXPY, scaled by a closed-form feasible start.

    The bound is the solver's, not a proof. Raises as `solve` does.
    """
    begin = time.perf_counter()
    start = feasible_start(problem)
    x, value, status = (_euclidean if problem.euclidean else _general)(problem, start, solver, options)
    bound = bound_of(problem, x)
    return SdpResult(x, bound, math.inf, 0, time.perf_counter() - begin, ((bound, math.inf, value),), status)


def _block_terms(inequality: MatrixInequality, problem: ConeProblem, weights: Floats, offset: int) -> None:
    """Add lambda_g (sum e_j e_j^T - sum m_i m_i^T) for every block; column 0 of z stands at `offset`."""
    columns = np.arange(problem.m.shape[1]) + offset
    for g in range(problem.blocks):
        rows = problem.m[problem.v_block == g]
        own = np.zeros(problem.m.shape[1])
        own[: problem.channels][problem.w_block == g] = 1.0
        inequality.add(g, weights[g] * (np.diag(own) - rows.T @ rows), columns)


def _euclidean(
    problem: ConeProblem, start: Point, solver: str, options: Mapping[str, Any] | None
) -> tuple[Point, float, str]:
    """Variables: lambda per block and rho, both relative to the start."""
    size, blocks = problem.m.shape[1], problem.blocks
    inequality = MatrixInequality(size)
    _block_terms(inequality, problem, start.multipliers, 0)
    inputs = np.arange(problem.channels, size)
    inequality.add(blocks, start.rho * np.eye(problem.inputs), inputs)
    inequality.constant = -problem.my.T @ problem.my
    diagonal = np.concatenate([start.multipliers[problem.w_block], np.full(problem.inputs, start.rho)]) ** -0.5
    cost = np.zeros(blocks + 1)
    cost[-1] = 1.0
    found = solve(Program(cost, np.arange(blocks), [inequality.scaled(diagonal)]), solver, options=options)
    rho = float(found.x[-1]) * start.rho
    point = Point(found.x[:blocks] * start.multipliers, np.ones(problem.outputs), np.full(problem.inputs, rho))
    return point, found.seconds, found.status


def _general(
    problem: ConeProblem, start: Point, solver: str, options: Mapping[str, Any] | None
) -> tuple[Point, float, str]:
    """Variables: lambda per block, mu per output, tau per input, all relative to the start."""
    outputs, blocks, size = problem.outputs, problem.blocks, problem.outputs + problem.m.shape[1]
    scale = bound_of(problem, start)
    mu, tau = float(start.mu.mean()), float(start.tau.mean())
    inequality = MatrixInequality(size)
    _block_terms(inequality, problem, start.multipliers, outputs)
    for i in range(outputs):
        inequality.add(blocks + i, np.full((1, 1), mu), np.array([i]))
    for j in range(problem.inputs):
        place = np.array([outputs + problem.channels + j])
        inequality.add(blocks + outputs + j, np.full((1, 1), tau), place)
    inequality.constant[:outputs, outputs:] = -problem.my
    inequality.constant[outputs:, :outputs] = -problem.my.T
    widths = [np.full(outputs, mu), start.multipliers[problem.w_block], np.full(problem.inputs, tau)]
    s, t = multiplier_norms(problem)
    total = blocks + outputs + problem.inputs
    parts = np.arange(blocks, blocks + outputs), np.arange(blocks + outputs, total)
    norms = [(0.5 * mu / scale, parts[0], s), (0.5 * tau / scale, parts[1], t)]
    program = Program(np.zeros(total), np.arange(total), [inequality.scaled(np.concatenate(widths) ** -0.5)], norms)
    found = solve(program, solver, options=options)
    point = Point(found.x[:blocks] * start.multipliers, found.x[parts[0]] * mu, found.x[parts[1]] * tau)
    return point, found.seconds, found.status
