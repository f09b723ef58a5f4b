"""Train a small proxy of AC optimal power flow and write it together with the physics that judges it.

    python models/train_opf.py

Three buses in a ring, two generators, loads at buses 2 and 3; everything in per unit, angles in radians. A network maps
the four loads to the voltages and angles of the cheapest operating point; the file goes on with the power-flow
equations (sines, cosines and products), so that its outputs are what an operator would check. Seeds are fixed.

Inputs: X_0, X_1 active and reactive load at bus 2; X_2, X_3 the same at bus 3.
Outputs: Y_0, Y_1 active and reactive power missing at bus 3; Y_2 .. Y_5 active and reactive generation at buses 1, 2;
Y_6 .. Y_8 voltages; Y_9 .. Y_11 squared apparent power into the lines 1-2, 1-3 and 2-3.
"""

from __future__ import annotations

import numpy as np
import torch
from common import MODELS, SPECS, Array, Writer, cases_spec, replace_rows
from torch import nn
from train_control import box

LINES = ((0, 1), (0, 2), (1, 2))
RESISTANCE, REACTANCE = np.array([0.02, 0.03, 0.025]), np.array([0.10, 0.14, 0.12])
CONDUCTANCE = RESISTANCE / (RESISTANCE**2 + REACTANCE**2)
SUSCEPTANCE = -REACTANCE / (RESISTANCE**2 + REACTANCE**2)
LOADS = np.array([0.40, 0.15, 0.90, 0.30])  # the middle of the region that is trained
SPREAD = 0.25  # relative
COST = (1.0, 1.6)  # per squared active generation
VOLTAGES = (0.94, 1.06)
OUTPUTS = 12


def flows(state: Array) -> tuple[Array, Array, Array, Array]:
    """Active and reactive power into each line, at its first and at its second end; `state` is V (3), angles (2)."""
    v, angle = state[:3], np.array([0.0, state[3], state[4]])
    i, j = np.array(LINES).T
    apart, both = angle[i] - angle[j], v[i] * v[j]
    c, s = both * np.cos(apart), both * np.sin(apart)
    g, b = CONDUCTANCE, SUSCEPTANCE
    return (
        g * v[i] ** 2 - g * c - b * s,
        -b * v[i] ** 2 + b * c - g * s,
        g * v[j] ** 2 - g * c + b * s,
        -b * v[j] ** 2 + b * c + g * s,
    )


def injections(state: Array) -> tuple[Array, Array]:
    """Active and reactive power that leaves each bus into the lines."""
    p_i, q_i, p_j, q_j = flows(state)
    p, q = np.zeros(3), np.zeros(3)
    for k, (i, j) in enumerate(LINES):
        p[i], p[j], q[i], q[j] = p[i] + p_i[k], p[j] + p_j[k], q[i] + q_i[k], q[j] + q_j[k]
    return p, q


def cheapest(loads: Array, start: Array) -> Array:
    """Voltages and angles that feed the loads at least cost, by sequential quadratic programming."""
    from scipy.optimize import minimize

    def cost(state: Array) -> float:
        p, _ = injections(state)
        return float(COST[0] * p[0] ** 2 + COST[1] * (p[1] + loads[0]) ** 2)

    def missing(state: Array) -> Array:
        p, q = injections(state)
        return np.array([p[2] + loads[2], q[2] + loads[3]])

    limits = [VOLTAGES] * 3 + [(-0.5, 0.5)] * 2
    found = minimize(cost, start, bounds=limits, constraints={"type": "eq", "fun": missing}, method="SLSQP")
    if not found.success:
        raise SystemExit(f"no operating point for the loads {loads}: {found.message}")
    return np.asarray(found.x)


