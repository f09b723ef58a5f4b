"""First-order bounds in which every iterate is feasible: for widths and depths past the interior point.

With G the output ellipsoid of `oracle`, multipliers D = exp(theta), tau and mu prove

    L^2 <= lambda_max(mu^-1/2 G mu^-1/2) ||mu||_s ||tau||_t

for every theta where the oracle answers (the corner of program (2) scaled by its own optimum). The largest eigenvalue
is smoothed to a log-sum-exp of `sharpness` times the log eigenvalues, in stages of growing sharpness, and each stage is
minimised by BFGS. In the logarithm of the multipliers the problem needs no constraints and no scaling. Where it is
cheap enough a barrier against the edge of the domain, fading with the stages, is added: without it deep networks and
the l_inf norm get stuck there (11529 instead of 11096 on the 18-layer network of the ICLR 2024 paper).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from verinet.solvers.sdp.cone import ConeProblem, Floats, Iterate, OnIterate, Point, SdpResult, expired
from verinet.solvers.sdp.descent import Evaluation, Memory, step
from verinet.solvers.sdp.layered import LayeredProblem, index, tensor
from verinet.solvers.sdp.oracle import Oracle, oracle_of

from verinet.errors import InternalError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

SHARPNESS = (10.0, 40.0, 160.0, 640.0, 2560.0, 10240.0)
ITERATIONS = 2000
NEGLIGIBLE = 1e-10  # share of an eigenvalue in the smoothed maximum
WINDOW = 8  # iterations over which progress is judged
BARRIER = 8.0  # weight of the barrier per block at sharpness 1; anything from 2 to 20 does
PATIENCE = 0.02  # of the smoothing error: less progress than this over a window ends a stage


@dataclass(frozen=True)
class Effort:
    """Limits of one run: the progress of the last stage's window below which it ends, clock."""

    tolerance: float
    deadline: float | None


class Parameters:
    """theta -> (d per block, tau per input or None, mu per output or None); logarithms throughout."""

    def __init__(self, oracle: Oracle) -> None:
        shared, device = oracle.shared, oracle.device
        self.shared = None if shared is None else index(shared, device)
        self.free = oracle.blocks if shared is None else int(shared.max()) + 1
        self.taus = 0 if math.isinf(oracle.norms[1]) else oracle.inputs
        self.mus = 0 if math.isinf(oracle.norms[0]) else oracle.outputs

    def first(self, d: Tensor) -> Tensor:
        """theta for tau = mu = 1: where multipliers are shared the largest d, which stays feasible."""
        import torch  # noqa: PLC0415 - start-up time

        logs = torch.log(d)
        if self.shared is not None:
            least = torch.full((self.free,), -math.inf, dtype=torch.float64, device=d.device)
            logs = least.scatter_reduce(0, self.shared, logs, "amax")
        return torch.cat([logs, torch.zeros(self.taus + self.mus, dtype=torch.float64, device=d.device)])

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        logs, values = theta[: self.free], theta[self.free :].exp()
        d = (logs if self.shared is None else logs[self.shared]).exp()
        return d, values[: self.taus] if self.taus else None, values[self.taus :] if self.mus else None

    def gather(self, by_block: Tensor) -> Tensor:
        """Derivatives by log d per block to those by theta."""
        import torch  # noqa: PLC0415 - start-up time

        if self.shared is None:
            return by_block
        zero = torch.zeros(self.free, dtype=torch.float64, device=by_block.device)
        return zero.index_add(0, self.shared, by_block)


