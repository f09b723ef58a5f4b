"""Planes of sum_k x_ik (sum_j r_ij y_kj): a row's own mixture of the y_kj is one factor, with a range of its own.

Planes of every x_ik y_kj for itself lose sum_j |r_ij| dx_ik dy_kj. The number u_ik = sum_j r_ij y_kj varies much less
than sum_j |r_ij| dy_kj when the y_kj move together; its range comes from a hull around (y_kj)_j and from their box, and
McCormick's planes of x_ik u_ik lose dx_ik du_ik.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny
from verinet.ops.bilinear.ellipsoids import support
from verinet.ops.bilinear.tilts import halved, place_in, product, times_x, times_y


class Hull(NamedTuple):
    """What is known of the rows of y: the box, centre and radius (..., k, j), and the hull of a zonotope.

    `middle` is (..., k, j) and `factor` (..., k, j, columns), see `ellipsoids.hull_of`; `size` (..., k, j) is at least
    all of these sizes per unit of a coefficient.
    """

    centre: Tensor
    radius: Tensor
    middle: Tensor
    factor: Tensor

    @property
    def size(self) -> Tensor:
        return self.centre.abs() + self.radius + self.middle.abs() + self.factor.abs().sum(-1)


class Range(NamedTuple):
    """u = sum_j r_ij y_kj lies within `radius` of `centre`, (..., i, k) each.

    Masks say where the hull gave the lower and the upper end, `normal` (..., i, k, columns) where it touches.
    """

    centre: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor
    normal: Tensor

    @classmethod
    def of(cls, rows: Tensor, hull: Hull) -> Range:
        """Of the mixtures that coefficients (..., i, j) make, all rounding within the radius."""
        reach = torch.einsum("...ij,...kjm->...ikm", rows, hull.factor)
        wide, normal = support(reach, rows.shape[-1])
        size = rows.abs()
        boxed, spread = times_y(rows, hull.centre), times_y(size, hull.radius)
        inner = times_y(rows, hull.middle)
        low, high = inner - wide >= boxed - spread, inner + wide <= boxed + spread
        start, stop = torch.maximum(inner - wide, boxed - spread), torch.minimum(inner + wide, boxed + spread)
        terms, dtype = 2 * reach.shape[-1] + 16, rows.dtype
        slack = times_y(size, hull.size) * (2 * gamma(terms, dtype)) + tiny(dtype)
        return cls((start + stop) * 0.5, ((stop - start) * 0.5).clamp(min=0) + slack, low, high, normal)


class Mixture(NamedTuple):
    """One relaxation: centres and radii of x (..., i, k), the hull of y, and a tilt in [-1, 1] per x_ik.

    With u in [c - d, c + d] and x in [p - q, p + q]: x u >= (c + t d) x + (p + t q) u - p c - t (p d + c q) - q d.
    """

    centre: Tensor
    radius: Tensor
    hull: Hull
    tilt: Tensor

    def pull(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coefficients of x and of y, offsets and their sizes (..., i, k)."""
        span = Range.of(rows, self.hull)
        to_x = span.centre + self.tilt * span.radius
        to_y = times_x(rows, self.centre + self.tilt * self.radius)
        terms = (
            self.centre * span.centre,
            self.tilt * (self.centre * span.radius + span.centre * self.radius),
            self.radius * span.radius,
        )
        size = terms[0].abs() + terms[2]
        size = size + self.centre.abs() * span.radius + span.centre.abs() * self.radius
        return to_x, to_y, -terms[0] - terms[1] - terms[2], size

    def push(self, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Derivative of the bound with respect to the rows, (..., i, j), at a point; rows . push is the bound."""
        span, hull = Range.of(rows, self.hull), self.hull
        moved = self.centre + self.tilt * self.radius
        for_centre, for_radius = x - moved, self.tilt * (x - self.centre) - self.radius
        ends = (for_centre - for_radius) * 0.5, (for_centre + for_radius) * 0.5
        inside = ends[0] * span.low, ends[1] * span.high
        boxed = ends[0] - inside[0], ends[1] - inside[1]
        value = product(moved, y) + product(inside[0] + inside[1], hull.middle)
        value = value + product(boxed[0] + boxed[1], hull.centre)
        value = value + rows.sign() * product(boxed[1] - boxed[0], hull.radius)
        touch = (inside[1] - inside[0]).unsqueeze(-1) * span.normal
        return value + torch.einsum("...ikm,...kjm->...ij", touch, hull.factor)

    def gradient(self, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Derivative of each row's bound with respect to the tilts."""
        span = Range.of(rows, self.hull)
        return span.radius * (x - self.centre) + self.radius * (times_y(rows, y) - span.centre)

    def halving_gains(self, rows: Tensor, x: Tensor, y: Tensor, upper: bool) -> tuple[Tensor, Tensor]:
        """By how much untilted planes miss less at a point once the interval of x_ik, or of y_kj, is halved.

        With s, t in [-1, 1] for the place of x and of u in their ranges they miss dx du (1 + s t); see `MatMulTwo`.
        """
        span = Range.of(rows, self.hull)
        place_x = place_in(x, self.centre, self.radius)
        place_u = place_in(times_y(rows, y), span.centre, span.radius)
        to_x = halved(self.radius, place_x, (span.radius, span.radius * place_u), upper)
        # Half of y_kj takes |r_ij| dy_kj off the mixture's box.
        width = times_y(rows.abs(), self.hull.radius).unsqueeze(-1)
        less = torch.einsum("...ij,...kj->...ikj", rows.abs(), self.hull.radius)
        narrower = torch.minimum(width - less, span.radius.unsqueeze(-1))
        missed = self.radius * (1 + place_x * place_u)
        return to_x, (missed.unsqueeze(-1) * (span.radius.unsqueeze(-1) - narrower)).sum(-3)

    def charge(self, batch: int) -> Tensor:
        """Per unit of |coefficient| of an output entry, what rounding of the planes can cost, (..., i, j).

        As for plain products: chains of at most `steps` roundings over terms whose absolute sum is |x| |y|.
        """
        inner, long = self.centre.shape[-1], max(self.centre.shape[-2], self.hull.centre.shape[-1])
        steps = 2 * long + inner + batch + 32
        whole = product(self.centre.abs() + self.radius, self.hull.size)
        return whole * (16 * gamma(steps, whole.dtype)) + tiny(whole.dtype)
