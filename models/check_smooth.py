"""Prove the `unsat` rows of vnnlib_specs/expected.csv that no exact solver takes: smooth activations.

    python models/check_smooth.py

Shares no code with the verifier. Every activation is enclosed between straight lines whose offsets are found on a dense
grid, with what can happen between two grid points charged by the second derivative; linear programs (HiGHS) then bound
the layers one after the other and at last each clause. The network with two inputs is sampled on a grid, with what can
happen between two points charged by a Lipschitz constant from the weights. Every margin is printed; it has to be far
above the tolerance of the solver and of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from common import MODELS, SPECS, Array
from find_witnesses import Case, Query
from onnx import numpy_helper
from scipy.optimize import linprog

CLEAR = 1e-4  # margin below which nothing counts as proved
GRID, TANGENTS, CELLS = 4001, 9, 1500
DEEPEST = 6  # halvings on one path
ROWS = [
    ("digits_gelu", "digits_gelu_radius_0.02"),
    ("digits_gelu", "digits_gelu_radius_0.05"),
    ("digits_sigmoid", "digits_sigmoid_radius_0.02"),
    ("digits_tanh", "digits_tanh_radius_0.02"),
]
PENDULUM = ("pendulum_step", "pendulum_step_speed_0.6")


@dataclass(frozen=True)
class Smooth:
    """A function, its derivative, and a bound of its second derivative."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: float


def _normal(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cumulative(x: Array) -> Array:
    return np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in x.ravel()]).reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "Tanh": Smooth(np.tanh, lambda x: 1 - np.tanh(x) ** 2, 0.77),  # 4 / (3 sqrt 3)
    "Sigmoid": Smooth(_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x)), 0.0963),  # 1 / (6 sqrt 3)
    # x Phi(x); its second derivative (2 - x^2) phi(x) is largest at 0.
    "Gelu": Smooth(lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * _normal(x), 0.798),
}


