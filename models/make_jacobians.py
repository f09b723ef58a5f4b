"""Write the derivatives of shipped networks, and properties of them.

    python models/make_jacobians.py

`double_integrator_jacobian`: how the cart's policy reacts to position (Y_0) and speed (Y_1).
`pendulum_step_jacobian`: next angle and speed of the linearised pendulum by angle and speed, row by row.
`opf_3bus_jacobian`: active generation at bus 1 by the two active loads (Y_0, Y_1), of the optimal-power-flow proxy.
"""

from __future__ import annotations

from common import MODELS, SPECS, Array, cases_spec, replace_rows
from train_control import box
from train_opf import LOADS

from verinet import jacobian

Case = tuple[tuple[Array, Array], list[str]]

NAMES = {"double_integrator": 2, "pendulum_step": 4, "opf_3bus": 2}  # and their numbers of outputs
CASES: dict[str, dict[str, Case]] = {
    "double_integrator": {
        "falls_near": (box([-0.5, -0.2], [0.1, 0.2]), ["(>= Y_0 0.0)", "(>= Y_1 0.0)"]),
        "falls_everywhere": (box([-2, -2], [2, 2]), ["(>= Y_0 0.0)", "(>= Y_1 0.0)"]),
    },
    "pendulum_step": {
        "corrects": (box([-0.5, -0.5], [0.5, 0.5]), ["(>= Y_2 -0.6)", "(<= Y_2 -1.0)"]),
        "steep": (box([-0.5, -0.5], [0.5, 0.5]), ["(<= Y_2 -0.9)"]),
    },
    "opf_3bus": {
        "rises": (box(list((LOADS * 0.9).round(6)), list((LOADS * 1.1).round(6))), ["(<= Y_0 0.55)", "(<= Y_1 0.55)"]),
        "more_than_0.635": (box(list((LOADS * 0.9).round(6)), list((LOADS * 1.1).round(6))), ["(>= Y_1 0.635)"]),
    },
}


def main() -> None:
    jacobian(MODELS / "double_integrator.onnx").save(MODELS / "double_integrator_jacobian.onnx")
    jacobian(MODELS / "pendulum_step.onnx").save(MODELS / "pendulum_step_jacobian.onnx")
    jacobian(MODELS / "opf_3bus.onnx", outputs=[2], inputs=[0, 2]).save(MODELS / "opf_3bus_jacobian.onnx")
    for name, cases in CASES.items():
        rows = []
        for case, (region, claims) in cases.items():
            spec = f"{name}_jacobian_{case}.vnnlib"
            title = f"{name}_jacobian.onnx, sat: one of these holds somewhere in the box: {', '.join(claims)}"
            (SPECS / spec).write_text(cases_spec(title, region, NAMES[name], [[claim] for claim in claims]))
            rows.append((f"{name}_jacobian.onnx", spec))
        replace_rows([f"{name}_jacobian."], rows)


if __name__ == "__main__":
    main()
