"""A bound proved layer by layer, backwards, without the matrix over all neurons.

Let P bound everything behind an activation: sum y_i^2 / mu_i + (multiplier terms of later layers) <= dphi^T P dphi.
With dphi = p dv + r w and ||w_g|| <= ||(q dv)_g||, any Z with

    [[Z, 0], [0, Lambda]] - [p r]^T P [p r] - [q 0]^T Lambda [q 0]  >= 0

gives a bound dv^T Z dv in front of it, and W^T Z W behind the activation before. Z is computed as the Schur complement,
raised a little, and proved by Cholesky. Every product is charged on its diagonal, so that each computed matrix lies
above the true one; a larger P only makes the rest harder. At the input, sigma diag(tau) >= P is proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from verinet.solvers.lipschitz.certify import Certified, positive
from verinet.solvers.lipschitz.exponents import Exponents, Norm, exponents_of, multiplier_norm_upper
from verinet.solvers.lipschitz.form import Activation, Chain, Ints, Matrix
from verinet.solvers.lipschitz.gram import halving_exponents
from verinet.solvers.sdp.cone import Point

from verinet.errors import CertificationError, UsageError
from verinet.numerics.cholesky import (
    UNIT,
    Floats,
    factor,
    gamma,
    largest_eigenvalue,
    rounded_up,
    shift_needed,
    solve_lower,
    verify_psd,
)

_UNDERFLOW = 1e-140
_FIRST, _WIDENINGS = 1e-13, 24
_REPAIR = 1.1
_SHORT = 2.0**-30
"""Entries of p, q, r that are multiples of this and small are taken as exact; others as rounded by `_ROUNDED`."""
_ROUNDED = 16 * UNIT


def certify_chain(chain: Chain, multipliers: Floats | Point, *, norm: Norm = 2.0) -> Certified:
    """The bound that multipliers prove for a chain, with matrices no larger than two layers.

    `multipliers` are lambda per block, layer after layer as in `Form`, or a `Point` with mu and tau for norms other
    than 2 (a tau of zeros stands for unknown). Multipliers too small for their layer (NaN and negative ones too) are
    raised until they prove something, so nearly any numbers give a valid bound. Raises UsageError for a wrong count,
    CertificationError when nothing is proved in the range of float64.
    """
    outputs, inputs = chain.weights[-1].value.shape[0], chain.weights[0].value.shape[1]
    exponents = exponents_of(norm, outputs)
    point = _complete(multipliers, exponents, (outputs, inputs))
    layers = _split(chain, positive(point.multipliers))
    used: list[Floats] = []
    with np.errstate(all="ignore"):
        matrix = congruence(chain.weights[-1], np.diag(np.nextafter(1 / point.mu, math.inf)))
        for weight, activation, given in reversed(list(zip(chain.weights, chain.activations, layers, strict=False))):
            matrix, given = _through(activation, given, matrix)
            used.append(given)
            matrix = congruence(weight, matrix)
        sigma, tau = _input_bound(matrix, point.tau, exponents)
    square = rounded_up(rounded_up(multiplier_norm_upper(point.mu, exponents.mu) * sigma))
    upper = math.nextafter(math.sqrt(rounded_up(square * multiplier_norm_upper(tau, exponents.tau))), math.inf)
    if not math.isfinite(upper):
        raise _failure(chain.activations[0].label if chain.activations else "")
    final = np.concatenate(used[::-1]) if used else np.zeros(0)
    return Certified(upper, final, point.mu, tau * sigma, 0.0, "layer by layer, verified Cholesky")


def _failure(label: str) -> CertificationError:
    return CertificationError(
        "the multipliers of this layer prove no Lipschitz bound in float64",
        where=label,
        hint="rescale the network, or take the norm product",
    )


def _complete(given: Floats | Point, exponents: Exponents, sizes: tuple[int, int]) -> Point:
    if exponents.euclidean:
        values = given.multipliers if isinstance(given, Point) else np.asarray(given, dtype=np.float64)
        return Point(values, np.ones(sizes[0]), np.ones(sizes[1]))
    if not isinstance(given, Point):
        raise UsageError("norms other than 2 need multipliers mu and tau as well", hint="pass a Point")
    if given.mu.shape != sizes[:1] or given.tau.shape != sizes[1:]:
        raise UsageError(
            f"mu {given.mu.shape} and tau {given.tau.shape} do not fit {sizes[0]} outputs, {sizes[1]} inputs"
        )
    tau = positive(given.tau) if given.tau.any() else given.tau
    return Point(given.multipliers, positive(given.mu), tau)


def _split(chain: Chain, multipliers: Floats) -> list[Floats]:
    """One array per activation."""
    counts = [blocks_of(activation) for activation in chain.activations]
    if multipliers.shape != (sum(counts),):
        raise UsageError(f"{multipliers.shape} multipliers do not fit {sum(counts)} blocks", hint="one number for each")
    return np.split(multipliers, np.cumsum(counts)[:-1]) if counts else []


def blocks_of(activation: Activation) -> int:
    """Number of blocks of one layer."""
    return int(max(activation.v_block.max(initial=-1), activation.w_block.max(initial=-1))) + 1


def congruence(weight: Matrix, middle: Floats) -> Floats:
    """A symmetric matrix above W^T Z W for the true W; `middle` is Z, exact and positive semidefinite.

    With |W - true| <= R the error is at most B = gamma |W|^T |Z| |W| + R^T |Z| (|W| + R) + |W|^T |Z| R, and
    B <= diag(B x / x) for any x > 0 (Gershgorin); x_j = 1 / sqrt(P_jj) fits columns of different sizes.
    """
    value: Any = weight.value
    product = value.T @ (middle @ value)
    result: Floats = np.ascontiguousarray(0.5 * (product + product.T))
    diagonal = np.diagonal(result).copy()
    floor = max(float(diagonal.max(initial=0.0)) * 1e-12, 1e-200)
    x = 1 / np.sqrt(np.maximum(diagonal, floor))
    size, terms = abs(value), 2 * value.shape[0] + 12
    own = size @ x
    error = own * 0 if weight.radius is None else weight.radius @ x
    inner, outer = np.abs(middle) @ own, np.abs(middle) @ error
    total = gamma(terms) * (size.T @ inner) + size.T @ outer
    if weight.radius is not None:
        total += weight.radius.T @ (inner + outer)
    slack = 1 + 4 * gamma(sum(value.shape) + terms)
    charge = (total / x) * slack + 1e-250 * (1 + float(own.max(initial=0.0)))
    # Adding the charge is rounded, too.
    result[np.diag_indices_from(result)] += charge + 4 * UNIT * (np.abs(diagonal) + charge)
    return result


def as_matrix(value: Any) -> Matrix:
    """p, q or r of an activation with what its entries may be off. Dense stays dense, sparse stays sparse."""
    if isinstance(value, Matrix):
        return value
    sparse = hasattr(value, "nnz")
    entries = np.abs(value.data if sparse else np.asarray(value))
    scaled = entries / _SHORT
    if bool(np.all((scaled == np.rint(scaled)) & (scaled < 2.0**52))):
        return Matrix(value)
    radius: Any = abs(value)
    if sparse:
        radius.data[:] = _ROUNDED * entries.max()
    else:
        radius = np.where(radius > 0, _ROUNDED * entries.max(), 0.0)
    return Matrix(value, radius)


def _stacked(left: Matrix, right: Matrix) -> Matrix:
    """[left right]."""
    if hasattr(left.value, "nnz") or hasattr(right.value, "nnz"):
        from scipy import sparse  # noqa: PLC0415 - optional, and costs start-up time

        join: Callable[[list[Any]], Any] = lambda parts: sparse.hstack(parts, format="csr")  # noqa: E731
    else:
        join = np.hstack
    radius = None
    if left.radius is not None or right.radius is not None:
        radius = join([abs(m.value) * 0 if m.radius is None else m.radius for m in (left, right)])
    return Matrix(join([left.value, right.value]), radius)


def _through(activation: Activation, given: Floats, matrix: Floats) -> tuple[Floats, Floats]:
    """Z in front of an activation for P = `matrix` behind it, and the multipliers used."""
    p, r, q = (as_matrix(part) for part in (activation.p, activation.r, activation.q))
    behind = congruence(_stacked(p, r), matrix)
    cut = p.value.shape[1]
    inner = behind[cut:, cut:]
    multipliers = _raised(inner, given, activation.w_block)
    behind[:cut, :cut] += congruence(q, np.diag(multipliers[activation.v_block]))
    # The sum of the two parts is rounded once per entry.
    size = np.abs(behind[:cut, :cut])
    x = 1 / np.sqrt(np.maximum(np.diagonal(size), max(float(size.max(initial=0.0)) * 1e-12, 1e-200)))
    behind[np.arange(cut), np.arange(cut)] += 4 * UNIT * (size @ x) / x
    storage = _storage(behind, multipliers[activation.w_block], cut)
    if storage is None:
        raise _failure(activation.label)
    return storage, multipliers


def _raised(inner: Floats, given: Floats, block: Ints) -> Floats:
    """The multipliers, multiplied until Lambda - r^T P r is clearly positive definite."""
    multipliers = given
    for _ in range(3):
        weights = multipliers[block]
        root = 1 / np.sqrt(weights)
        ratio = largest_eigenvalue(root[:, None] * inner * root)
        if ratio <= 1 - 4 * shift_needed(len(weights), 2.0 * len(weights)):
            return multipliers
        if math.isfinite(ratio) and ratio < 1e6:
            multipliers = multipliers * (ratio * _REPAIR)
        else:
            sums = np.abs(inner).sum(1) * 2
            least = np.zeros(len(given))
            np.maximum.at(least, block, sums)
            multipliers = positive(np.maximum(least, float(least.max(initial=0.0)) * 1e-12))
    return multipliers


def _storage(behind: Floats, weights: Floats, cut: int) -> Floats | None:
    """Z with blkdiag(Z, Lambda) >= `behind`, proved; None when that fails."""
    size = len(behind)
    shift = shift_needed(size, 2.0 * size)
    right = halving_exponents(weights)
    scale = np.ldexp(1.0, right)
    inner = -(scale[:, None] * behind[cut:, cut:] * scale)
    inner[np.diag_indices_from(inner)] += weights * scale * scale - shift
    lower = factor(np.ascontiguousarray(inner))
    if lower is None:
        return None
    half = solve_lower(lower, scale[:, None] * behind[cut:, :cut])
    schur = behind[:cut, :cut] + half.T @ half
    schur = 0.5 * (schur + schur.T)
    diagonal = np.diagonal(schur)
    if not np.isfinite(diagonal).all():
        return None
    raised = np.maximum(diagonal, max(float(diagonal.max(initial=0.0)) * 1e-12, 1e-200))
    exponents = np.concatenate([halving_exponents(raised), right])
    step = max(_FIRST, shift)
    for _ in range(_WIDENINGS):
        candidate = schur.copy()
        candidate[np.diag_indices_from(candidate)] += step * raised
        if covers(candidate, weights, behind, exponents):
            return candidate
        step *= 4
    return None


def covers(storage: Floats, weights: Floats, behind: Floats, exponents: Ints) -> bool:
    """blkdiag(storage, weights) - behind is proved positive semidefinite."""
    cut = len(storage)
    work = -behind
    work[:cut, :cut] += storage
    inner = np.arange(cut, len(work))
    work[inner, inner] += weights
    scale = np.ldexp(1.0, exponents)
    work *= scale[:, None] * scale
    # Each entry of the difference was rounded once, and scaling by powers of two is exact.
    lost = 2 * UNIT * np.abs(work).sum(1) * (1 + gamma(len(work)))
    work[np.diag_indices_from(work)] -= lost * (1 + 8 * UNIT) + _UNDERFLOW
    work[np.diag_indices_from(work)] -= 2 * UNIT * np.abs(np.diagonal(work))
    return verify_psd(work, overwrite=True)


def _input_bound(matrix: Floats, tau: Floats, exponents: Exponents) -> tuple[float, Floats]:
    """(sigma, tau) with sigma diag(tau) >= `matrix`, proved. sigma is infinite when nothing could be shown."""
    if not np.isfinite(matrix).all():
        return math.inf, tau
    if not tau.any():
        # Unknown: row sums of |P| dominate P.
        tau = positive(np.abs(matrix).sum(1))
    elif exponents.p != 2:
        tau = tau + 1e-9 * float(tau.mean())
    top = float(np.diagonal(matrix).max(initial=0.0))
    common = int(halving_exponents(np.array([top]))[0])
    shape = halving_exponents(tau)
    scale = np.ldexp(1.0, shape + common)
    scaled = matrix * scale[:, None] * scale
    ones = np.ldexp(tau, 2 * shape)
    root = 1 / np.sqrt(ones)
    guess, step = largest_eigenvalue(root[:, None] * scaled * root), _FIRST
    for _ in range(_WIDENINGS):
        sigma = guess * (1 + step)
        work = -scaled
        left = sigma * ones * (1 - 4 * UNIT)
        exact = left - np.diagonal(scaled)
        work[np.diag_indices_from(work)] = exact - 4 * UNIT * (np.abs(exact) + left)
        if math.isfinite(sigma) and verify_psd(work, overwrite=True):
            return math.ldexp(sigma, -2 * common), tau
        step *= 4
    return math.inf, tau
