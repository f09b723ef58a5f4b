"""Cone data of a Lipschitz bound: arrays only, no graph and no network.

With z = (w, x), v = m z and y = my z, multipliers lambda >= 0 per block and a number rho with

    S(lambda, rho) = blkdiag(Lambda, rho I) - m^T Lambda m - my^T my  >= 0                                     (1)

prove ||y||^2 <= rho ||x||^2 for all w with ||w_g|| <= ||v_g||: multiply S by z from both sides. For other norms
(p >= 2 at the input, q <= 2 at the output) the multipliers mu per output and tau per input with

    [[diag mu, -my], [-my^T, blkdiag(Lambda, diag tau) - m^T Lambda m]] >= 0                                  (2)

prove ||y||_q <= (||mu||_s + ||tau||_t) / 2 * ||x||_p, where s = conj(q*), t = conj(p), conj(a) = a / (a - 2). For
p = infinity and one output that is the l_inf program of Fazlyab et al. 2019 and of GeoLIP (Wang et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verinet.errors import UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ConeProblem:
    """Minimise the bound over the multipliers of (1) or (2).

    Shapes: m (q, w + x), my (outputs, w + x), v_block (q,) and w_block (w,) with numbers 0 .. blocks-1, depth
    (blocks,): rows of a block touch only entries w of blocks of smaller depth, unless `implicit`. `norm_in` p in
    [2, inf], `norm_out` q in [1, 2]. Raises UsageError for shapes or norms that do not fit.
    """

    m: Floats
    my: Floats
    v_block: Ints
    w_block: Ints
    depth: Ints
    norm_in: float = 2.0
    norm_out: float = 2.0
    implicit: bool = False

    def __post_init__(self) -> None:
        _check(self)

    @property
    def blocks(self) -> int:
        return len(self.depth)

    @property
    def channels(self) -> int:
        """Length of w."""
        return len(self.w_block)

    @property
    def inputs(self) -> int:
        return int(self.m.shape[1]) - len(self.w_block)

    @property
    def outputs(self) -> int:
        return int(self.my.shape[0])

    @property
    def euclidean(self) -> bool:
        """Both norms are 2, so that the program (1) applies."""
        return self.norm_in == 2 and self.norm_out == 2


@dataclass(frozen=True)
class Point:
    """Multipliers of (2): lambda (blocks,), mu (outputs,), tau (inputs,). For (1): mu = 1 and tau = rho."""

    multipliers: Floats
    mu: Floats
    tau: Floats

    @property
    def rho(self) -> float:
        """The rho of (1); of use only when both norms are 2."""
        return float(self.tau.max()) if self.tau.size else 0.0


@dataclass(frozen=True)
class Iterate:
    """One feasible point on the way. `gap` is relative, infinite where not known."""

    point: Point
    bound: float
    gap: float
    seconds: float


@dataclass(frozen=True)
class SdpResult:
    """The best point found. Its bound holds up to rounding in the solver, which a certificate has to settle.

    `bound` is the Lipschitz bound L and `rho` = L**2. `gap` bounds the relative distance of the bound's program from
    its optimum (infinite when the method gives none). `history` holds every accepted (bound, gap, seconds). `note`
    tells why the method stopped.
    """

    point: Point
    bound: float
    gap: float
    iterations: int
    seconds: float
    history: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    note: str = ""

    @property
    def multipliers(self) -> Floats:
        return self.point.multipliers

    @property
    def rho(self) -> float:
        return self.bound**2


OnIterate = Callable[[Iterate], None]


def multiplier_norms(problem: ConeProblem) -> tuple[float, float]:
    """(s, t): the norms of mu and tau in the objective of (2)."""
    return multiplier_norms_of(problem.norm_in, problem.norm_out)


def multiplier_norms_of(norm_in: float, norm_out: float) -> tuple[float, float]:
    """(s, t) from p and q: s = conj(q*) = q / (2 - q), t = conj(p)."""
    s = math.inf if norm_out == 2 else norm_out / (2 - norm_out)
    if norm_in == 2:
        return s, math.inf
    return s, 1.0 if math.isinf(norm_in) else norm_in / (norm_in - 2)


def bound_of(problem: ConeProblem, point: Point) -> float:
    """The Lipschitz bound that a feasible point proves."""
    if problem.euclidean:
        return math.sqrt(point.rho)
    s, t = multiplier_norms(problem)
    return 0.5 * float(np.linalg.norm(point.mu, s) + np.linalg.norm(point.tau, t))


def slack_matrix(problem: ConeProblem, point: Point) -> Floats:
    """The matrix of (1) or (2), order (w, x) or (y, w, x), which must be positive semidefinite."""
    weights = point.multipliers[problem.v_block]
    diagonal = np.concatenate([point.multipliers[problem.w_block], point.tau])
    inner = np.diag(diagonal) - problem.m.T @ (weights[:, None] * problem.m)
    if problem.euclidean:
        return inner - problem.my.T @ problem.my
    return np.block([[np.diag(point.mu), -problem.my], [-problem.my.T, inner]])


def _check(problem: ConeProblem) -> None:
    """Shapes and norms, as UsageError."""
    rows, columns = problem.m.shape
    blocks, channels = len(problem.depth), len(problem.w_block)
    if len(problem.v_block) != rows or channels > columns or problem.my.shape[1] != columns:
        raise UsageError(f"cone data do not fit: m {problem.m.shape}, my {problem.my.shape}, {channels} channels")
    for name, numbers in (("v_block", problem.v_block), ("w_block", problem.w_block)):
        if not np.array_equal(np.unique(numbers), np.arange(blocks)):
            raise UsageError(f"cone data: {name} must name each of the {blocks} blocks at least once")
    check_norms(problem.norm_in, problem.norm_out)
    if not (np.isfinite(problem.m).all() and np.isfinite(problem.my).all()):
        raise UsageError("cone data contain NaN or infinity")


def check_norms(norm_in: float, norm_out: float) -> None:
    """UsageError for norms without a program (2)."""
    if not (2 <= norm_in <= math.inf and 1 <= norm_out <= 2):
        raise UsageError(
            f"no semidefinite bound from the {norm_in:g}-norm to the {norm_out:g}-norm",
            hint="input norms from 2 to inf and output norms from 1 to 2; norm 1 in or inf out go by columns or rows",
        )


def expired(deadline: float | None, now: float) -> bool:
    """Whether the clock of time.perf_counter has passed `deadline`."""
    return deadline is not None and now >= deadline


Array = Any  # a NumPy array or a torch tensor: the interior point runs on either
