"""Norms of batches of Jacobians from p to q, with directions that attain them; Jacobians by automatic differentiation.

Every norm computed here is attained by a direction, so it never exceeds the operator norm except by rounding. For
p = q = 2 it is the operator norm; for other pairs the alternating iteration of Boyd 1974 ("The power method for l^p
norms") may stop at a smaller stationary value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ROWS = 48
"""Up to so many outputs, Jacobians are computed row by row; beyond, a random half of them is enough for a search."""
_TURNS = 8


def vector_norm(values: Tensor, exponent: float) -> Tensor:
    """(batch, n) to (batch,)."""
    norms: Tensor = torch.linalg.vector_norm(values, ord=exponent, dim=-1)
    return norms


def unit(values: Tensor) -> Tensor:
    """Rows (batch, n) divided by their 2-norms; zeros stay zeros."""
    return values / vector_norm(values, 2.0)[:, None].clamp(min=1e-300)


def dual_vector(values: Tensor, exponent: float) -> Tensor:
    """The v with ||v||_exponent <= 1 that maximises v . values; (..., n)."""
    if math.isinf(exponent):
        return values.sign()
    if exponent == 1:
        place = values.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(values).scatter(-1, place, values.gather(-1, place).sign())
    largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    powers = values.sign() * (values.abs() / largest) ** (1 / (exponent - 1))
    return powers / vector_norm(powers, exponent)[..., None].clamp(min=1e-300)


def worst_directions(jacobians: Tensor, exponents: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Directions (batch, n) of p-norm 1 and the q-norms (batch,) of what the Jacobians (batch, k, n) make of them."""
    p, q = exponents
    batch, outputs, inputs = jacobians.shape
    if batch * outputs * inputs == 0:
        return jacobians.new_zeros(batch, inputs), jacobians.new_zeros(batch)
    clean = jacobians.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    best = _best_row(clean, p, q)
    if p == q == 2:
        best = _singular(clean, best)
    else:
        for _ in range(_TURNS):
            image = (clean @ best[:, :, None])[:, :, 0]
            back = dual_vector(image, _dual(q))
            best = dual_vector((back[:, None, :] @ clean)[:, 0], p)
    norms = vector_norm((clean @ best[:, :, None])[:, :, 0], q)
    return best, torch.where(jacobians.isfinite().all(2).all(1), norms, math.nan)


def _dual(exponent: float) -> float:
    if exponent == 1:
        return math.inf
    return 1.0 if math.isinf(exponent) else exponent / (exponent - 1)


def _best_row(jacobians: Tensor, p: float, q: float) -> Tensor:
    """Among the directions best for one output each, the best."""
    ways = dual_vector(jacobians, p)  # (batch, k, n)
    norms = vector_norm(ways @ jacobians.mT, q)
    return ways[torch.arange(len(ways)), norms.argmax(1)]


def _singular(jacobians: Tensor, start: Tensor) -> Tensor:
    """Leading right singular vectors: exact for small matrices, by iteration for large ones."""
    if min(jacobians.shape[1:]) <= 64:
        # Directions do not depend on the scale, and squares of steep slopes would overflow.
        jacobians = jacobians / jacobians.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
        wide = jacobians.shape[1] <= jacobians.shape[2]
        gram = jacobians @ jacobians.mT if wide else jacobians.mT @ jacobians
        try:
            top = torch.linalg.eigh(gram)[1][:, :, -1]
        except RuntimeError:  # it does not converge for every matrix; any direction will do
            return unit(start)
        way = (top[:, None, :] @ jacobians)[:, 0] if wide else top
    else:
        way = start
        for _ in range(4 * _TURNS):
            way = (jacobians.mT @ (jacobians @ way[:, :, None]))[:, :, 0]
            way = unit(way)
    return unit(way)


class Jacobian:
    """Jacobians of a batched function; columns of inputs that cannot move are zero. `free` is (inputs,)."""

    def __init__(self, function: Callable[[Tensor], Tensor], free: Tensor) -> None:
        self.function, self.free = function, free
        with torch.no_grad():
            self.outputs = function(torch.zeros(1, len(free), dtype=torch.float64)).shape[1]

    @property
    def batch(self) -> int:
        """How many points to take at once."""
        return max(1, (1 << 22) // max(1, min(self.outputs, _ROWS) * len(self.free)))

    def __call__(self, points: Tensor) -> Tensor:
        """(batch, inputs) to (batch, rows, inputs): the Jacobian, or rows of it when there are many outputs."""
        x = points.detach().clone().requires_grad_()
        y = self._value(x)
        if not y.requires_grad:
            return points.new_zeros(len(points), 1, points.shape[1])
        rows = range(self.outputs) if self.outputs <= _ROWS else self._largest(y)
        parts = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in rows]
        return torch.stack(parts, 1) * self.free

    def _largest(self, y: Tensor) -> list[int]:
        """The outputs that vary most over the batch."""
        spread = y.detach().std(0) if len(y) > 1 else y.detach()[0].abs()
        return sorted(int(i) for i in spread.argsort(descending=True)[:_ROWS])

    def _value(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.function(x)

    def uphill(self, points: Tensor, directions: Tensor) -> Tensor:
        """Gradient of ||J(x) v|| in x for fixed directions v: zero where the function is piecewise linear."""
        x = points.detach().clone().requires_grad_()
        y = self._value(x)
        zero = torch.zeros_like(points)
        if not y.requires_grad:
            return zero
        step = 1e-4 * points.abs().amax(1, keepdim=True).clamp(min=1.0)
        with torch.no_grad():
            change = self.function(points + step * directions) - y
            weight = change / change.norm(dim=1, keepdim=True).clamp(min=1e-300)
        first = torch.autograd.grad((y * weight).sum(), x, create_graph=True)[0]
        if not first.requires_grad:
            return zero
        second = torch.autograd.grad((first * directions).sum(), x, allow_unused=True)[0]
        return zero if second is None else second.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * self.free

    def quotient_slope(self, pair: Tensor, exponents: tuple[float, float]) -> Tensor:
        """Gradient of log ||f(a) - f(b)||_q - log ||a - b||_p for pairs (2, batch, inputs), same shape."""
        p, q = exponents
        x = pair.detach().clone().requires_grad_()
        y = self._value(x.flatten(0, 1)).unflatten(0, (2, -1))
        if not y.requires_grad:
            return torch.zeros_like(pair)
        with torch.enable_grad():
            gain = (
                vector_norm(y[0] - y[1], q).clamp(min=1e-200).log()
                - vector_norm(x[0] - x[1], p).clamp(min=1e-200).log()
            )
        slope = torch.autograd.grad(gain.sum(), x)[0]
        return slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * self.free