class Descent:
    """The objective with its gradient, and the best point seen."""

    def __init__(self, oracle: Oracle, on_iterate: OnIterate | None, begin: float, start: Floats | None = None) -> None:
        self.oracle, self.parameters, self.on_iterate, self.begin = oracle, Parameters(oracle), on_iterate, begin
        d = oracle.first() if start is None else tensor(start, oracle.device)
        self.theta = self.parameters.first(d)
        self.sharpness, self.barrier, self.evaluations = SHARPNESS[0], 0.0, 0
        self.history: list[tuple[float, float, float]] = []
        self.best, self.best_theta = math.inf, self.theta

    def evaluate(self, theta: Tensor) -> Evaluation | None:
        """log of the bound, smoothed and with the barrier; None outside the domain."""
        import torch  # noqa: PLC0415 - start-up time

        self.evaluations += 1
        d, tau, mu = self.parameters.split(theta)
        found = self.oracle.ellipsoid(d, tau)
        if found is None:
            return None
        scaled = found.ellipsoid if mu is None else found.ellipsoid / torch.sqrt(torch.outer(mu, mu))
        values, vectors = torch.linalg.eigh(scaled)
        logs = torch.log(values.clamp_min(max(float(values[-1]) * 1e-30, 1e-300)))
        shares = torch.softmax(self.sharpness * logs, 0)
        heavy = shares > NEGLIGIBLE
        shares, vectors = shares[heavy], vectors[:, heavy]
        cotangent = vectors * torch.sqrt(shares / values[heavy])
        by_d, by_width = found.pull(cotangent if mu is None else cotangent / torch.sqrt(mu)[:, None], self.barrier)
        sizes, pieces = 0.0, [self.parameters.gather(by_d * d)]
        for part, norm, pulled in ((tau, self.oracle.norms[1], by_width), (mu, self.oracle.norms[0], None)):
            if part is not None:
                sizes += float(torch.log(torch.linalg.vector_norm(part, norm)))
                inner = (vectors**2) @ shares if pulled is None else pulled / part
                pieces.append(_log_norm_slope(part, norm) - inner)
        smoothed = float(torch.logsumexp(self.sharpness * logs, 0)) / self.sharpness + self.barrier * found.barrier
        gradient = 0.5 * torch.cat(pieces)
        if not math.isfinite(smoothed + sizes) or not bool(torch.isfinite(gradient).all()):
            return None
        return Evaluation(theta, 0.5 * (smoothed + sizes), gradient, 0.5 * (float(logs[-1]) + sizes))

    def measure(self, theta: Tensor) -> tuple[Point, float]:
        """The point of program (1) or (2) at theta and its bound, not smoothed."""
        import torch  # noqa: PLC0415 - start-up time

        d, tau, mu = self.parameters.split(theta)
        found = self.oracle.ellipsoid(d, tau)
        if found is None:
            raise InternalError("a feasible point of the first-order method became infeasible")
        outputs = torch.ones(self.oracle.outputs, dtype=torch.float64, device=self.oracle.device)
        outputs = outputs if mu is None else mu
        inputs = torch.ones(self.oracle.inputs, dtype=torch.float64, device=self.oracle.device)
        inputs = inputs if tau is None else tau
        scaled = found.ellipsoid / torch.sqrt(torch.outer(outputs, outputs))
        top = max(float(torch.linalg.eigvalsh(scaled)[-1]), 1e-300)
        s, t = self.oracle.norms
        sizes = float(torch.linalg.vector_norm(outputs, s)), float(torch.linalg.vector_norm(inputs, t))
        # Program (2) holds for (a top mu, tau / a, 1 / (a d)) with any a > 0; (1) wants mu = 1, (2) equal norms.
        trade = 1 / top if self.oracle.euclidean else math.sqrt(sizes[1] / (top * sizes[0]))
        numbers = [(1 / (trade * d)), trade * top * outputs, inputs / trade]
        point = Point(*(number.cpu().numpy() for number in numbers))
        return point, math.sqrt(top * sizes[0] * sizes[1])

    def best_point(self) -> tuple[Point, float]:
        return self.measure(self.best_theta)

    def run(self, effort: Effort) -> str:
        """Stages of growing sharpness; returns why it ended."""
        if self.parameters.free + self.parameters.taus + self.parameters.mus == 0:
            return "nothing to choose"
        outputs = max(self.oracle.outputs, 2)
        for self.sharpness in SHARPNESS:
            blocks = max(self.oracle.blocks, 1)  # a linear network has none, but norms have multipliers of their own
            self.barrier = BARRIER / (self.sharpness * blocks) if self.oracle.barrier_pays else 0.0
            error = 0.5 * math.log(outputs) / self.sharpness
            reason = self._stage(max(PATIENCE * error, effort.tolerance), effort)
            if reason is not None:
                return reason
            if error < effort.tolerance:
                break
        self.barrier = 0.0
        return self._stage(effort.tolerance, effort) or "converged to the tolerance of its stages"

    def _stage(self, progress: float, effort: Effort) -> str | None:
        """BFGS at one sharpness until a window brings less than `progress` (of the log bound)."""
        here, memory = self.evaluate(self.theta), Memory()
        if here is None:
            raise InternalError("the start of a first-order stage is infeasible")
        values, last = [here.value], 0.0
        while True:
            now = time.perf_counter()
            # None is begun that would end late, going by the one before.
            if expired(effort.deadline, now + last):
                return "deadline"
            if len(self.history) >= ITERATIONS:
                return "iteration limit"
            found = step(self.evaluate, here, memory)
            if found is None:
                return None
            here = found
            self.record(here)
            values.append(here.value)
            last = time.perf_counter() - now
            if len(values) > WINDOW and values[-1 - WINDOW] - values[-1] < progress:
                return None

    def record(self, here: Evaluation) -> None:
        """Take the step; keep the point with the best bound."""
        seconds, bound = time.perf_counter() - self.begin, math.exp(here.measured)
        self.theta = here.at
        if bound < self.best:
            self.best, self.best_theta = bound, here.at
        self.history.append((bound, math.inf, seconds))
        if self.on_iterate is not None:
            self.on_iterate(Iterate(self.measure(here.at)[0], bound, math.inf, seconds))


def first_order(
    problem: ConeProblem | LayeredProblem,
    start: Point | None = None,
    *,
    tolerance: float = 1e-5,
    deadline: float | None = None,
    on_iterate: OnIterate | None = None,
    device: str = "cpu",
) -> SdpResult:
    """Lower the bound of `problem` by BFGS; every iterate proves one.

    Layered data cost O(sum of n_l^3) an iteration, other cone data one Cholesky factorisation of order (w, x). `start`
    may hold any multipliers of program (1) (its mu and tau only set the scale); the layerwise closed form otherwise. A
    `tolerance` of 1e-5 ends a stage when a few iterations lower the bound by less than that fraction. Multipliers come
    back in the normalisation of (1) or (2), blocks in order of the layers. Raises UsageError for an infeasible start.
    """
    begin = time.perf_counter()
    oracle = oracle_of(problem, device)
    given = None if start is None else float(start.tau.max()) / np.maximum(start.multipliers, 1e-300)
    descent = Descent(oracle, on_iterate, begin, given)
    first = descent.evaluate(descent.theta)
    if first is None:
        raise UsageError("the start of the first-order method proves no bound", hint="leave the start out")
    descent.record(first)
    note = descent.run(Effort(tolerance, deadline))
    point, bound = descent.best_point()
    history = tuple(descent.history)
    return SdpResult(point, bound, math.inf, len(history), time.perf_counter() - begin, history, note)


def _log_norm_slope(values: Tensor, norm: float) -> Tensor:
    """Derivative of log ||values||_norm by log values."""
    powers = (values / values.max()) ** norm
    return powers / powers.sum()
