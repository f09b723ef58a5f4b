"""From multipliers alone to a Lipschitz bound that holds: every number a solver returned may be garbage.

For multipliers lambda >= 0 (per block), mu > 0 (per output), tau > 0 (per input) and a number sigma with

    blkdiag(Lambda, sigma diag tau) - m^T Lambda m - my^T diag(mu)^-1 my  >= 0,     m = [c d], my = [cy dy],

multiply by z = (w, x) from both sides: sum y_i^2 / mu_i + sum lambda_g (||v_g||^2 - ||w_g||^2) <= sigma sum tau_j
x_j^2, and ||w_g|| <= ||v_g|| leaves sum y_i^2 / mu_i <= sigma sum tau_j x_j^2. Hence ||y||_q^2 <= ||mu||_s sigma
||tau||_t ||x||_p^2 (s, t as in `exponents`; for the 2-norm mu = tau = 1 and L = sqrt(sigma)). The smallest sigma is
guessed from the Schur complement and then proved: the matrix is formed with all rounding charged and factorised by
Cholesky.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from verinet.solvers.lipschitz.exponents import Exponents, Norm, exponents_of, multiplier_norm_upper
from verinet.solvers.lipschitz.form import Form, Ints
from verinet.solvers.lipschitz.gram import Gram, form_gram, halving_exponents
from verinet.solvers.sdp.cone import Point

from verinet.errors import CertificationError, UsageError
from verinet.numerics.cholesky import (
    UNIT,
    Floats,
    factor,
    largest_eigenvalue,
    rounded_up,
    shift_needed,
    solve_lower,
)

_SMALLEST, _LARGEST = 1e-280, 1e280
_MIXES = (1e-9, 1e-6, 1e-3, 0.03, 0.3, 1.0)
_FLOORS = (1e-9, 1e-6, 1e-3)
_FIRST, _WIDENINGS = 1e-13, 24
_LARGE = 2000
"""Beyond so many columns the start is not tried where the multipliers themselves prove something."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A proved bound `||f(x) - f(y)||_q <= upper ||x - y||_p`.

    `multipliers` (blocks,), `mu` (outputs,) and `tau` (inputs,) are the ones that prove it, scaled so that sigma = 1
    up to `loss`: how much larger, relatively, the proved sigma is than the one computed without rounding charged.
    `method` says how it was proved; `share` is how much of the start was mixed in.
    """

    upper: float
    multipliers: Floats
    mu: Floats
    tau: Floats
    loss: float
    method: str
    share: float = 0.0


class _Proof(NamedTuple):
    sigma: float
    tau: Floats
    guess: float


def certify(
    form: Form, multipliers: Floats | Point, *, norm: Norm = 2.0, start: Floats | Point | None = None
) -> Certified:
    """The smallest Lipschitz bound that these multipliers prove; see the module for the inequality.

    `multipliers` are lambda per block, shape (blocks,), or a `Point` that also holds mu and tau, which is needed when
    the norms are not both 2 (a tau of zeros stands for unknown). NaN and negative numbers count as zero.
    `norm` is 2, infinity (for one output), or (p, q) with p >= 2 >= q. `start` are multipliers known to be strictly
    feasible: they are mixed in, as much as needed, when `multipliers` prove nothing by themselves.
    Raises UsageError for a wrong number of multipliers or norms without such a bound, and CertificationError when
    neither the multipliers nor the start prove anything.
    """
    exponents = exponents_of(norm, form.cy.value.shape[0])
    point = _cleaned(form, multipliers, exponents)
    if _constant(form):
        return Certified(0.0, point.multipliers, point.mu, point.tau, 0.0, "the output does not depend on the input")
    base = None if start is None else _cleaned(form, start, exponents)
    with np.errstate(all="ignore"):
        best = _best(form, point, base, exponents)
    if best is not None and math.isfinite(best.upper):
        return best
    raise CertificationError(
        "these multipliers prove no Lipschitz bound: Lambda - c^T Lambda c - cy^T cy is not positive definite",
        where=", ".join(dict.fromkeys(form.labels[:3])) if form.labels else "",
        hint="pass strictly feasible multipliers as `start`, or take the norm product",
    )


def _best(form: Form, point: Point, start: Point | None, exponents: Exponents) -> Certified | None:
    """The multipliers if they prove something, else the best mixture with the start; never worse than the start."""
    best: Certified | None = None
    size = len(form.w_block) + form.d.value.shape[1]
    for share, candidate in _candidates(point, start):
        if share and best is not None and best.share == 0 and (share < 1 or size > _LARGE):
            continue
        proof = _prove(form, candidate, exponents)
        now = None if proof is None else _certified(candidate, proof, exponents, share)
        if now is not None and (best is None or now.upper < best.upper):
            best = now
    return best


def _certified(point: Point, proof: _Proof, exponents: Exponents, share: float) -> Certified:
    outer = rounded_up(multiplier_norm_upper(point.mu, exponents.mu) * proof.sigma)
    square = rounded_up(outer * multiplier_norm_upper(proof.tau, exponents.tau))
    upper = math.nextafter(math.sqrt(square), math.inf)
    method = "verified Cholesky" if share == 0 else f"verified Cholesky, {share:g} of the start mixed in"
    loss = proof.sigma / proof.guess - 1 if proof.guess > 0 else math.inf
    tau = proof.tau * proof.sigma
    return Certified(upper, point.multipliers, point.mu, tau, loss, method, share)


def _candidates(point: Point, start: Point | None) -> Iterator[tuple[float, Point]]:
    """The multipliers, then more and more of the start: the feasible set is convex and the start inside it."""
    yield 0.0, point
    if start is None:
        return
    for share in _MIXES:
        multipliers = (1 - share) * point.multipliers + share * start.multipliers
        mu, tau = ((1 - share) * a + share * b for a, b in ((point.mu, start.mu), (point.tau, start.tau)))
        yield share, Point(multipliers, mu, tau)


def _cleaned(form: Form, given: Floats | Point, exponents: Exponents) -> Point:
    """Positive finite numbers of the right shapes, whatever was given; tau = 0 stands for unknown."""
    outputs, inputs = form.dy.value.shape
    if isinstance(given, Point):
        multipliers, mu, tau = given.multipliers, given.mu, given.tau
    elif exponents.euclidean:
        multipliers = np.asarray(given, dtype=np.float64)
    else:
        raise UsageError("norms other than 2 need multipliers mu and tau as well", hint="pass a Point")
    if exponents.euclidean:
        mu, tau = np.ones(outputs), np.ones(inputs)
    for name, values, size in (("blocks", multipliers, form.blocks), ("outputs", mu, outputs), ("inputs", tau, inputs)):
        if values.shape != (size,):
            raise UsageError(f"{values.shape} multipliers do not fit {size} {name}", hint="one number for each")
    tau = np.zeros(inputs) if not tau.any() else positive(tau)
    return Point(positive(multipliers), positive(mu), tau)


def positive(values: Floats) -> Floats:
    """NaN and negative numbers become a tiny share of the largest; all stay far from overflow."""
    clean = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=_LARGEST, neginf=0.0)
    clean = np.clip(clean, 0.0, _LARGEST)
    floor = max(float(clean.max(initial=0.0)) * 1e-30, _SMALLEST)
    result: Floats = np.maximum(clean, floor)
    return result


def _constant(form: Form) -> bool:
    """No output can change: y = 0 identically, or x enters nowhere in a network without loops."""

    def zero(*parts: str) -> bool:
        matrices = [getattr(form, name) for name in parts]
        return not any(m.value.any() or (m.radius is not None and m.radius.any()) for m in matrices)

    return zero("cy", "dy") or (not form.implicit and zero("d", "dy"))


def _prove(form: Form, point: Point, exponents: Exponents) -> _Proof | None:
    """The smallest sigma found, with the tau it belongs to; None when lambda itself is not feasible."""
    scaling = point.tau if point.tau.any() else np.ones_like(point.tau)
    gram = form_gram(form, point.multipliers, point.mu, scaling)
    if not np.isfinite(gram.charge).all() or not np.isfinite(gram.matrix).all():
        return None
    weights = point.multipliers[form.w_block]
    schur = _schur(gram, weights)
    if schur is None:
        return None
    best: _Proof | None = None
    for tau in _taus(point.tau, schur, gram.exponents[len(weights) :], exponents):
        guess = _least_sigma(schur, tau, gram.exponents[len(weights) :])
        size = guess * multiplier_norm_upper(tau, exponents.tau)
        if math.isfinite(size) and guess > 0 and (best is None or size < _size(best, exponents)):
            best = _Proof(guess, tau, guess)
    return None if best is None else _verified(gram, weights, best)


def _size(proof: _Proof, exponents: Exponents) -> float:
    return proof.sigma * multiplier_norm_upper(proof.tau, exponents.tau)


def _taus(tau: Floats, schur: Floats, scale: Ints, exponents: Exponents) -> Iterator[Floats]:
    """Candidates for tau. A solver's tau is right up to an absolute error, so small entries get a floor."""
    if exponents.p == 2:
        yield np.ones(len(schur))
        return
    if tau.any():
        for floor in _FLOORS:
            yield tau + floor * float(tau.mean())
    # Row sums of |Q| dominate Q, whatever Q is.
    sums = np.ldexp(np.abs(schur) @ np.ldexp(1.0, -scale), -scale)
    yield np.maximum(sums, max(float(sums.max(initial=0.0)) * 1e-12, _SMALLEST))


