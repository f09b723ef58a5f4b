"""The reachable ellipsoid of the outputs as a function of the multipliers: layer by layer, or dense for any cone data.

Both give, for D = 1/lambda per block and tau per input, the matrix G with the certificate
lambda_max(mu^-1/2 G mu^-1/2) (see `first_order`), or None where the multipliers prove nothing; and the adjoint: for a
matrix U with dF = <U U^T, dG> the derivatives of F by D and by 1/tau.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from verinet.solvers.sdp.cone import ConeProblem, Ints, multiplier_norms
from verinet.solvers.sdp.layered import LayeredProblem, LayerMaps, dense, index, positive_factor, tensor, with_transpose
from verinet.solvers.sdp.program import compress

if TYPE_CHECKING:
    from torch import Tensor

NARROW = 200  # layers up to this width take the barrier: their steps are cheap, and many thin layers need it

Pull = Callable[["Tensor", float], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Reachable:
    """G (outputs, outputs), the barrier -logdet(scaled S) >= 0 of the domain, and `pull`.

    pull(U, weight) gives the derivatives by D (blocks,) and by 1/tau (inputs,) of a function F + weight * barrier with
    dF = <U U^T, dG>. A weight of 0 is much cheaper.
    """

    ellipsoid: Tensor
    barrier: float
    pull: Pull


class Oracle(Protocol):
    """What the first-order method needs to know of a problem; see the module."""

    blocks: int
    inputs: int
    outputs: int
    norms: tuple[float, float]  # (s, t), of mu and tau
    euclidean: bool
    shared: Ints | None  # (blocks,) numbers of the free multipliers, None for one each
    barrier_pays: bool  # whether the barrier is worth its cost, two to three times that of a step without
    device: str

    def ellipsoid(self, d: Tensor, tau: Tensor | None) -> Reachable | None:
        """G and its adjoint; `tau` None means 1."""

    def first(self) -> Tensor:
        """A feasible d for tau = 1."""


class LayeredOracle:
    """Layer by layer: O(sum of n_l^3) a value, and no more for the gradient."""

    def __init__(self, problem: LayeredProblem, device: str = "cpu") -> None:
        self.device, self.norms, self.euclidean = device, problem.norms(), problem.euclidean
        self.blocks, self.inputs, self.outputs = problem.blocks, problem.inputs, problem.outputs
        self.sizes = [layer.blocks for layer in problem.layers]
        first = problem.weights[0]
        self._weight, self._weight_t = with_transpose(first, device)
        self._start = dense(first @ first.T, device)
        self.maps = [
            LayerMaps(layer, weight, device) for layer, weight in zip(problem.layers, problem.weights[1:], strict=True)
        ]
        self.shared = _shared(problem)
        width = max((layer.p.shape[1] for layer in problem.layers), default=0)
        self.barrier_pays = width <= NARROW or not self.euclidean

    def reach(self, tau: Tensor | None) -> Tensor:
        """G_0."""
        if tau is None:
            return self._start
        return self._weight @ (self._weight_t.to_dense() / tau[:, None])

    def ellipsoid(self, d: Tensor, tau: Tensor | None) -> Reachable | None:
        import torch  # noqa: PLC0415 - start-up time

        reach, kept, distance = self.reach(tau), [], 0.0
        parts = torch.split(d, self.sizes)
        for layer, part in zip(self.maps, parts, strict=True):
            step = layer.forward(reach, part)
            if step is None:
                return None
            reach, passed = step
            kept.append(passed)
            distance += float(layer.barrier(passed, part))

        def pull(cotangent: Tensor, barrier: float) -> tuple[Tensor, Tensor]:
            slopes = [torch.zeros(0, dtype=torch.float64, device=self.device)]
            full = cotangent @ cotangent.T if barrier else cotangent
            for layer, passed, part in zip(reversed(self.maps), reversed(kept), reversed(parts), strict=True):
                if barrier:
                    full, slope = layer.backward_full(passed, full, barrier, part)
                else:
                    full, slope = layer.backward(passed, full)
                slopes.append(slope)
            pulled = self._weight_t @ full
            by_width = (pulled * self._weight_t.to_dense()).sum(1) if barrier else (pulled**2).sum(1)
            return torch.cat(slopes[::-1]), by_width

        return Reachable(reach, distance, pull)

    def first(self) -> Tensor:
        """One value per layer; see `recursion`."""
        import torch  # noqa: PLC0415 - start-up time
        from verinet.solvers.sdp.recursion import layer_values  # noqa: PLC0415 - it imports this module

        return torch.cat([*layer_values(self), torch.zeros(0, dtype=torch.float64, device=self.device)])


class DenseOracle:
    """One Cholesky factorisation of order (w, x): for networks that are no chain, and for implicit ones."""

    def __init__(self, problem: ConeProblem, device: str = "cpu") -> None:
        self.problem, self.device = problem, device
        self.norms, self.euclidean = multiplier_norms(problem), problem.euclidean
        self.shared: Ints | None = None
        self.blocks, self.inputs, self.outputs = problem.blocks, problem.inputs, problem.outputs
        stacked, self._directions = np.vstack([problem.m, problem.my]), None
        if np.isinf(self.norms[1]):
            stacked, self._directions = compress(stacked, problem.inputs)
        self.barrier_pays = stacked.shape[1] <= 4 * NARROW or not self.euclidean
        self.m, self.my = tensor(stacked[: len(problem.m)], device), tensor(stacked[len(problem.m) :], device)
        self.v_block, self.w_block = index(problem.v_block, device), index(problem.w_block, device)

    def ellipsoid(self, d: Tensor, tau: Tensor | None) -> Reachable | None:
        import torch  # noqa: PLC0415 - start-up time

        channels = len(self.w_block)
        # Congruence by the square root of D: the diagonal becomes 1 whatever the decades of the multipliers.
        width = torch.ones(self.m.shape[1] - channels, dtype=torch.float64, device=self.device)
        width = width if tau is None else 1 / tau
        scaling = torch.sqrt(torch.cat([d[self.w_block], width]))
        rows = self.m * scaling / torch.sqrt(d[self.v_block])[:, None]
        factor = positive_factor(torch.eye(len(scaling), dtype=torch.float64, device=self.device) - rows.T @ rows)
        if factor is None:
            return None
        half = torch.linalg.solve_triangular(factor, (self.my * scaling).T, upper=False)

        def pull(cotangent: Tensor, barrier: float) -> tuple[Tensor, Tensor]:
            worst = torch.linalg.solve_triangular(factor.T, half @ cotangent, upper=True)
            if barrier:
                eye = torch.eye(len(scaling), dtype=torch.float64, device=self.device)
                root = torch.linalg.solve_triangular(factor.T, eye, upper=True)
                worst = torch.cat([worst, math.sqrt(barrier) * root], 1)
            squares = (worst**2).sum(1)
            if barrier:
                squares = squares - barrier
            channel, bounding = squares[:channels], ((rows @ worst) ** 2).sum(1)
            slope = torch.zeros(self.blocks, dtype=torch.float64, device=self.device)
            slope.index_add_(0, self.w_block, channel).index_add_(0, self.v_block, -bounding)
            return slope / d, squares[channels:] / width

        return Reachable(half.T @ half, -2 * float(torch.log(factor.diagonal()).sum()), pull)

    def first(self) -> Tensor:
        """From the elimination of `start`, at rho = 1."""
        from verinet.solvers.sdp.start import start_multipliers  # noqa: PLC0415 - it needs this module's neighbours

        multipliers, rho = start_multipliers(self.problem)
        return tensor(rho / multipliers, self.device)


def _shared(problem: LayeredProblem) -> Ints | None:
    """Numbers of the free multipliers over all layers; None when every block has its own."""
    if all(layer.shared is None for layer in problem.layers):
        return None
    numbers, count = [], 0
    for layer in problem.layers:
        own = np.arange(layer.blocks) if layer.shared is None else np.unique(layer.shared, return_inverse=True)[1]
        numbers.append(own + count)
        count += int(own.max()) + 1 if len(own) else 0
    return np.concatenate(numbers).astype(np.int64)


def oracle_of(problem: Any, device: str = "cpu") -> Oracle:
    """The oracle that fits the data."""
    return LayeredOracle(problem, device) if isinstance(problem, LayeredProblem) else DenseOracle(problem, device)
