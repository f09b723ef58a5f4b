"""Norms of a bound `||y||_q <= L ||x||_p` with p >= 2 and q <= 2, and norms of multiplier vectors rounded up.

Sums of squares weighted by multipliers are bounded over a unit ball by a norm of the multipliers: the largest
sum mu_i a_i^2 over ||a||_{q*} <= 1 is ||mu||_s with s = conj(q*) = q / (2 - q), and likewise t = conj(p) = p / (p - 2)
for the input (Wang et al. 2022, "A quantitative geometric approach to neural-network smoothness", for p = infinity).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from verinet.errors import UsageError
from verinet.numerics.cholesky import Floats, gamma, rounded_up

Norm = float | tuple[float, float]
"""A norm for both sides (2; infinity, for one output), or the pair (p, q)."""


@dataclass(frozen=True)
class Exponents:
    """p in [2, inf] at the input and q in [1, 2] at the output."""

    p: float
    q: float

    @property
    def euclidean(self) -> bool:
        return self.p == 2 and self.q == 2

    @property
    def mu(self) -> float:
        """s = q / (2 - q). The difference is exact, so s carries one rounding."""
        return math.inf if self.q == 2 else self.q / (2 - self.q)

    @property
    def tau(self) -> float:
        """t = p / (p - 2)."""
        if self.p == 2:
            return math.inf
        return 1.0 if math.isinf(self.p) else self.p / (self.p - 2)


def exponents_of(norm: Norm, outputs: int) -> Exponents:
    """Exponents of a norm. Raises UsageError for norms that no bound of this kind covers.

    With one output every q is the same, and 2 is the one that needs no multipliers.
    """
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    if outputs == 1:
        q = 2.0
    if not (2 <= p <= math.inf and 1 <= q <= 2):
        raise UsageError(
            f"no semidefinite bound from the {p:g}-norm to the {q:g}-norm",
            hint="p from 2 to inf and q from 1 to 2; for p = 1 go column by column, for q = inf output by output",
        )
    return Exponents(p, q)


def multiplier_norm_upper(values: Floats, exponent: float) -> float:
    """At least the norm of non-negative numbers with an exponent in [1, inf]. Zero for none.

    The exponent may carry one rounding: the norm falls by at most ln(n) u, which the charge covers.
    """
    largest = float(values.max(initial=0.0))
    if not 0 < largest < math.inf or math.isinf(exponent):
        return largest
    # Underflow only loses terms below 1e-300 of a sum that is at least 1.
    total = float(((values / largest) ** exponent).sum())
    return rounded_up(largest * total ** (1 / exponent) * (1 + 2 * gamma(len(values) + 64)))