def trained(loads: Array, states: Array) -> nn.Sequential:
    """Two hidden layers, tanh. The targets are scaled, so that an angle counts as much as a voltage."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 5)).double()
    x, wanted = torch.from_numpy(loads - LOADS), torch.from_numpy(states)
    centre, scale = wanted.mean(0), wanted.std(0) + 0.01
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=300, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(net(x), (wanted - centre) / scale)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():  # into the weights: the loads enter as they are, and the outputs leave in per unit
        first, last = net[0], net[4]
        first.bias -= first.weight @ torch.from_numpy(LOADS)
        last.weight *= scale[:, None]
        last.bias.copy_(last.bias * scale + centre)
    return net


def write_physics(writer: Writer, state: str) -> str:
    """Nodes from voltages and angles to the twelve outputs."""

    def linear(x: str, matrix: Array, name: str) -> str:
        return writer.gemm(x, matrix, np.zeros(len(matrix)), name)

    i, j = np.array(LINES).T
    eye = np.eye(5)
    turned = np.vstack([np.zeros(5), eye[3], eye[4]])  # the angle of bus 1 is the reference
    both = writer.node("Mul", [linear(state, eye[i], "v_from"), linear(state, eye[j], "v_to")], "v_both")
    apart = linear(state, turned[i] - turned[j], "apart")
    c = writer.node("Mul", [both, writer.node("Cos", [apart], "cosine")], "v_cos")
    s = writer.node("Mul", [both, writer.node("Sin", [apart], "sine")], "v_sin")
    voltages = linear(state, eye[:3], "voltages")
    squares = writer.node("Mul", [voltages, voltages], "v_squared")
    terms = writer.node("Concat", [squares, c, s], "terms", axis=1)  # everything else is linear in these nine
    at_i, at_j = np.zeros((2, 3, 9)), np.zeros((2, 3, 9))
    for k in range(3):
        g, b = CONDUCTANCE[k], SUSCEPTANCE[k]
        at_i[:, k, [i[k], 3 + k, 6 + k]] = [[g, -g, -b], [-b, b, -g]]
        at_j[:, k, [j[k], 3 + k, 6 + k]] = [[g, -g, b], [-b, b, g]]
    out = np.zeros((2, 3, 9))
    for k in range(3):
        out[:, i[k]] += at_i[:, k]
        out[:, j[k]] += at_j[:, k]
    leaving = linear(terms, np.stack([out[0, 2], out[1, 2], out[0, 0], out[1, 0], out[0, 1], out[1, 1]]), "leaving")
    own = np.zeros((6, 4))
    own[0, 2], own[1, 3], own[4, 0], own[5, 1] = 1.0, 1.0, 1.0, 1.0
    balance = writer.node("Add", [leaving, linear("input", own, "demand")], "balance")
    p, q = linear(terms, at_i[0], "line_p"), linear(terms, at_i[1], "line_q")
    apparent = writer.node("Add", [writer.node("Mul", [p, p], "pp"), writer.node("Mul", [q, q], "qq")], "apparent")
    return writer.node("Concat", [balance, voltages, apparent], "output", axis=1)


def write_network(net: nn.Sequential, writer: Writer) -> str:
    x = "input"
    for k, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            x = writer.gemm(x, layer.weight.detach().numpy(), layer.bias.detach().numpy(), f"layer_{k}")
        else:
            x = writer.node("Tanh", [x], f"tanh_{k}")
    return x


def either(*pairs: tuple[int, float]) -> list[str]:
    """Violation of |Y_k| <= limit for any of the pairs (k, limit)."""
    return [f"(>= Y_{k} {limit})" for k, limit in pairs] + [f"(<= Y_{k} {-limit})" for k, limit in pairs]


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(2)
    loads = LOADS * (1 + SPREAD * rng.uniform(-1, 1, (300, 4)))
    start = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    net = trained(loads, np.stack([cheapest(row, start) for row in loads]))
    writer = Writer()
    output = write_physics(writer, write_network(net, writer))
    writer.save(MODELS / "opf_3bus.onnx", (1, 4), output, OUTPUTS)
    near, wide, far = (box(*(list((LOADS * (1 + s * r)).round(6)) for s in (-1, 1))) for r in (0.1, 0.2, 0.4))
    voltages = [(f"(>= Y_{k} 1.065)", f"(<= Y_{k} 1.0)") for k in (6, 7, 8)]
    cases = {
        "balance_near": (near, either((0, 0.002), (1, 0.002))),
        "balance_wide": (wide, either((0, 0.003), (1, 0.003))),
        "balance_far": (far, either((0, 0.01), (1, 0.01))),
        "voltage": (wide, [claim for pair in voltages for claim in pair]),
        "rating_0.67": (wide, ["(>= Y_10 0.4489)"]),
        "rating_0.65": (wide, ["(>= Y_10 0.4225)"]),
    }
    rows = []
    for case, (region, claims) in cases.items():
        spec = f"opf_3bus_{case}.vnnlib"
        title = f"opf_3bus.onnx, sat: one of these holds somewhere in the box: {', '.join(claims)}"
        (SPECS / spec).write_text(cases_spec(title, region, OUTPUTS, [[claim] for claim in claims]))
        rows.append(("opf_3bus.onnx", spec))
    replace_rows(["opf_3bus."], rows)


if __name__ == "__main__":
    main()
