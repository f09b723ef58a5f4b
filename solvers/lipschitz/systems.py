"""Networks as the papers' matrix inequalities see them: pre- and post-activations as linear maps of one vector z.

z = (x_0, post-activations or other free signals of every layer). A layer contributes the pair (V, Phi): dv = V z and
dphi = Phi z. Feed-forward, residual and implicit networks differ only in these matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Ints, Matrix

from verinet.errors import UsageError


@dataclass(frozen=True)
class SystemLayer:
    """dv = v z and dphi = phi z, both (rows, size of z). `size` is the typical |dv| for |dx| = 1, for scaling."""

    v: Floats
    phi: Floats
    activation: Activation
    size: float


@dataclass(frozen=True)
class System:
    """`inputs`: the first entries of z. `output` (outputs, size of z); `gain` is the typical |dy| for |dx| = 1."""

    inputs: int
    layers: tuple[SystemLayer, ...]
    output: Floats
    gain: float


@dataclass(frozen=True)
class ResidualBlock:
    """x -> x + outer phi(inner x), with matrices inner (k, n) and outer (n, k')."""

    inner: Floats
    activation: Activation
    outer: Floats


@dataclass(frozen=True)
class Group:
    """One block of an activation seen as the paper sees it: a group of neurons with a preserved part.

    `before` and `after` are the positions in dv and dphi; `kept_before`, `kept_after` the projections on the preserved
    directions, and `link` maps the former onto the latter: kept_after dphi = link dv. `scale` = ||q dv||^2 / (the
    part of ||dv||^2 that is not preserved): lambda of the paper is `scale` times lambda of the form.
    """

    before: Ints
    after: Ints
    kept_before: Floats
    kept_after: Floats
    link: Floats
    scale: float


def dense(values: object) -> Floats:
    """A dense float64 matrix from a dense, sparse or radius-carrying one."""
    if isinstance(values, Matrix):
        return dense(values.value)
    to_array: Callable[[], Floats] | None = getattr(values, "toarray", None)
    return np.asarray(values if to_array is None else to_array(), dtype=np.float64)


def norm_of(matrix: Floats) -> float:
    """The 2-norm by SVD, never zero: for scaling only."""
    return max(float(np.linalg.norm(matrix, 2)), 1e-150)


def feed_forward(chain: Chain) -> System:
    """z = (x_0, x_1, .., x_{L-1}), the post-activations: v_l = W_l x_{l-1}."""
    weights = [dense(w.value) for w in chain.weights]
    if not weights or len(weights) != len(chain.activations) + 1:
        raise UsageError("a chain has one weight more than activations")
    widths = [weights[0].shape[1]] + [dense(a.p).shape[0] for a in chain.activations]
    ends = np.cumsum(widths)
    select = np.eye(ends[-1])
    parts = [select[end - width : end] for end, width in zip(ends, widths, strict=True)]
    size, layers = 1.0, []
    for weight, activation, source, target in zip(weights, chain.activations, parts, parts[1:], strict=False):
        size *= norm_of(weight)
        layers.append(SystemLayer(weight @ source, target, activation, size))
    return System(widths[0], tuple(layers), weights[-1] @ parts[-1], size * norm_of(weights[-1]))


def residual(blocks: Sequence[ResidualBlock], before: Floats | None = None, after: Floats | None = None) -> System:
    """y = after(x + ...): residual blocks between two linear maps; z = (x_0, post-activations)."""
    inputs = before.shape[1] if before is not None else blocks[0].inner.shape[1]
    widths = [inputs] + [dense(block.activation.p).shape[0] for block in blocks]
    ends = np.cumsum(widths)
    select = np.eye(ends[-1])
    state = select[:inputs] if before is None else before @ select[:inputs]
    size, layers = (1.0 if before is None else norm_of(before)), []
    for block, end, width in zip(blocks, ends[1:], widths[1:], strict=True):
        target = select[end - width : end]
        inner, outer = norm_of(block.inner), norm_of(block.outer)
        layers.append(SystemLayer(block.inner @ state, target, block.activation, size * inner))
        state = state + block.outer @ target
        size *= 1 + inner * outer
    output = state if after is None else after @ state
    return System(inputs, tuple(layers), output, size * (1.0 if after is None else norm_of(after)))


def implicit(loop: Floats, into: Floats, out: Floats, activation: Activation) -> System:
    """z = phi(loop z + into x), y = out z. Holds for any pair of solutions; that there is one is another question."""
    inputs, states = into.shape[1], loop.shape[0]
    v = np.hstack([into, loop])
    phi = np.hstack([np.zeros((states, inputs)), np.eye(states)])
    size = norm_of(into) / max(1 - norm_of(loop), 0.1)
    output = np.hstack([np.zeros((out.shape[0], inputs)), out])
    return System(inputs, (SystemLayer(v, phi, activation, size),), output, size * norm_of(out))


def maxmin_as_relu(chain: Chain, relu: Callable[[int], Activation]) -> System:
    """MaxMin layers written as [min, max] = H x + G relu(B x): two rectifiers per pair, as in the paper's comparison.

    relu(b - a) and relu(a - b) look independent to slope constraints, which is why this loses a factor. `relu` makes
    the activation of so many rectifiers. Raises UsageError for activations that are no MaxMin of pairs.
    """
    weights = [dense(w.value) for w in chain.weights]
    patterns = [_pair_matrices(activation) for activation in chain.activations]
    widths = [weights[0].shape[1]] + [len(b) for _, _, b in patterns]
    ends = np.cumsum(widths)
    select = np.eye(ends[-1])
    state, size, layers = select[: widths[0]], 1.0, []
    for weight, (skip, after, into), end, width in zip(weights, patterns, ends[1:], widths[1:], strict=False):
        target = select[end - width : end]
        size *= norm_of(weight)
        v = weight @ state
        layers.append(SystemLayer(into @ v, target, relu(width), size))
        state = skip @ v + after @ target
    return System(widths[0], tuple(layers), weights[-1] @ state, size * norm_of(weights[-1]))


def _pair_matrices(activation: Activation) -> tuple[Floats, Floats, Floats]:
    """(H, G, B) of [min, max] = H x + G relu(B x) in the chain's own order of outputs."""
    groups = groups_of(activation)
    p = dense(activation.p)
    skip, after = np.zeros_like(p), np.zeros((p.shape[0], 2 * len(groups)))
    into = np.zeros((2 * len(groups), p.shape[1]))
    for g, group in enumerate(groups):
        if len(group.before) != 2 or not np.allclose(group.kept_before, 0.5):
            raise UsageError("only MaxMin of pairs can be rewritten with rectifiers", where=activation.label)
        (a, b), (low, high) = group.before, group.after
        into[2 * g, [a, b]], into[2 * g + 1, [a, b]] = (-1.0, 1.0), (1.0, -1.0)
        skip[low, b] = skip[high, b] = 1.0
        after[low, 2 * g], after[high, 2 * g + 1] = -1.0, 1.0
    return skip, after, into


def groups_of(activation: Activation) -> list[Group]:
    """The groups of a GroupSort, MaxMin or Householder layer, from its matrices.

    Raises UsageError for a layer that is none: some neuron in no group, or a group that may expand distances.
    """
    p, r, q = dense(activation.p), dense(activation.r), dense(activation.q)
    count = int(activation.v_block.max(initial=-1)) + 1
    groups = [_group(p, r[:, activation.w_block == g], q[activation.v_block == g], activation) for g in range(count)]
    covered = np.concatenate([g.before for g in groups]) if groups else np.zeros(0)
    if sorted(covered.tolist()) != list(range(p.shape[1])):
        raise _no_group(activation)
    return groups


def _group(p: Floats, r: Floats, q: Floats, activation: Activation) -> Group:
    before, after = np.flatnonzero(q.any(0)), np.flatnonzero(r.any(1))
    if len(before) == 0 or len(before) != len(after):
        raise _no_group(activation)
    own, link = q[:, before], p[np.ix_(after, before)]
    scale = float(np.trace(own @ own.T)) / len(own)
    moved_before, moved_after = own.T @ own / scale, r[after] @ r[after].T * scale
    kept_before, kept_after = np.eye(len(before)) - moved_before, np.eye(len(before)) - moved_after
    fits = (
        np.allclose(moved_before @ moved_before, moved_before, atol=1e-9)
        and np.allclose(moved_after @ moved_after, moved_after, atol=1e-9)
        and np.allclose(link.T @ link, kept_before, atol=1e-9)
        and np.allclose(link @ link.T, kept_after, atol=1e-9)
    )
    if not fits:
        raise _no_group(activation)
    return Group(before, after, kept_before, kept_after, link, scale)


def _no_group(activation: Activation) -> UsageError:
    return UsageError(
        "this layer is no GroupSort, MaxMin or Householder activation over all of its neurons",
        where=activation.label,
        hint="use lipsdp for slope-restricted activations, or the unified program",
    )
