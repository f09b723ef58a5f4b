"""Train two small controllers by imitation and write them with the ranges they have to keep.

    python models/train_control.py

`double_integrator`: position and speed of a cart to an acceleration, ReLU, imitating a saturated LQR policy.
`pendulum_step`: one closed-loop step of a damped pendulum near its upper rest, linearised, with a tanh policy; the
network file holds the whole step, so its outputs are the next angle and the next speed. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from common import MODELS, SPECS, Array, Writer, output_spec, replace_rows
from torch import Tensor, nn

STEP = 0.1  # seconds
CART_A, CART_B = np.array([[1.0, STEP], [0.0, 1.0]]), np.array([[STEP * STEP / 2], [STEP]])
PENDULUM_A, PENDULUM_B = np.array([[1.0, STEP], [STEP * 9.81, 1 - 0.05 * STEP]]), np.array([[0.0], [STEP * 4.0]])

Box = tuple[Array, Array]


def lqr_gain(a: Array, b: Array, effort: float) -> Array:
    """K of u = -K x, by iterating the Riccati recursion until it stands still."""
    cost = np.eye(len(a))
    for _ in range(2000):
        gain = np.linalg.solve(effort + b.T @ cost @ b, b.T @ cost @ a)
        cost = np.eye(len(a)) + a.T @ cost @ (a - b @ gain)
    return gain


def imitate(net: nn.Module, teacher: Callable[[Tensor], Tensor], reach: float) -> nn.Module:
    """Least squares on states drawn uniformly from [-reach, reach]^2."""
    states = reach * (2 * torch.rand(4096, 2) - 1)
    wanted = teacher(states)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(400):
        loss = nn.functional.mse_loss(net(states), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def policy(activation: Callable[[], nn.Module], width: int) -> nn.Sequential:
    torch.manual_seed(11)
    layers = nn.Linear(2, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 1)
    return nn.Sequential(*layers)


def saturated(gain: Array) -> Callable[[Tensor], Tensor]:
    row = torch.from_numpy(gain).float()
    return lambda x: (-x @ row.T).clamp(-1, 1)


def write_policy(net: nn.Sequential, writer: Writer, op: str) -> str:
    x = "input"
    for i, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            x = writer.gemm(x, layer.weight.detach().numpy(), layer.bias.detach().numpy(), f"policy_{i}")
        else:
            x = writer.node(op, [x], f"{op.lower()}_{i}")
    return x


def double_integrator() -> list[tuple[str, str]]:
    net = policy(nn.ReLU, 16)
    imitate(net, saturated(lqr_gain(CART_A, CART_B, 1.0)), 2.0)
    writer = Writer()
    writer.save(MODELS / "double_integrator.onnx", (1, 2), write_policy(net, writer, "Relu"), 1)
    return specs(
        "double_integrator",
        1,
        {
            "effort_1.1": (box([-2, -2], [2, 2]), ["(>= Y_0 1.1)"]),
            "effort_0.9": (box([-2, -2], [2, 2]), ["(>= Y_0 0.9)"]),
            "brakes": (box([0.5, 0.5], [2, 2]), ["(>= Y_0 -0.95)"]),
            "pushes_back": (box([0.5, -2], [2, -1]), ["(<= Y_0 0.0)"]),
        },
    )


def pendulum() -> list[tuple[str, str]]:
    net = policy(nn.Tanh, 12)
    gain = torch.from_numpy(lqr_gain(PENDULUM_A, PENDULUM_B, 0.5)).float()
    imitate(net, lambda x: -x @ gain.T, 1.0)
    writer = Writer()
    u = write_policy(net, writer, "Tanh")
    drift = writer.gemm("input", PENDULUM_A, np.zeros(2), "drift")
    push = writer.gemm(u, PENDULUM_B, np.zeros(2), "push")
    writer.save(MODELS / "pendulum_step.onnx", (1, 2), writer.node("Add", [drift, push], "next"), 2)
    return specs(
        "pendulum_step",
        2,
        {
            "angle": (box([-0.5, -0.5], [0.5, 0.5]), ["(>= Y_0 0.56)"]),
            "speed_0.6": (box([-0.5, -0.5], [0.5, 0.5]), ["(>= Y_1 0.6)"]),
            "speed_0.5": (box([-0.5, -0.5], [0.5, 0.5]), ["(>= Y_1 0.5)"]),
            "both": (box([0.2, -0.1], [0.5, 0.5]), ["(>= Y_0 0.5)", "(<= Y_1 -0.1)"]),
        },
    )


def box(lower: list[float], upper: list[float]) -> Box:
    return np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)


def specs(name: str, outputs: int, cases: dict[str, tuple[Box, list[str]]]) -> list[tuple[str, str]]:
    rows = []
    for case, (region, claims) in cases.items():
        spec = f"{name}_{case}.vnnlib"
        title = f"{name}.onnx, sat: {' and '.join(claims)} somewhere in the box"
        (SPECS / spec).write_text(output_spec(title, region, outputs, claims))
        rows.append((f"{name}.onnx", spec))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    replace_rows(["double_integrator.", "pendulum_step."], [*double_integrator(), *pendulum()])


if __name__ == "__main__":
    main()