def _schur(gram: Gram, weights: Floats) -> Floats | None:
    """Q = G_xx + G_xw (Lambda - G_ww)^-1 G_wx in the scaled columns, all charges included; None if not feasible."""
    cut, matrix = len(weights), gram.matrix
    diagonal = np.ldexp(weights, 2 * gram.exponents[:cut])
    shift = shift_needed(len(matrix), 2.0 * len(matrix))
    result: Floats = matrix[cut:, cut:].copy()
    result[np.diag_indices_from(result)] += gram.charge[cut:] + shift
    if cut == 0:
        return result
    inner = -matrix[:cut, :cut]
    np.fill_diagonal(inner, diagonal - np.diagonal(matrix)[:cut] - gram.charge[:cut] - shift)
    lower = factor(np.ascontiguousarray(inner))
    if lower is None:
        return None
    half = solve_lower(lower, matrix[cut:, :cut].T)
    result += half.T @ half
    return result if np.isfinite(result).all() else None


def _least_sigma(schur: Floats, tau: Floats, scale: Ints) -> float:
    """The largest eigenvalue of Q relative to diag(tau), by guess; scale are the exponents of the columns of Q."""
    root = np.ldexp(1 / np.sqrt(tau), -scale)
    return largest_eigenvalue(root[:, None] * schur * root)


def _verified(gram: Gram, weights: Floats, proof: _Proof) -> _Proof | None:
    """Widen sigma until the whole matrix is proved positive semidefinite."""
    cut = len(weights)
    # Bring the diagonal of the input part close to 1, which decides what Cholesky costs.
    now = np.ldexp(proof.sigma * proof.tau, 2 * gram.exponents[cut:])
    change = np.concatenate([np.zeros(cut, dtype=np.int64), halving_exponents(now)])
    gram = gram.rescaled(change)
    step = _FIRST
    for _ in range(_WIDENINGS):
        sigma = proof.sigma * (1 + step)
        left = np.concatenate([weights, np.asarray(_rounded_down(sigma * proof.tau))])
        if gram.dominated_by(np.ldexp(left, 2 * gram.exponents)):
            return proof._replace(sigma=sigma)
        step *= 4
    return None


def _rounded_down(values: Floats) -> Floats:
    """Below the real product that each entry rounds."""
    result: Floats = values * (1 - 4 * UNIT)
    return result
