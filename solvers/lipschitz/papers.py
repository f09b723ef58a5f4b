"""The papers' own matrix inequalities, through CVXPY: to reproduce them, and to check our unified program against them.

* LipSDP-Neuron and LipSDP-Layer: Fazlyab et al. 2019, "Efficient and accurate estimation of Lipschitz constants for
  deep neural networks". Multipliers are diagonal. That paper's third variant (coupling pairs of neurons) is invalid for
  increments (Pauli et al. 2021, "Training robust neural networks using Lipschitz bounds") and is not offered.
* GroupSort, MaxMin and Householder: Pauli et al. 2024, "Novel quadratic constraints for extending LipSDP beyond
  slope-restricted activations", lemmas 1-2 and theorems 1-4: per group T = lambda I + gamma Z, S = nu Z, P = tau Z and

      [dv; dphi]^T [[T - 2S, P + S], [P + S, -T - 2P]] [dv; dphi]  >= 0,

  with lambda >= 0 and the others free (Z projects on what the group preserves).

Values are the solver's. `multipliers` are converted to the blocks of `Form` and `Chain`, so that `certify` turns them
into a proved bound, which is never above the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from verinet.solvers.lipschitz.cone import cone_problem
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Form
from verinet.solvers.lipschitz.systems import Group, System, SystemLayer, dense, groups_of, norm_of
from verinet.solvers.sdp.cone import Point, SdpResult
from verinet.solvers.sdp.cvxpy_backend import MatrixInequality, Program, Solution, solve, solve_cone

from verinet.errors import UsageError

FAMILIES = ("T", "TS", "TP", "TSP")


@dataclass(frozen=True)
class PaperBound:
    """A paper's bound as the solver returned it: no proof.

    `point` holds lambda per block of the form, layer after layer, with mu and tau of program (2) for the l_inf norm.
    `parameters` holds the paper's own multipliers by name: lambda, gamma, nu, tau.
    """

    value: float
    point: Point
    status: str
    seconds: float
    parameters: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def multipliers(self) -> Floats:
        return self.point.multipliers


def solve_form(form: Form, *, solver: str = "clarabel", norm: Norm = 2.0) -> SdpResult:
    """The unified program of `certify` through CVXPY: the reference for our own solver. Unverified."""
    return solve_cone(cone_problem(form, norm), solver)


def lipsdp(system: System, *, variant: str = "neuron", norm: float = 2.0, solver: str = "clarabel") -> PaperBound:
    """LipSDP with one multiplier per neuron or per layer; for l_inf the program for one output.

    Needs elementwise activations with slopes. Raises UsageError otherwise, or for an unknown variant.
    """
    if variant not in ("neuron", "layer"):
        raise UsageError(f"no LipSDP variant '{variant}'", hint="neuron or layer; the variant 'network' is not valid")
    build = _Builder(system, norm)
    numbers: list[list[int]] = []
    for layer in system.layers:
        low, high = _slopes(layer.activation)
        first, second = layer.phi - low[:, None] * layer.v, high[:, None] * layer.v - layer.phi
        shared = build.variable(1 / layer.size**2, signed=True) if variant == "layer" else -1
        own = []
        for a, b in zip(first, second, strict=True):
            number = shared if variant == "layer" else build.variable(1 / layer.size**2, signed=True)
            build.add(number, np.outer(a, b) + np.outer(b, a))
            own.append(number)
        numbers.append(own)
    found = build.solve(solver)
    values = [build.values(found, own) for own in numbers]
    # 2 lambda (dphi - low dv)(high dv - dphi) = 2 lambda r^2 (v^2 - w^2) with r half the width of the sector.
    multipliers = [
        _per_block(layer.activation, 0.5 * value * (high - low) ** 2)
        for layer, value in zip(system.layers, values, strict=True)
        for low, high in [_slopes(layer.activation)]
    ]
    return build.bound(found, np.concatenate(multipliers), {"lambda": np.concatenate(values)})


def _slopes(activation: Activation) -> tuple[Floats, Floats]:
    if activation.slopes is None:
        raise UsageError("LipSDP needs elementwise activations", where=activation.label, hint="use group_bound")
    return activation.slopes


def _per_block(activation: Activation, per_neuron: Floats) -> Floats:
    """Multipliers of the blocks that the neurons became; neurons of fixed slope have none."""
    neurons = np.abs(dense(activation.q)).argmax(1)
    result = np.zeros(int(activation.v_block.max(initial=-1)) + 1)
    result[activation.v_block] = per_neuron[neurons] / np.abs(dense(activation.q)).max(1) ** 2
    return result


def group_bound(system: System, *, families: str = "TSP", norm: float = 2.0, solver: str = "clarabel") -> PaperBound:
    """Theorems 1-4 with the multipliers named: T, TS, TP or TSP. Full TSP has its optimum at infinity.

    Needs GroupSort, MaxMin or Householder activations in every layer. Raises UsageError otherwise.
    """
    if families not in FAMILIES:
        raise UsageError(f"no multiplier families '{families}'", hint=f"one of {', '.join(FAMILIES)}")
    build = _Builder(system, norm)
    numbers: dict[str, list[int]] = {"lambda": [], "gamma": [], "nu": [], "tau": []}
    scales: list[float] = []
    for layer in system.layers:
        for group in groups_of(layer.activation):
            scales.append(group.scale)
            for name, matrix in _group_matrices(layer, group).items():
                if {"nu": "S", "tau": "P"}.get(name, "T") in families:
                    number = build.variable(1 / layer.size**2, signed=name == "lambda")
                    build.add(number, matrix)
                    numbers[name].append(number)
    found = build.solve(solver)
    values = {name: build.values(found, own) for name, own in numbers.items()}
    return build.bound(found, values["lambda"] / np.asarray(scales), values)


def _group_matrices(layer: SystemLayer, group: Group) -> dict[str, Floats]:
    """The quadratic forms in z that lambda, gamma, nu and tau of one group multiply."""
    v, phi = layer.v[group.before], layer.phi[group.after]
    kept_v, kept_phi = v.T @ group.kept_before @ v, phi.T @ group.kept_after @ phi
    crossed = v.T @ group.link.T @ phi
    crossed = crossed + crossed.T
    return {
        "lambda": v.T @ v - phi.T @ phi,
        "gamma": kept_v - kept_phi,
        "nu": crossed - 2 * kept_v,
        "tau": crossed - 2 * kept_phi,
    }


class _Builder:
    """One matrix inequality over z, scaled: z_l by the typical size of layer l, multipliers by 1 / size^2.

    l2: rho E_0 - Y^T Y - sum terms >= 0. l_inf with one output: [[2 rho - sum tau, -Y], [-Y^T, tau E_0 - sum terms]].
    """

    def __init__(self, system: System, norm: float) -> None:
        if norm not in (2, math.inf) or (norm != 2 and len(system.output) != 1):
            raise UsageError(
                "the papers have l2, and l_inf for one output", hint="norm 2 or infinity; select an output"
            )
        self.system, self.norm = system, norm
        self.shift = 0 if norm == 2 else 1
        self.unit = system.gain**2 if norm == 2 else system.gain * math.sqrt(system.inputs)
        size = system.output.shape[1]
        self.inequality = MatrixInequality(self.shift + size)
        self.widths = np.ones(size)
        for layer in system.layers:
            self.widths[layer.phi.any(0)] = layer.size
        self.units: list[float] = []
        self.signed: list[int] = []
        self.rho = self.variable(1.0, signed=True)
        self.taus = [] if norm == 2 else [self.variable(1.0 / system.inputs, signed=True) for _ in range(system.inputs)]
        self._objective()

    def variable(self, unit: float, *, signed: bool) -> int:
        """A new variable, whose solver value is its true value / (unit * self.unit)."""
        if signed:
            self.signed.append(len(self.units))
        self.units.append(unit)
        return len(self.units) - 1

    def add(self, variable: int, matrix: Floats) -> None:
        """Subtract variable times the quadratic form `matrix` in z."""
        scaled = matrix * self.widths[:, None] * self.widths
        self.inequality.add(variable, -scaled * self.units[variable], np.arange(len(matrix)) + self.shift)

    def _objective(self) -> None:
        inputs, output = self.system.inputs, self.system.output * self.widths
        if self.norm == 2:
            self.inequality.add(self.rho, np.eye(inputs), np.arange(inputs))
            self.inequality.constant -= output.T @ output / self.unit
            return
        corner = np.array([0])
        self.inequality.add(self.rho, np.full((1, 1), 2.0), corner)
        for j, number in enumerate(self.taus):
            self.inequality.add(number, np.full((1, 1), -self.units[number]), corner)
            self.inequality.add(number, np.full((1, 1), self.units[number]), np.array([1 + j]))
        self.inequality.constant[0, 1:] = self.inequality.constant[1:, 0] = -output[0] / self.unit

    def solve(self, solver: str) -> Solution:
        cost = np.zeros(len(self.units))
        cost[self.rho] = 1.0
        return solve(Program(cost, np.asarray(self.signed), [self.inequality]), solver)

    def values(self, found: Solution, numbers: Sequence[int]) -> Floats:
        """True values of some variables."""
        index = np.asarray(numbers, dtype=np.int64)
        result: Floats = found.x[index] * np.asarray(self.units)[index] * self.unit
        return result

    def bound(self, found: Solution, multipliers: Floats, parameters: Mapping[str, Floats]) -> PaperBound:
        rho = float(found.x[self.rho]) * self.unit
        if self.norm == 2:
            point = Point(multipliers, np.ones(len(self.system.output)), np.full(self.system.inputs, rho))
            return PaperBound(math.sqrt(max(rho, 0.0)), point, found.status, found.seconds, parameters)
        tau = self.values(found, self.taus)
        point = Point(multipliers, np.array([2 * rho - tau.sum()]), tau)
        return PaperBound(rho, point, found.status, found.seconds, {**parameters, "input": tau})


def group_chain(chain: Chain, *, norm: float = 2.0, solver: str = "clarabel") -> PaperBound:
    """The published form for feed-forward networks: S = P = 0, where the inequality falls apart layer by layer,

    rho I >= W_1^T T_1 W_1, T_{l-1} >= W_l^T T_l W_l, T_{L-1} >= W_L^T W_L (l_inf: diag(tau) in place of rho I, and
    [[T_{L-1}, W_L^T], [W_L, 2 rho - sum tau]] >= 0 at the end). Here the weights are scaled to norm 1, and for l2 the
    first one is replaced by its triangular factor, so that the input's width does not matter.
    """
    weights = [dense(w.value) for w in chain.weights]
    groups = [groups_of(activation) for activation in chain.activations]
    if norm not in (2, math.inf) or (norm != 2 and len(weights[-1]) != 1) or not groups:
        raise UsageError("l2, or l_inf for one output, of a network with activations", hint="select an output")
    inputs = weights[0].shape[1]
    if norm == 2 and inputs > len(weights[0]):
        weights[0] = np.linalg.qr(weights[0].T)[1].T
    sizes = [norm_of(w) for w in weights]
    program, starts = _chain_program([w / s for w, s in zip(weights, sizes, strict=True)], groups, norm)
    found = solve(program, solver)
    return _chain_bound(found, groups, starts, sizes, (norm, inputs, len(chain.weights[-1].value)))


def _chain_program(weights: Sequence[Floats], groups: Sequence[list[Group]], norm: float) -> tuple[Program, list[int]]:
    """Variables: rho, tau per input (l_inf), then lambda and gamma of every group; weights have norm 1."""
    inputs = weights[0].shape[1]
    first = 1 if norm == 2 else 1 + inputs
    starts = (first + 2 * np.cumsum([0] + [len(g) for g in groups])).tolist()
    root = math.sqrt(inputs)
    inequalities = []
    for level, weight in enumerate(weights):
        final = level == len(groups)
        extra = 1 if final and norm != 2 else 0
        inequality = MatrixInequality(weight.shape[1] + extra)
        if level:
            _add_metric(inequality, groups[level - 1], starts[level - 1])
        elif norm == 2:
            inequality.add(0, np.eye(inputs))
        else:
            for j in range(inputs):
                inequality.add(1 + j, np.full((1, 1), 1.0 / root), np.array([j]))
        if not final:
            _subtract_metric(inequality, groups[level], starts[level], weight)
        elif norm == 2:
            inequality.constant -= weight.T @ weight
        else:
            corner = np.array([weight.shape[1]])
            inequality.constant[-1, :-1] = inequality.constant[:-1, -1] = weight[0]
            inequality.add(0, np.full((1, 1), 2.0 * root), corner)
            for j in range(inputs):
                inequality.add(1 + j, np.full((1, 1), -1.0 / root), corner)
        inequalities.append(inequality)
    cost = np.zeros(starts[-1])
    cost[0] = 1.0
    signed = [0, *range(1, first)] + [
        n for start, end in zip(starts, starts[1:], strict=False) for n in range(start, end, 2)
    ]
    return Program(cost, np.asarray(signed), inequalities), starts


def _add_metric(inequality: MatrixInequality, groups: Sequence[Group], start: int) -> None:
    """+ T of the layer behind, over its outputs."""
    for g, group in enumerate(groups):
        inequality.add(start + 2 * g, np.eye(len(group.after)), group.after)
        inequality.add(start + 2 * g + 1, group.kept_after, group.after)


def _subtract_metric(inequality: MatrixInequality, groups: Sequence[Group], start: int, weight: Floats) -> None:
    """- W^T T W of the layer in front."""
    for g, group in enumerate(groups):
        rows = weight[group.before]
        inequality.add(start + 2 * g, -rows.T @ rows)
        inequality.add(start + 2 * g + 1, -rows.T @ group.kept_before @ rows)


def _chain_bound(
    found: Solution, groups: Sequence[list[Group]], starts: Sequence[int], sizes: Sequence[float], kind: tuple[Any, ...]
) -> PaperBound:
    """Undo the scaling: behind layer l the remaining weights have norm product `rest`."""
    norm, inputs, outputs = kind
    total = math.prod(sizes)
    lambdas, gammas, blocks = [], [], []
    for level, own in enumerate(groups):
        rest = math.prod(sizes[level + 1 :])
        # l2: T scales with the square of what is behind; l_inf is linear in the network: T with rest^2 / total.
        unit = rest**2 if norm == 2 else rest**2 / total
        values = found.x[starts[level] : starts[level + 1]].reshape(-1, 2) * unit
        lambdas.append(values[:, 0])
        gammas.append(values[:, 1])
        blocks.append(values[:, 0] / np.asarray([group.scale for group in own]))
    parameters = {"lambda": np.concatenate(lambdas), "gamma": np.concatenate(gammas)}
    multipliers = np.concatenate(blocks)
    if norm == 2:
        rho = float(found.x[0]) * total**2
        point = Point(multipliers, np.ones(outputs), np.full(inputs, rho))
        return PaperBound(math.sqrt(max(rho, 0.0)), point, found.status, found.seconds, parameters)
    root = math.sqrt(inputs)
    rho, tau = float(found.x[0]) * root * total, found.x[1 : 1 + inputs] * total / root
    point = Point(multipliers, np.array([2 * rho - float(tau.sum())]), tau)
    return PaperBound(rho, point, found.status, found.seconds, parameters)
