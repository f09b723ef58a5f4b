"""Which McCormick plane each scalar product x_ik y_kj of a matrix product uses, as one number in [-1, 1] per product.

A tilt is kept either in full, (..., i, k, j), or as the mean of one number per x_ik and one per y_kj. The second form
needs no tensor with all three axes, and it contains the choice that the bound asks for at its optimum: the gradient
with respect to a tilt is proportional to s_ik + t_kj, where s and t say where the factors sit in their boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sides:
    """Something per entry of x, (..., i, k), and something per entry of y, (..., k, j)."""

    x: Tensor
    y: Tensor


def times_y(rows: Tensor, y: Tensor) -> Tensor:
    """sum_j rows_ij y_kj: (..., i, j) and (..., k, j) to (..., i, k)."""
    return torch.einsum("...ij,...kj->...ik", rows, y)


def times_x(rows: Tensor, x: Tensor) -> Tensor:
    """sum_i rows_ij x_ik: (..., i, j) and (..., i, k) to (..., k, j)."""
    return torch.einsum("...ij,...ik->...kj", rows, x)


def product(x: Tensor, y: Tensor) -> Tensor:
    """sum_k x_ik y_kj: (..., i, k) and (..., k, j) to (..., i, j)."""
    return torch.einsum("...ik,...kj->...ij", x, y)


class Tilts(ABC):
    """Tilts of the lower and upper planes; `radii` are the radii of the factors.

    Rows with a coefficient >= 0 use the lower plane, x slope + rho dy and y slope + rho dx; the others the upper one,
    x slope + sigma dy and y slope - sigma dx.
    """

    @abstractmethod
    def pull(self, rows: Tensor, radii: Sides) -> Sides:
        """What the tilts add to the coefficients of x and y."""

    @abstractmethod
    def push(self, radii: Sides, offsets: Sides) -> tuple[Tensor, Tensor]:
        """What the tilts add to the value of the lower and of the upper plane, `offsets` away from the centres."""

    @abstractmethod
    def gradient(self, rows: Tensor, radii: Sides, offsets: Sides) -> tuple[Tensor, ...]:
        """Derivatives of the rows' bounds with respect to the tensors that make up the tilts."""


@dataclass(frozen=True, slots=True)
class FullTilts(Tilts):
    """rho and sigma, (..., i, k, j) each."""

    low: Tensor
    high: Tensor

    def pull(self, rows: Tensor, radii: Sides) -> Sides:
        wide = rows.unsqueeze(-2)
        lower = wide.clamp(min=0) * self.low
        upper = wide.clamp(max=0) * self.high
        to_x = torch.einsum("...ikj,...kj->...ik", lower + upper, radii.y)
        return Sides(to_x, torch.einsum("...ikj,...ik->...kj", lower - upper, radii.x))

    def push(self, radii: Sides, offsets: Sides) -> tuple[Tensor, Tensor]:
        first, second = _parts(radii, offsets)
        return (self.low * (first + second)).sum(-2), (self.high * (first - second)).sum(-2)

    def gradient(self, rows: Tensor, radii: Sides, offsets: Sides) -> tuple[Tensor, ...]:
        first, second = _parts(radii, offsets)
        wide = rows.unsqueeze(-2)
        return wide.clamp(min=0) * (first + second), wide.clamp(max=0) * (first - second)


def _parts(radii: Sides, offsets: Sides) -> tuple[Tensor, Tensor]:
    """dy (x - centre) and dx (y - centre) per scalar product, (..., i, k, j)."""
    first = offsets.x.unsqueeze(-1) * radii.y.unsqueeze(-3)
    return first, radii.x.unsqueeze(-1) * offsets.y.unsqueeze(-3)


@dataclass(frozen=True, slots=True)
class MeanTilts(Tilts):
    """rho_ikj = (low.x_ik + low.y_kj) / 2, and sigma from `high` in the same way."""

    low: Sides
    high: Sides

    def pull(self, rows: Tensor, radii: Sides) -> Sides:
        parts = []
        for part, tilt, sign in ((rows.clamp(min=0), self.low, 1.0), (rows.clamp(max=0), self.high, -1.0)):
            to_x = tilt.x * times_y(part, radii.y) + times_y(part, tilt.y * radii.y)
            to_y = times_x(part, tilt.x * radii.x) + tilt.y * times_x(part, radii.x)
            parts.append((to_x * 0.5, to_y * (0.5 * sign)))
        return Sides(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1])

    def push(self, radii: Sides, offsets: Sides) -> tuple[Tensor, Tensor]:
        values = []
        for tilt, sign in ((self.low, 1.0), (self.high, -1.0)):
            first = product(tilt.x * offsets.x, radii.y) + product(offsets.x, tilt.y * radii.y)
            second = product(tilt.x * radii.x, offsets.y) + product(radii.x, tilt.y * offsets.y)
            values.append((first + sign * second) * 0.5)
        return values[0], values[1]

    def gradient(self, rows: Tensor, radii: Sides, offsets: Sides) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for part, sign in ((rows.clamp(min=0), 1.0), (rows.clamp(max=0), -1.0)):
            for_x = offsets.x * times_y(part, radii.y) + sign * radii.x * times_y(part, offsets.y)
            for_y = radii.y * times_x(part, offsets.x) + sign * offsets.y * times_x(part, radii.x)
            found += [for_x * 0.5, for_y * 0.5]
        return tuple(found)


def tilts_of(tensors: Sequence[Tensor]) -> Tilts | None:
    """The tilts behind the tensors of a relaxation: two (full), four (means), or none at all."""
    if len(tensors) == 2:
        return FullTilts(tensors[0], tensors[1])
    if len(tensors) == 4:
        return MeanTilts(Sides(tensors[0], tensors[1]), Sides(tensors[2], tensors[3]))
    return None


def place_in(point: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Where a point stands in its interval, in [-1, 1]."""
    return ((point - centre) / torch.where(radius > 0, radius, torch.ones_like(radius))).clamp(-1, 1)


def halved(radius: Tensor, place: Tensor, weights: tuple[Tensor, Tensor], upper: bool) -> Tensor:
    """How much less is missed at a point once its interval is halved: `weights` are what is missed per unit of the
    radius, for itself and per unit of `place`.
    """
    inside = (2 * place - 1 if upper else 2 * place + 1).clamp(-1, 1)
    before, after = weights[0] + weights[1] * place, weights[0] + weights[1] * inside
    return radius * (before - 0.5 * after)
