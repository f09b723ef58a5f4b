"""One multiplier per layer in closed form, from the input to the output: milliseconds, and a start for the rest.

With the largest eigenvalue g of the ellipsoid that bounds a layer's channels, d = g (1 + |c| / r) for slopes c -+ r
minimises the largest eigenvalue passed on when the layer behind is orthogonal; that is ECLipsE-Fast (Xu and Sivaranjani
2024) for ReLU, where d = 2 g. Blocks without slopes take the same factor.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from verinet.solvers.sdp.cone import SdpResult
from verinet.solvers.sdp.layered import LayeredProblem, LayerMaps

from verinet.errors import InternalError

if TYPE_CHECKING:
    from torch import Tensor
    from verinet.solvers.sdp.oracle import LayeredOracle

FACTOR = 1.5  # for blocks without slopes: 1 is least, 2 doubles the ellipsoid
LEAST = 1.05  # the value 1 itself is singular
STEPS = 40  # of Lanczos


def layerwise(problem: LayeredProblem, *, device: str = "cpu") -> SdpResult:
    """The bound of the closed-form multipliers, with one multiplier per layer (per neuron slopes weigh in)."""
    from verinet.solvers.sdp.first_order import Descent  # noqa: PLC0415 - it imports this module's neighbours
    from verinet.solvers.sdp.oracle import LayeredOracle  # noqa: PLC0415 - the same

    begin = time.perf_counter()
    descent = Descent(LayeredOracle(problem, device), None, begin)
    point, bound = descent.best_point()
    seconds = time.perf_counter() - begin
    return SdpResult(point, bound, np.inf, 1, seconds, ((bound, np.inf, seconds),), "closed form")


def layer_values(oracle: LayeredOracle) -> list[Tensor]:
    """d per block of every layer, feasible in sequence."""
    reach, values = oracle.reach(None), []
    for layer in oracle.maps:
        top = largest_eigenvalue(layer.bounded(reach))
        d = _common(max(top, 1e-200) * _factors(layer, oracle.device), layer.shared)
        for _ in range(60):
            step = layer.forward(reach, d)
            if step is not None:
                break
            d = 1.2 * d
        else:
            raise InternalError("the layerwise recursion found no feasible multiplier", hint="report this network")
        reach, _ = step
        values.append(d)
    return values


def _factors(layer: LayerMaps, device: str) -> Tensor:
    import torch  # noqa: PLC0415 - start-up time

    if layer.entries is None:
        return torch.full((layer.blocks,), FACTOR, dtype=torch.float64, device=device)
    return (1 + layer.p.abs() / layer.r.abs().clamp_min(1e-12)).clamp(LEAST, 1e3)


def _common(d: Tensor, shared: Tensor | None) -> Tensor:
    """The largest value of each group for all its blocks."""
    import torch  # noqa: PLC0415 - start-up time

    if shared is None or not len(d):
        return d
    groups = torch.zeros(int(shared.max()) + 1, dtype=torch.float64, device=d.device)
    return groups.scatter_reduce(0, shared, d, "amax")[shared]


def largest_eigenvalue(square: Tensor) -> float:
    """At least about the largest eigenvalue: Lanczos with the residual added. Not rigorous, callers check."""
    import torch  # noqa: PLC0415 - start-up time

    size = square.shape[0]
    if size == 0:
        return 0.0
    generator = torch.Generator().manual_seed(size)
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(square.device)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(min(STEPS, size)):
        vector = square @ basis[-1]
        diagonal.append(float(vector @ basis[-1]))
        for known in basis + basis:
            vector = vector - (vector @ known) * known
        off.append(float(vector.norm()))
        if off[-1] <= 1e-13 * abs(diagonal[0]):
            break
        basis.append(vector / off[-1])
    inner = off[: len(diagonal) - 1]
    full = np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1)
    values, vectors = torch.linalg.eigh(torch.from_numpy(full))
    return float(values[-1]) + abs(off[-1] * float(vectors[-1, -1]))