def lines(function: Smooth, low: float, high: float) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Lines (slope, offset) below and above the function on [low, high].

    The least value of g = f - k x is at an end, which is on the grid, or where g' = 0: there a grid point within half a
    step is higher by at most bend * (step / 2)^2 / 2.
    """
    x = np.linspace(low, high, GRID)
    f = function.value(x)
    slack = function.bend * ((high - low) / (GRID - 1) / 2) ** 2 / 2 + 1e-12
    slopes = [*function.slope(np.linspace(low, high, TANGENTS)), (f[-1] - f[0]) / max(high - low, 1e-12)]
    below = [(k, float((f - k * x).min()) - slack) for k in slopes]
    above = [(k, float((f - k * x).max()) + slack) for k in slopes]
    return below, above


Parts = dict[int, tuple[float, float]]


class EmptyPart(Exception):
    """The part of the box holds no input."""


class Program:
    """A linear program that contains the network: inputs, then the outputs of each activation layer.

    `parts` confines the inputs of some activations of the first layer: {neuron: (low, high)}.
    """

    def __init__(self, case: Case, layers: list[tuple[Array, Array]], function: Smooth, parts: Parts) -> None:
        self.bounds = [*zip(case.lower.astype(float), case.upper.astype(float), strict=True)]
        self.size = len(self.bounds)
        self.rows: list[Array] = []
        self.limits: list[float] = []
        self.start = 0  # first variable of the last layer
        weight, bias = layers[0]
        for i, (low, high) in parts.items():
            self.rows += [weight[i], -weight[i]]
            self.limits += [high - bias[i], bias[i] - low]
        self.ends: list[list[tuple[float, float]]] = []
        for weight, bias in layers:
            self._add_layer(weight, bias, function)

    def least(self, weights: Array, constant: float) -> float:
        """Least value of weights @ (last layer) + constant."""
        costs = np.zeros(self.size)
        costs[self.start :] = weights
        matrix = np.array([np.pad(r, (0, self.size - len(r))) for r in self.rows]) if self.rows else None
        found = linprog(costs, matrix, self.limits or None, bounds=self.bounds, method="highs")
        if found.status == 2:
            return math.inf  # no input of this part exists
        if not found.success:
            raise SystemExit(f"HiGHS: {found.message}")
        return float(found.fun) + constant

    def _add_layer(self, weight: Array, bias: Array, function: Smooth) -> None:
        ends = [(self.least(w, b) - CLEAR, CLEAR - self.least(-w, -b)) for w, b in zip(weight, bias, strict=True)]
        self.ends.append(ends)
        count, before = len(bias), self.start
        rows, limits, bounds = [], [], []
        for i, (low, high) in enumerate(ends):
            if not low < high < math.inf:
                raise EmptyPart
            below, above = lines(function, low, high)
            for side, sign in ((below, 1.0), (above, -1.0)):
                for slope, offset in side:  # sign * (slope * z_i + offset - a_i) <= 0
                    row = np.zeros(self.size + count)
                    row[before : self.size] = sign * slope * weight[i]
                    row[self.size + i] = -sign
                    rows.append(row)
                    limits.append(-sign * (slope * bias[i] + offset))
            values = function.value(np.linspace(low, high, GRID))
            bounds.append((float(values.min()) - CLEAR, float(values.max()) + CLEAR))
        self.start, self.size = self.size, self.size + count
        self.rows, self.limits, self.bounds = self.rows + rows, self.limits + limits, self.bounds + bounds


def read(model: Path) -> tuple[dict[str, Array], str]:
    """Float64 tensors of a model by name, and the name of its activation."""
    graph = onnx.load(model).graph
    kinds = {node.op_type for node in graph.node} & set(FUNCTIONS)
    return {i.name: numpy_helper.to_array(i).astype(np.float64) for i in graph.initializer}, kinds.pop()


def margin_of_digits(model: str, spec: str) -> float:
    """Least over all clauses of how far the worst row stays from being satisfied."""
    tensors, kind = read(MODELS / f"{model}.onnx")
    layers = [(tensors[f"dense_{k}_weight"], tensors[f"dense_{k}_bias"]) for k in range(3)]
    query = Query(MODELS / f"{model}.onnx", SPECS / f"{spec}.vnnlib")
    pairs = []
    for case in query.cases:
        if (case.lower != query.cases[0].lower).any() or len(case.claims) != 1:
            raise SystemExit(f"{spec} has another form than this script reads")
        relation, one, other = case.claims[0]
        i, j = int(one), int(other[2:])
        pairs.append((i, j) if relation == ">=" else (j, i))  # the claim is Y_i >= Y_j
    return _margin(query.cases[0], (layers, FUNCTIONS[kind]), pairs, {})


def _margin(
    box: Case, network: tuple[list[tuple[Array, Array]], Smooth], pairs: list[tuple[int, int]], parts: Parts
) -> float:
    """Halves the range of the loosest activation of the first layer until every pair is proved."""
    layers, function = network
    try:
        program = Program(box, layers[:2], function, parts)
    except EmptyPart:
        return math.inf
    weight, bias = layers[2]
    margins = [program.least(weight[j] - weight[i], float(bias[j] - bias[i])) for i, j in pairs]
    still = [pair for pair, margin in zip(pairs, margins, strict=True) if margin <= CLEAR]
    done = min((m for m in margins if m > CLEAR), default=math.inf)
    if not still or len(parts) >= DEEPEST:
        return min(margins)
    reach = [(high - low) ** 2 * abs(layers[1][0][:, i]).sum() for i, (low, high) in enumerate(program.ends[0])]
    reach = [0.0 if i in parts else value for i, value in enumerate(reach)]
    i = int(np.argmax(reach))
    low, high = program.ends[0][i]
    middle = (low + high) / 2
    sides = ((low, middle), (middle, high))
    return min(done, *(_margin(box, network, still, parts | {i: side}) for side in sides))


def margin_of_pendulum(model: str, spec: str) -> float:
    """How far the second output stays below its threshold on the whole box of two inputs."""
    t, _ = read(MODELS / f"{model}.onnx")
    case = Query(MODELS / f"{model}.onnx", SPECS / f"{spec}.vnnlib").cases[0]
    ((relation, index, threshold),) = case.claims
    if (relation, index) != (">=", "1"):
        raise SystemExit(f"{spec} has another form than this script reads")
    centres = [np.linspace(a, b, 2 * CELLS + 1)[1::2] for a, b in zip(case.lower, case.upper, strict=True)]
    half = np.array([(b - a) / (2 * CELLS) for a, b in zip(case.lower, case.upper, strict=True)], dtype=float)
    x = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2)
    hidden = np.tanh(x @ t["policy_0_weight"].T + t["policy_0_bias"])
    hidden = np.tanh(hidden @ t["policy_2_weight"].T + t["policy_2_bias"])
    force = hidden @ t["policy_4_weight"].T + t["policy_4_bias"]
    speed = x @ t["drift_weight"][1] + t["drift_bias"][1] + force @ t["push_weight"][1] + t["push_bias"][1]
    # |tanh'| <= 1, so the absolute weights multiplied bound the derivative by each input.
    policy = abs(t["policy_4_weight"]) @ abs(t["policy_2_weight"]) @ abs(t["policy_0_weight"])
    slope = abs(t["drift_weight"][1]) + (abs(t["push_weight"][1]) @ policy)
    return float(threshold) - float(speed.max()) - float(slope @ half)


def main() -> None:
    """Print every margin; exit 1 if one is not clear."""
    margins = {spec: margin_of_digits(model, spec) for model, spec in ROWS}
    margins[PENDULUM[1]] = margin_of_pendulum(*PENDULUM)
    for spec, margin in margins.items():
        print(f"{spec}: {'proved' if margin > CLEAR else 'open'}, margin {margin:.4g}")
    raise SystemExit(any(margin <= CLEAR for margin in margins.values()))


if __name__ == "__main__":
    main()
