"""`verinet lipschitz` as a command: streams, JSON, regions, exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from tests.unit.frontends.onnx_models import Spec, node, weights

KEYS = {"upper", "lower", "method", "norm", "region", "gap", "seconds", "multipliers"}


@pytest.fixture
def command() -> Callable[..., Any]:
    from verinet.cli.app import app
    from verinet.cli.session import Session

    session = Session(time.monotonic(), owns_process=False)
    return lambda *arguments: CliRunner().invoke(app, ["lipschitz", *(str(a) for a in arguments)], obj=session)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [node("Gemm", "x W b", "h"), node("Relu", "h", "g"), node("MatMul", "g V", "y")]
    constants = {"W": weights(3, 6), "b": weights(6, seed=1), "V": weights(6, 2, seed=2)}
    onnx.save(Spec("net", nodes, {"x": (1, 3)}, constants).model(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def _upper(done: Any) -> float:
    assert done.exit_code == 0, done.stderr
    return float(json.loads(done.stdout)["upper"])


def test_upper_and_lower_come_first(command: Callable[..., Any], model: Path) -> None:
    done = command(model, "--time", 3)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and [line.split()[0] for line in lines[:2]] == ["upper", "lower"]
    assert float(lines[0].split()[1]) >= float(lines[1].split()[1]) > 0
    assert "2-norm, everywhere" in lines[2] and "product" in done.stderr


def test_json_is_one_object_with_the_promised_keys(command: Callable[..., Any], model: Path) -> None:
    record = json.loads(command(model, "--method", "neuron", "--time", 3, "--json").stdout)
    assert set(record) >= KEYS
    assert (record["norm"], record["region"], record["method"]) == ("2", "everywhere", "neuron")
    assert record["upper"] >= record["lower"] > 0 and record["gap"] >= 0 and len(record["multipliers"]) == 6


def test_regions_only_lower_the_bound(command: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "box.npz", lower=-0.1 * np.ones(3), upper=0.1 * np.ones(3))
    np.save(tmp_path / "center.npy", np.zeros((1, 3), dtype=np.float32))
    np.savez(tmp_path / "center.npz", center=np.zeros(3))
    bounds = "".join(f"(assert (<= X_{i} 0.1))\n(assert (>= X_{i} -0.1))\n" for i in range(3))
    declared = "".join(f"(declare-const X_{i} Real)\n" for i in range(3))
    outputs = "".join(f"(declare-const Y_{i} Real)\n" for i in range(2))
    (tmp_path / "box.vnnlib").write_text(f"{declared}{outputs}{bounds}(assert (<= Y_0 Y_1))\n")
    rest = ("--time", 3, "--json", "--method", "neuron")
    whole = _upper(command(model, *rest))
    box = _upper(command(model, "--box", tmp_path / "box.npz", *rest))
    spec = _upper(command(model, "--spec", tmp_path / "box.vnnlib", *rest))
    ball = _upper(command(model, "--center", tmp_path / "center.npz", "--radius", 0.1, *rest))
    same = _upper(command(model, "--center", tmp_path / "center.npy", "--radius", 0.1, *rest))
    assert ball == same <= box * (1 + 1e-6) and box <= whole * (1 + 1e-6)
    assert spec == pytest.approx(box, rel=1e-6)


def test_norms_and_outputs(command: Callable[..., Any], model: Path) -> None:
    single = _upper(command(model, "--norm", "inf", "--output", 1, "--time", 3, "--json"))
    both = _upper(command(model, "--norm", "inf", "--time", 3, "--json"))
    assert 0 < single <= both * (1 + 1e-6)


def test_implicit_models_are_read_from_npz(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    arrays = {"B": weights(4, 3), "C": weights(2, 4), "b": weights(4), "activation": np.array("relu")}
    np.savez(path, A=0.2 * np.eye(4), **arrays)
    record = json.loads(command(path, "--time", 3, "--json").stdout)
    assert record["upper"] >= record["lower"] > 0
    np.savez(path, A=3.0 * np.eye(4), **arrays)
    refused = command(path)
    assert refused.exit_code == 3 and "well posed" in refused.stderr and not refused.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--method", "magic"), 2, "unknown method 'magic'"),
        (("--solver", "sedumi"), 2, "unknown solver 'sedumi'"),
        (("--norm", "1"), 2, "unknown norm '1'"),
        (("--output", "2"), 2, "no such output: 2"),
        (("--time", "0"), 2, "positive number of seconds"),
        (("--center", "{center}"), 2, "both --center FILE and --radius R"),
        (("--radius", "1"), 2, "both --center FILE and --radius R"),
        (("--center", "{center}", "--radius", "-1"), 2, "not a ball"),
        (("--box", "{box}", "--spec", "{box}"), 2, "--spec and --box both give a region"),
        (("--box", "{box}", "--radius", "1"), 2, "both --center FILE and --radius R"),
        (("--box", "{short}"), 2, "region has 2 inputs, the network 3"),
        (("--box", "{half}"), 2, "lacks upper"),
        (("--box", "{words}"), 2, "holds no numbers"),
        (("--box", "{damaged}"), 2, "not a file of plain NumPy arrays"),
        (("--box", "nowhere.npz"), 2, "no such file"),
        (("--center", "{none}", "--radius", "1"), 2, "holds no array"),
    ],
)
def test_wrong_use(
    command: Callable[..., Any], model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    arrays: dict[str, dict[str, Any]] = {
        "box": {"lower": np.zeros(3), "upper": np.ones(3)},
        "short": {"lower": np.zeros(2), "upper": np.ones(2)},
        "half": {"lower": np.zeros(3)},
        "words": {"lower": np.array(["a"]), "upper": np.array(["b"])},
        "center": {"center": np.zeros(3)},
        "none": {},
    }
    files = {name: str(tmp_path / f"{name}.npz") for name in (*arrays, "damaged")}
    for name, content in arrays.items():
        np.savez(files[name], **content)
    Path(files["damaged"]).write_bytes(b"PK\x03\x04 cut short")
    done = command(model, *(argument.format(**files) for argument in arguments))
    assert done.exit_code == code and words in done.stderr and not done.stdout


def test_a_missing_model(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command(tmp_path / "none.onnx")
    assert done.exit_code == 2 and "no such file" in done.stderr


def test_an_implicit_model_is_reported_well_posed(command: Callable[..., Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", A=0.3 * np.eye(3), B=np.ones((3, 2)), C=np.ones((1, 3)), activation="relu")
    done = command(tmp_path / "m.npz", "--time", 2)
    assert done.exit_code == 0 and "well posed: a norm of 0." in done.stdout
    assert 0 < json.loads(command(tmp_path / "m.npz", "--time", 2, "--json").stdout)["contraction"] < 1


def test_a_network_that_jumps_is_told_apart(command: Callable[..., Any], tmp_path: Path) -> None:
    from tests.unit.lipschitz.test_jumps import INPUTS, householder_proto

    onnx.save(householder_proto(), tmp_path / "jump.onnx")
    np.savez(tmp_path / "box.npz", lower=np.zeros(INPUTS), upper=np.ones(INPUTS))
    done = command(tmp_path / "jump.onnx", "--box", tmp_path / "box.npz", "--time", 2)
    assert done.exit_code == 0 and done.stdout.startswith("upper inf")
    assert "jumps ||f(x) - f(y)|| <= " in done.stdout and "no Lipschitz constant is finite" in done.stdout
    assert command(tmp_path / "jump.onnx", "--time", 2).exit_code == 3
