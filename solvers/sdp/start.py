"""Strictly feasible starts for any cone problem.

Blocks are eliminated from the output inwards: with the cost of everything behind depth l collected in a matrix A over
(w of smaller depth, w_l, x), any Lambda_l > A_ll is feasible; the block of w_l is then maximised out. That never fails
for a network without loops. For an implicit one the scaling comes from a convex search first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from verinet.solvers.sdp.cone import ConeProblem, Floats, Ints, Point, multiplier_norms, slack_matrix
from verinet.solvers.sdp.layered import positive_factor
from verinet.solvers.sdp.program import compress

from verinet.errors import InternalError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

FACTOR = 2.0  # of Lambda_l over the least feasible one: optimal for ReLU, and deep inside the cone for all
SLACK = 1.0  # of rho over the least feasible one: a start close to the boundary costs the interior point more steps
DEPTH = 1e-9  # of the scaled slack: less does not count as strictly feasible
ROUNDS = 300


def feasible_start(problem: ConeProblem) -> Point:
    """A strictly feasible point of (1) or (2), checked by Cholesky.

    Raises UsageError when an implicit problem has none that the search finds.
    """
    return complete(problem, _multipliers(problem))


def start_multipliers(problem: ConeProblem) -> tuple[Floats, float]:
    """Multipliers of (1) with a strictly feasible rho, whatever the norms."""
    multipliers = _multipliers(problem)
    rho = least_rho(problem, multipliers)
    if rho is None:
        raise InternalError("the start multipliers are infeasible in float64", hint="report this network")
    return multipliers, max(rho, 1e-200) * (1 + SLACK)


def _multipliers(problem: ConeProblem) -> Floats:
    return _implicit_multipliers(problem) if problem.implicit else _layered_multipliers(problem)


def inner_point(problem: ConeProblem, start: Point) -> Point:
    """`start` if it is strictly feasible, else the same multipliers with the rest of the point closed form.

    Raises UsageError when the multipliers prove nothing.
    """
    import torch  # noqa: PLC0415 - start-up time

    entries = np.concatenate([start.multipliers, start.mu, start.tau])
    if (entries > 0).all() and np.isfinite(entries).all():
        diagonal = np.concatenate([start.multipliers[problem.w_block], start.tau])
        if not problem.euclidean:
            diagonal = np.concatenate([start.mu, diagonal])
        scaling = 1 / np.sqrt(diagonal)
        slack = scaling[:, None] * slack_matrix(problem, start) * scaling
        if positive_factor(torch.from_numpy(slack - DEPTH * np.eye(len(slack)))) is not None:
            return start
    return complete(problem, start.multipliers)


def complete(problem: ConeProblem, multipliers: Floats, slack: float = SLACK) -> Point:
    """The point with these multipliers and everything else closed form: rho a factor 1 + slack above the least.

    Raises UsageError when no rho makes the multipliers feasible.
    """
    if multipliers.shape != (problem.blocks,):
        raise UsageError(f"expected one multiplier for each of {problem.blocks} blocks, got {multipliers.shape}")
    rho = least_rho(problem, multipliers)
    if rho is None:
        raise UsageError("these multipliers prove no bound, whatever rho", hint="leave the start out")
    rho = max(rho, 1e-200) * (1 + slack)
    if problem.euclidean:
        return Point(multipliers.copy(), np.ones(problem.outputs), np.full(problem.inputs, rho))
    # (1) at rho gives (2) with mu = tau = sqrt(rho) and Lambda / sqrt(rho): Schur complement of the corner. The
    # corner may then be traded against the rest by any factor, chosen to balance the two norms.
    root, (s, t) = math.sqrt(rho), multiplier_norms(problem)
    mu, tau = np.full(problem.outputs, root), np.full(problem.inputs, root)
    trade = math.sqrt(float(np.linalg.norm(tau, t)) / float(np.linalg.norm(mu, s)))
    return Point(multipliers / (root * trade), mu * trade, tau / trade)


def least_rho(problem: ConeProblem, multipliers: Floats) -> float | None:
    """The smallest rho of (1) for given multipliers, up to rounding; None where S_ww is not positive definite."""
    import torch  # noqa: PLC0415 - start-up time

    if not (multipliers > 0).all() or not np.isfinite(multipliers).all():
        return None
    m, my = problem.m, problem.my
    # Scaled to unit multipliers, as in `program`.
    root = np.sqrt(multipliers)
    inverse = np.concatenate([1 / root[problem.w_block], np.ones(problem.inputs)])
    stacked, _ = compress(np.vstack([root[problem.v_block, None] * m, my]) * inverse, problem.inputs)
    tensor, cut = torch.from_numpy(stacked), problem.channels
    gram = tensor.T @ tensor
    factor = positive_factor(torch.eye(cut, dtype=torch.float64) - gram[:cut, :cut])
    if factor is None:
        return None
    half = torch.linalg.solve_triangular(factor, gram[:cut, cut:], upper=False)
    rest = gram[cut:, cut:] + half.T @ half
    return float(torch.linalg.eigvalsh(rest)[-1]) if len(rest) else 0.0


def _layered_multipliers(problem: ConeProblem) -> Floats:
    """Depth by depth from the output; see the module."""
    import torch  # noqa: PLC0415 - start-up time

    multipliers = np.ones(problem.blocks)
    cut, depth_w = problem.channels, problem.depth[problem.w_block]
    keep = np.arange(problem.m.shape[1])
    rows, outputs = torch.from_numpy(problem.m), torch.from_numpy(problem.my)
    cost = outputs.T @ outputs
    for level in sorted(set(problem.depth.tolist()), reverse=True):
        now = np.flatnonzero(depth_w[keep[keep < cut]] == level)
        rest = np.setdiff1d(np.arange(len(keep)), now)
        mine = np.flatnonzero(problem.depth[problem.v_block] == level)
        members = np.flatnonzero(problem.depth == level)
        owners = [np.searchsorted(members, part) for part in (problem.w_block[keep[now]], problem.v_block[mine])]
        weight, cost = _eliminate(cost, (now, rest), rows[mine][:, keep[rest]], (owners[0], owners[1], len(members)))
        multipliers[members] = weight
        keep = keep[rest]
    return multipliers


def _eliminate(
    cost: Tensor, split: tuple[Ints, Ints], rows: Tensor, owners: tuple[Ints, Ints, int]
) -> tuple[Floats, Tensor]:
    """Multipliers of one depth, and the cost over the rest with this depth maximised out.

    Feasible is what is above the cost of w; more is better where w matters less than its coupling to what is before:
    |cross| / |rows| balances what is lost to either side. `owners`: blocks of the entries of w, of the rows, and how
    many there are.
    """
    import torch  # noqa: PLC0415 - start-up time

    now, rest = split
    own, cross = cost[now][:, now], cost[now][:, rest]
    floor = max(float(cost.abs().max()) * 1e-12, 1e-300) if cost.numel() else 1e-300
    sizes = np.zeros(owners[2])
    np.maximum.at(sizes, owners[0], np.maximum(own.diagonal().numpy(), 0.0))
    sizes = np.maximum(sizes, floor)
    root = torch.from_numpy(np.sqrt(sizes[owners[0]]))
    least = float(torch.linalg.eigvalsh(own / root[:, None] / root)[-1]) if len(own) else 0.0
    coupled = np.sqrt(np.bincount(owners[0], (cross**2).sum(1).numpy(), owners[2]))
    driven = np.sqrt(np.bincount(owners[1], (rows**2).sum(1).numpy(), owners[2]))
    balanced = coupled / np.where(driven > 0, driven, np.inf)
    weight = np.maximum(FACTOR * max(least, 1e-3) * sizes, balanced)
    diagonal = torch.from_numpy(weight[owners[0]])
    inner = cross.T @ torch.linalg.solve(torch.diag(diagonal) - own, cross)
    spread = rows.T @ (torch.from_numpy(weight[owners[1]])[:, None] * rows)
    return weight, cost[rest][:, rest] + inner + spread


def _implicit_multipliers(problem: ConeProblem) -> Floats:
    """Lambda with Lambda - c^T Lambda c > 0 by lowering the largest eigenvalue, then enlarged over the outputs."""
    c, cy = problem.m[:, : problem.channels], problem.my[:, : problem.channels]
    logs, step = np.zeros(problem.blocks), 0.5
    value, slope = _contraction(problem, c, logs)
    for _ in range(ROUNDS):
        if value < 0.9:
            break
        size = float(np.linalg.norm(slope))
        trial = logs - step * slope / max(size, 1e-300)
        new_value, new_slope = _contraction(problem, c, trial)
        if new_value < value:
            logs, value, slope, step = trial, new_value, new_slope, step * 1.5
        else:
            step *= 0.5
        if step < 1e-9:
            break
    if value >= 1:
        raise UsageError(
            "no multipliers with Lambda - c^T Lambda c > 0 were found, so this implicit network gets no such bound",
            hint="its loop gain is 1 or more in every diagonal scaling tried",
        )
    weights = np.exp(logs)
    scaled = cy / np.sqrt(weights[problem.w_block])
    least = float(np.linalg.norm(scaled, 2)) ** 2 / (1 - value)
    return weights * max(2 * least, 1e-300)


def _contraction(problem: ConeProblem, c: Floats, logs: Floats) -> tuple[float, Floats]:
    """Smoothed largest eigenvalue of Lambda^-1/2 c^T Lambda c Lambda^-1/2 (never below it), and its gradient."""
    weights = np.exp(0.5 * logs)
    scaled = weights[problem.v_block, None] * c / weights[problem.w_block]
    left, sizes, right = np.linalg.svd(scaled, full_matrices=False)
    power = 40.0
    ratios = (sizes / sizes[0]) ** (2 * power) if sizes[0] > 0 else np.ones_like(sizes)
    value = float(sizes[0] ** 2 * ratios.sum() ** (1 / power))
    shares = ratios / ratios.sum()
    rising = np.bincount(problem.v_block, (left**2) @ shares, problem.blocks)
    falling = np.bincount(problem.w_block, (right**2).T @ shares, problem.blocks)
    slope: Floats = value * np.asarray(rising - falling, dtype=np.float64)
    return value, slope
