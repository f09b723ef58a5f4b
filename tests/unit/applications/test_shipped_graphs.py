"""The shipped graphs beyond classifiers compute what their scripts say, by independent formulas."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import verinet
from verinet.frontends.derivative import jacobian

ROOT = Path(__file__).resolve().parents[3]
MODELS, SPECS = ROOT / "models", ROOT / "vnnlib_specs"
EXPECTED = {row["vnnlib"]: row["verdict"] for row in csv.DictReader((SPECS / "expected.csv").open())}
LINES = {(0, 1): 0.02 + 0.10j, (0, 2): 0.03 + 0.14j, (1, 2): 0.025 + 0.12j}  # impedances, per unit


def run(name: str, points: np.ndarray) -> np.ndarray:
    """Outputs in float64; `verinet.load` is compared with ONNX Runtime in the tests of the reader."""
    graph = verinet.load(MODELS / f"{name}.onnx").graph.to(torch.float64)
    return graph.forward(torch.from_numpy(points)).numpy()


def layer(name: str, tensor: str, points: np.ndarray) -> np.ndarray:
    model = verinet.load(MODELS / f"{name}.onnx")
    values = model.graph.to(torch.float64).forward_all(torch.from_numpy(points))
    return values[model.tensors[tensor]].reshape(len(points), -1).numpy()


def test_power_flow_agrees_with_the_admittance_matrix():
    """S = V conj(Y V), with complex voltages; the graph uses sines and cosines of angle differences."""
    loads = np.array([0.40, 0.15, 0.90, 0.30]) * np.random.default_rng(0).uniform(0.6, 1.4, (50, 4))
    state, found = layer("opf_3bus", "layer_4", loads), run("opf_3bus", loads)
    angles = np.concatenate([np.zeros((50, 1)), state[:, 3:]], 1)
    v = state[:, :3] * np.exp(1j * angles)
    admittance = np.zeros((3, 3), complex)
    for (i, j), z in LINES.items():
        admittance[[i, j], [i, j]] += 1 / z
        admittance[[i, j], [j, i]] -= 1 / z
    s = v * np.conj(v @ admittance.T)
    demand = np.stack([np.zeros(50), loads[:, 0] + 1j * loads[:, 1], loads[:, 2] + 1j * loads[:, 3]], 1)
    needed = s + demand
    parts = [needed[:, k].real if part == 0 else needed[:, k].imag for k in (2, 0, 1) for part in (0, 1)]
    apparent = [np.abs(v[:, i] * np.conj((v[:, i] - v[:, j]) / z)) ** 2 for (i, j), z in LINES.items()]
    wanted = np.stack([*parts, *np.abs(v).T, *apparent], 1)
    np.testing.assert_allclose(found, wanted, atol=2e-6)  # the file holds float32 admittances


def test_pendulum_follows_its_equation_and_rest_stays_rest():
    states = np.random.default_rng(1).uniform([-1.3, -1.2], [1.3, 1.2], (200, 2))
    torque = 8.0 * layer("pendulum_lyapunov", "policy_3", states)[:, 0]
    found = run("pendulum_lyapunov", states)
    speed = states[:, 1] + 0.05 * (9.81 * np.sin(states[:, 0]) - 0.2 * states[:, 1] + torque)
    np.testing.assert_allclose(found[:, 3:], np.stack([states[:, 0] + 0.05 * states[:, 1], speed], 1), atol=1e-6)
    np.testing.assert_allclose(found[:, 0], found[:, 2] - found[:, 1], atol=1e-12)
    np.testing.assert_allclose(found[:, 2], run("pendulum_lyapunov", found[:, 3:])[:, 1], atol=1e-12)
    assert (found[:, 1] > 0).all() and np.abs(run("pendulum_lyapunov", np.zeros((1, 2)))).max() == 0


def cases(name: str) -> list[list[tuple[str, str, int, float]]]:
    """Every case of a property: relations of its box and its own."""
    pattern = re.compile(r"\((<=|>=) ([XY])_(\d+) ([-\d.]+)\)")
    read = {line: pattern.findall(line) for line in (SPECS / f"{name}.vnnlib").read_text().splitlines()}
    typed = {line: [(r, s, int(n), float(v)) for r, s, n, v in found] for line, found in read.items()}
    common = sorted(relation for line, found in typed.items() if line.startswith("(assert (") for relation in found)
    return [common + found for line, found in typed.items() if line.startswith("    (and")]


def holds(case: list[tuple[str, str, int, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    values = [((x if side == "X" else y)[:, n], r, v) for r, side, n, v in case]
    return np.all([a <= v if r == "<=" else a >= v for a, r, v in values], 0)


@pytest.mark.parametrize("name", [n for n in sorted(EXPECTED) if n.startswith("pendulum_lyapunov")])
def test_lyapunov_conditions_on_a_dense_grid(name):
    found = cases(name.removesuffix(".vnnlib"))
    outer = {(r, n): v for r, side, n, v in found[0][:4] if side == "X"}
    sides = [np.linspace(outer[">=", n], outer["<=", n], 161) for n in (0, 1)]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    values = run("pendulum_lyapunov", grid)
    violated = any(holds(case, grid, values).any() for case in found)
    assert violated == (EXPECTED[name] == "sat")


def test_the_ring_leaves_out_the_hole_and_nothing_else():
    found = cases("pendulum_lyapunov_falls")
    x = np.random.default_rng(2).uniform([-0.5, -1.2], [0.5, 1.2], (4000, 2))
    inside = [[r for r in case if r[1] == "X"] for case in found]
    covered = np.any([holds(case, x, x) for case in inside], 0)
    np.testing.assert_array_equal(covered, (np.abs(x[:, 0]) >= 0.05) | (np.abs(x[:, 1]) >= 0.12))


def test_a_witness_of_a_union_lies_in_one_of_its_boxes():
    name = "pendulum_lyapunov_falls_too_far"
    verdict = verinet.verify(MODELS / "pendulum_lyapunov.onnx", SPECS / f"{name}.vnnlib", timeout=30)
    assert verdict.status is verinet.Status.SAT
    x, y = verdict.witness.inputs[None], verdict.witness.outputs[None]
    assert any(holds(case, x, y).all() for case in cases(name))


@pytest.mark.parametrize(("name", "rows", "columns"), [
    ("double_integrator", None, None), ("pendulum_step", None, None), ("opf_3bus", [2], [0, 2]),
])  # fmt: skip
def test_shipped_derivatives_are_those_of_the_shipped_networks(name, rows, columns):
    fresh = jacobian(MODELS / f"{name}.onnx", outputs=rows, inputs=columns).load().graph.to(torch.float64)
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (50, fresh.input_size))
    np.testing.assert_array_equal(fresh.forward(torch.from_numpy(points)).numpy(), run(f"{name}_jacobian", points))


def test_binarised_weights_are_signs():
    import onnx
    from onnx import numpy_helper

    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(MODELS / "digits_sign.onnx").graph.initializer}
    assert set(np.unique(arrays["dense_0_weight"])) == {-2.0, 2.0}  # the pixels are moved to [-1, 1]
    assert set(np.unique(arrays["dense_1_weight"])) == {-1.0, 1.0}
    byte = {t.name: numpy_helper.to_array(t) for t in onnx.load(MODELS / "digits_int8.onnx").graph.initializer}
    assert byte["dense_0_bytes"].dtype == byte["dense_1_bytes"].dtype == np.int8
