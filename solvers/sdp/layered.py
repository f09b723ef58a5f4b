"""Feed-forward cone data layer by layer, and the bound as a function of the multipliers without any N x N matrix.

For y = W_L phi_L(... phi_1(W_0 x)) with dphi = p dv + r w, ||w_g|| <= ||(q dv)_g||, the inputs and channels with
x^T diag(tau) x + sum lambda (||w||^2 - ||v||^2) at most 1 reach, at the input of layer l, an ellipsoid with matrix G_l:

    G_0 = W_0 diag(1/tau) W_0^T
    G_l = W_l (p K p^T + r D_w r^T) W_l^T,   K = G + G q^T (D_v - q G q^T)^-1 q G,   D = 1/lambda spread over blocks

which needs D_v - q G q^T > 0 and then proves L^2 <= lambda_max(G_L) for the 2-norm. It is the elimination of the
block tridiagonal matrix of LipSDP from the input (for ReLU that of ECLipsE, Xu and Sivaranjani 2024), for any sector
and block. The derivative is the energy balance of the worst trajectories, dF/dlambda = ||v||^2 - ||w||^2, so a gradient
costs a few matrix-vector products on top of the value.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from verinet.solvers.sdp.cone import Floats, Ints, check_norms, multiplier_norms_of

from verinet.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

SPARSE = 0.1  # share of nonzero entries up to which sparse products are faster


@dataclass(frozen=True)
class Layer:
    """One nonlinear layer: p (outputs, inputs), r (outputs, m), q (k, inputs), NumPy or scipy.sparse.

    `v_block` (k,) and `w_block` (m,) number the blocks within the layer from 0. `shared` (blocks,) gives the blocks
    that have one multiplier the same number (the pixels of a convolution's channel); None leaves them free.
    """

    p: Any
    r: Any
    q: Any
    v_block: Ints
    w_block: Ints
    shared: Ints | None = None

    @property
    def blocks(self) -> int:
        return int(self.v_block.max()) + 1 if len(self.v_block) else 0

    def diagonal(self) -> tuple[Floats, Floats] | None:
        """(c, r) when the layer is elementwise with q = I and no channel missing, else None."""
        shapes = {tuple(matrix.shape) for matrix in (self.p, self.r, self.q)}
        if len(shapes) != 1 or self.p.shape[0] != self.p.shape[1]:
            return None
        p, r, q = (_main_diagonal(matrix) for matrix in (self.p, self.r, self.q))
        numbers = np.arange(self.blocks)
        plain = np.array_equal(self.v_block, numbers) and np.array_equal(self.w_block, numbers)
        if p is None or r is None or q is None or not plain or not (q == 1).all() or len(q) != len(numbers):
            return None
        return p, r


@dataclass(frozen=True)
class LayeredProblem:
    """y = W_L phi_L(... W_0 x): `len(weights) == len(layers) + 1`; norms as in ConeProblem.

    Raises UsageError where shapes do not fit.
    """

    weights: tuple[Any, ...]
    layers: tuple[Layer, ...]
    norm_in: float = 2.0
    norm_out: float = 2.0

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.layers) + 1:
            raise UsageError(f"{len(self.layers)} layers need one weight matrix more, got {len(self.weights)}")
        for number, layer in enumerate(self.layers):
            before, after = self.weights[number], self.weights[number + 1]
            fits = layer.p.shape == (after.shape[1], before.shape[0]) and layer.q.shape[1] == before.shape[0]
            if not fits or layer.r.shape != (after.shape[1], len(layer.w_block)):
                raise UsageError(f"layer {number}: p {layer.p.shape}, r {layer.r.shape}, q {layer.q.shape} do not fit")
        check_norms(self.norm_in, self.norm_out)

    @property
    def blocks(self) -> int:
        return sum(layer.blocks for layer in self.layers)

    @property
    def inputs(self) -> int:
        return int(self.weights[0].shape[1])

    @property
    def outputs(self) -> int:
        return int(self.weights[-1].shape[0])

    @property
    def euclidean(self) -> bool:
        return self.norm_in == 2 and self.norm_out == 2

    def norms(self) -> tuple[float, float]:
        """(s, t): the norms of mu and tau in the objective."""
        return multiplier_norms_of(self.norm_in, self.norm_out)


def _main_diagonal(matrix: Any) -> Floats | None:
    """The diagonal of a matrix that has nothing else, or None."""
    diagonal = np.asarray(matrix.diagonal(), dtype=np.float64)
    total = abs(matrix).sum()
    return diagonal if float(total) == float(np.abs(diagonal).sum()) else None


@dataclass
class _Passed:
    """What a layer leaves for the gradient."""

    reach: Tensor  # G at the layer's input
    factor: Tensor  # Cholesky of D_v - q G q^T


class LayerMaps:
    """One layer with the weights behind it, on a device: the map from G to the next G, and its adjoint."""

    def __init__(self, layer: Layer, weight: Any, device: str) -> None:
        self.entries = layer.diagonal()
        self.blocks = layer.blocks
        self.shared = None if layer.shared is None else index(layer.shared, device)
        self.v_block, self.w_block = index(layer.v_block, device), index(layer.w_block, device)
        if self.entries is not None:
            self.p, self.r = (tensor(entry, device) for entry in self.entries)
            self.weight, self.weight_t = with_transpose(weight, device)
            self.spread = bool((np.abs(np.abs(self.entries[0]) - np.abs(self.entries[1])) > 0).any())
            self.dense_t = self.weight_t.to_dense()
        else:
            p, r = weight @ layer.p, weight @ layer.r
            self.p, self.p_t = with_transpose(p, device)
            self.r, self.r_t = with_transpose(r, device)
            self.q, self.q_t = with_transpose(layer.q, device)
            self.r_dense = self.r.to_dense()

    def forward(self, reach: Tensor, d: Tensor) -> tuple[Tensor, _Passed] | None:
        """The next G and what the gradient needs, for D given per block; None where infeasible."""
        return self._elementwise(reach, d) if self.entries is not None else self._general(reach, d)

    def bounded(self, reach: Tensor) -> Tensor:
        """q G q^T."""
        return reach if self.entries is not None else self.q @ (self.q @ reach).T

    def _elementwise(self, reach: Tensor, d: Tensor) -> tuple[Tensor, _Passed] | None:
        import torch  # noqa: PLC0415 - start-up time

        factor = positive_factor(torch.diag(d) - reach)
        if factor is None:
            return None
        # K = D M D - D with M the inverse, so p K p + r D r = p D M D p + (r^2 - p^2) D.
        half = torch.linalg.solve_triangular(factor, (d * self.p)[:, None] * self.dense_t, upper=False)
        following = half.T @ half
        if self.spread:
            following = following + self.weight @ (((self.r**2 - self.p**2) * d)[:, None] * self.dense_t)
        return following, _Passed(reach, factor)

    def _general(self, reach: Tensor, d: Tensor) -> tuple[Tensor, _Passed] | None:
        import torch  # noqa: PLC0415 - start-up time

        factor = positive_factor(torch.diag(d[self.v_block]) - self.bounded(reach))
        if factor is None:
            return None
        through = (self.p @ reach).T
        half = torch.linalg.solve_triangular(factor, self.q @ through, upper=False)
        following = self.p @ through + half.T @ half + (self.r_dense * d[self.w_block]) @ self.r_dense.T
        return 0.5 * (following + following.T), _Passed(reach, factor)

    def backward(self, passed: _Passed, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """From U with dF = <U U^T, dG'> to the same at the layer's input, and dF/dD per block."""
        import torch  # noqa: PLC0415 - start-up time

        if self.entries is not None:
            pulled = self.weight_t @ cotangent
            through, channel = self.p[:, None] * pulled, self.r[:, None] * pulled
            bound = torch.cholesky_solve(passed.reach @ through, passed.factor)
            return through + bound, (channel**2).sum(1) - (bound**2).sum(1)
        through, channel = self.p_t @ cotangent, self.r_t @ cotangent
        bound = torch.cholesky_solve(self.q @ (passed.reach @ through), passed.factor)
        slope = torch.zeros(self.blocks, dtype=torch.float64, device=cotangent.device)
        slope.index_add_(0, self.w_block, (channel**2).sum(1)).index_add_(0, self.v_block, -(bound**2).sum(1))
        return through + self.q_t @ bound, slope

    def backward_full(self, passed: _Passed, cotangent: Tensor, barrier: float, d: Tensor) -> tuple[Tensor, Tensor]:
        """As `backward` for a symmetric dF/dG' of full rank, and for F + barrier * `barrier()`."""
        import torch  # noqa: PLC0415 - start-up time

        if self.entries is not None:
            pulled = self.weight_t @ (self.weight_t @ cotangent).T
            through, channel = self.p[:, None] * pulled * self.p, self.r**2 * pulled.diagonal()
            bounded, q_t = passed.reach, None
        else:
            through = self.p_t @ (self.p_t @ cotangent).T
            channel = ((self.r_t @ cotangent) * self.r_dense.T).sum(1)
            bounded, q_t = self.q @ passed.reach, self.q_t
        inverse = torch.cholesky_inverse(passed.factor)
        gain = inverse @ bounded
        mixed = gain @ through
        inner = mixed @ gain.T
        slope = torch.zeros(self.blocks, dtype=torch.float64, device=cotangent.device)
        slope.index_add_(0, self.w_block, channel)
        excess = barrier * (1 / d[self.v_block] - inverse.diagonal()) - inner.diagonal()
        slope.index_add_(0, self.v_block, excess)
        inner = inner + barrier * inverse
        if q_t is not None:
            mixed, inner = q_t @ mixed, q_t @ (q_t @ inner).T
        return through + mixed + mixed.T + inner, slope

    def barrier(self, passed: _Passed, d: Tensor) -> Tensor:
        """-logdet(I - D^-1/2 q G q^T D^-1/2) >= 0."""
        import torch  # noqa: PLC0415 - start-up time

        return torch.log(d[self.v_block]).sum() - 2 * torch.log(passed.factor.diagonal()).sum()


def positive_factor(square: Tensor) -> Tensor | None:
    """The lower Cholesky factor, None when the matrix is not positive definite."""
    import torch  # noqa: PLC0415 - start-up time

    factor, info = torch.linalg.cholesky_ex(square)
    return factor if int(info) == 0 and bool(torch.isfinite(factor[-1:, -1:]).all()) else None


def tensor(values: Floats, device: str) -> Tensor:
    import torch  # noqa: PLC0415 - start-up time

    return torch.as_tensor(np.ascontiguousarray(values, dtype=np.float64), device=device)


def index(values: Ints, device: str) -> Tensor:
    import torch  # noqa: PLC0415 - start-up time

    return torch.as_tensor(np.ascontiguousarray(values, dtype=np.int64), device=device)


def dense(values: Any, device: str) -> Tensor:
    return tensor(values.toarray() if hasattr(values, "toarray") else values, device)


def with_transpose(values: Any, device: str) -> tuple[Tensor, Tensor]:
    """A matrix and its transpose: dense (the transpose a view), or sparse rows (CSR) where that gains something."""
    if not hasattr(values, "tocsr") or values.nnz > SPARSE * values.shape[0] * values.shape[1]:
        whole = dense(values, device)
        return whole, whole.T
    return _sparse(values, device), _sparse(values.T, device)


def _sparse(values: Any, device: str) -> Tensor:
    import torch  # noqa: PLC0415 - start-up time

    rows = values.tocsr()
    parts = (index(rows.indptr, device), index(rows.indices, device), tensor(rows.data, device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR support a beta version, once
        return torch.sparse_csr_tensor(*parts, size=rows.shape, check_invariants=False)
