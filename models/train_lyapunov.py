"""Train a controller of an inverted pendulum together with a Lyapunov function, and write both with the dynamics.

    python models/train_lyapunov.py

One step of 0.05 s of a pendulum about its upper rest: angle and speed to angle and speed, with the sine of the angle, a
tanh policy whose torque is limited, and a Lyapunov function V(x) = |R x|^2 + |N tanh(M x)|^2. The file holds all of it,
so that "V falls along every step" is a statement about one output. Seeds are fixed.

Inputs: X_0 the angle (radians), X_1 the speed (radians per second).
Outputs: Y_0 = V(next) - V(now), Y_1 = V(now), Y_2 = V(next), Y_3 and Y_4 the next angle and speed.
"""

from __future__ import annotations

import numpy as np
import torch
from common import MODELS, SPECS, Writer, cases_spec, replace_rows, within
from torch import Tensor, nn
from train_control import box

STEP, GRAVITY, DAMPING, TORQUE = 0.05, 9.81, 0.2, 8.0
REACH = (0.5, 1.2)  # angle and speed for which V shall fall
OUTPUTS = 5


class Loop(nn.Module):
    """Policy, dynamics and Lyapunov function. Without offsets, so that rest stays rest and V is 0 there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 8, bias=False), nn.Linear(8, 1, bias=False)
        self.root = nn.Linear(2, 2, bias=False)
        self.features, self.mixed = nn.Linear(2, 6, bias=False), nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.root.weight.copy_(torch.tensor([[1.0, 0.15], [0.0, 0.3]]))
            self.mixed.weight.mul_(0.3)
            self.inner.weight.copy_(torch.tensor([[0.5, 0.125]]) * torch.linspace(-1.5, 1.5, 8)[:, None])
            self.outer.weight.copy_(torch.linspace(0.6, -0.6, 8)[None, :])

    def torque(self, x: Tensor) -> Tensor:
        return TORQUE * torch.tanh(self.outer(torch.tanh(self.inner(x))))

    def step(self, x: Tensor) -> Tensor:
        angle, speed = x[:, :1], x[:, 1:]
        force = GRAVITY * torch.sin(angle) - DAMPING * speed + self.torque(x)
        return torch.cat([angle + STEP * speed, speed + STEP * force], 1)

    def energy(self, x: Tensor) -> Tensor:
        mixed = self.mixed(torch.tanh(self.features(x)))
        return (self.root(x) ** 2).sum(1) + (mixed**2).sum(1)


def trained() -> Loop:
    """V has to fall by a share of itself at random states; its size is fixed by the trace of the quadratic part.

    The policy starts as a damped spring that saturates.
    """
    torch.manual_seed(3)
    loop = Loop()
    optimiser = torch.optim.Adam(loop.parameters(), lr=5e-3)
    reach = torch.tensor(REACH) * 1.1
    for _ in range(1500):
        x = reach * (2 * torch.rand(512, 2) - 1)
        now, after = loop.energy(x), loop.energy(loop.step(x))
        size = (loop.root.weight**2).sum()
        loss = torch.relu(after / now - 0.9).mean() + 0.1 * (size - 1.1) ** 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loop


def write(loop: Loop) -> None:
    writer = Writer()
    zeros = {n: np.zeros(n) for n in (1, 2, 3, 6, 8)}

    def linear(x: str, layer: nn.Linear, name: str, factor: float = 1.0) -> str:
        weight = layer.weight.detach().numpy() * factor
        return writer.gemm(x, weight, zeros[len(weight)], name)

    def energy(x: str, tag: str) -> str:
        root = linear(x, loop.root, f"root_{tag}")
        bent = writer.node("Tanh", [linear(x, loop.features, f"features_{tag}")], f"bent_{tag}")
        mixed = linear(bent, loop.mixed, f"mixed_{tag}")
        both = writer.node("Concat", [root, mixed], f"parts_{tag}", axis=1)
        squares = writer.node("Mul", [both, both], f"squares_{tag}")
        return writer.gemm(squares, np.ones((1, 5)), zeros[1], f"energy_{tag}")

    inner = writer.node("Tanh", [linear("input", loop.inner, "policy_0")], "policy_1")
    push = writer.node("Tanh", [linear(inner, loop.outer, "policy_2")], "policy_3")
    sine = writer.node("Sin", [writer.gemm("input", np.array([[1.0, 0.0]]), zeros[1], "angle")], "sine")
    forces = writer.node("Concat", [sine, push], "forces", axis=1)
    drift = writer.gemm("input", np.array([[1.0, STEP], [0.0, 1 - STEP * DAMPING]]), zeros[2], "drift")
    kick = writer.gemm(forces, np.array([[0.0, 0.0], [STEP * GRAVITY, STEP * TORQUE]]), zeros[2], "kick")
    after = writer.node("Add", [drift, kick], "after")
    now, then = energy("input", "now"), energy(after, "then")
    change = writer.node("Sub", [then, now], "change")
    output = writer.node("Concat", [change, now, then, after], "output", axis=1)
    writer.save(MODELS / "pendulum_lyapunov.onnx", (1, 2), output, OUTPUTS)


def ring(outer: tuple[float, float], inner: tuple[float, float]) -> list[list[str]]:
    """Four boxes that cover the outer box without the inner one."""
    (a, b), (c, d) = outer, inner
    boxes = [((-a, -b), (-c, b)), ((c, -b), (a, b)), ((-c, -b), (c, -d)), ((-c, d), (c, b))]
    return [within(lower, upper) for lower, upper in boxes]


def write_specs(level: float) -> None:
    """`level` is the value of V that separates safe states from unsafe ones."""
    a, b = REACH
    whole, start = box([-a, -b], [a, b]), box([-0.05, -0.12], [0.05, 0.12])
    inside = f"(<= Y_1 {level})"
    leaves = [[inside, claim] for claim in (f"(>= Y_3 {a})", f"(<= Y_3 {-a})", f"(>= Y_4 {b})", f"(<= Y_4 {-b})")]
    cases = {
        "falls": (whole, [[*side, "(>= Y_0 0.0)"] for side in ring(REACH, (0.05, 0.12))]),
        "falls_too_far": (box([-1.3, -b], [1.3, b]), [[*side, "(>= Y_0 0.0)"] for side in ring((1.3, b), REACH)]),
        "barrier_start": (start, [[f"(>= Y_1 {level})"]]),
        "barrier_unsafe": (whole, [[*side, inside] for side in ring(REACH, (0.95 * a, 0.95 * b))]),
        "barrier_step": (whole, [[inside, f"(>= Y_2 {level})"]]),
        "stays": (whole, leaves),
    }
    rows = []
    for case, (region, options) in cases.items():
        spec = f"pendulum_lyapunov_{case}.vnnlib"
        title = f"pendulum_lyapunov.onnx, case '{case}' of models/train_lyapunov.py"
        (SPECS / spec).write_text(cases_spec(title, region, OUTPUTS, options))
        rows.append(("pendulum_lyapunov.onnx", spec))
    replace_rows(["pendulum_lyapunov."], rows)


def main() -> None:
    torch.set_num_threads(1)
    write(trained())
    write_specs(level=0.045)


if __name__ == "__main__":
    main()
