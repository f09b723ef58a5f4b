"""`verinet doctor`: is this installation fit to verify anything?"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from verinet.cli.session import emit, emit_json, say

_REQUIRED = ("verinet", "torch", "numpy", "onnx", "onnxruntime")
_OPTIONAL = ("cvxpy", "scs", "clarabel", "mosek")
_SELF_TEST_LIMIT = 30.0  # seconds; it takes about two

# y = relu(x0 - x1) + relu(x1 - x0) = |x0 - x1|, which is at most 2 for x in [-1, 1]^2.
_QUERY = """(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)
(assert (>= X_0 -1.0)) (assert (<= X_0 1.0)) (assert (>= X_1 -1.0)) (assert (<= X_1 1.0))
(assert (>= Y_0 {threshold}))
"""


def run_doctor(as_json: bool) -> int:
    """Print the state of the installation; returns 1 if something that is needed does not work."""
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in _REQUIRED},
        "optional": {name: _version(name) for name in _OPTIONAL},
        "hardware": _hardware(),
    }
    record["self_test"] = _self_test()
    if as_json:
        emit_json(record)
    else:
        _print(record)
    return 0 if record["self_test"]["ok"] else 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": "cuda" if cuda else "cpu",
        "gpu": torch.cuda.get_device_name(0) if cuda else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _self_test() -> dict[str, Any]:
    """One query that has to be proved and one that has to be refuted, on a network of two neurons."""
    start = time.monotonic()
    found: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for expected, threshold in (("unsat", 2.5), ("sat", 0.5)):
                found[expected] = _answer(Path(folder), threshold)
    except Exception as error:  # whatever it is, the doctor reports it
        found["error"] = f"{type(error).__name__}: {error}"
    ok = found == {"unsat": "unsat", "sat": "sat"}
    return {"ok": ok, "answers": found, "seconds": round(time.monotonic() - start, 2)}


def _answer(folder: Path, threshold: float) -> str:
    from verinet import api

    model, spec = folder / "absolute_difference.onnx", folder / "query.vnnlib"
    model.write_bytes(_tiny_network())
    spec.write_text(_QUERY.format(threshold=threshold))
    return api.verify(str(model), str(spec), timeout=_SELF_TEST_LIMIT, device="cpu").status.value


def _tiny_network() -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = {"w": [[1.0, -1.0], [-1.0, 1.0]], "v": [[1.0], [1.0]]}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"], name="difference"),
            helper.make_node("Relu", ["z"], ["a"], name="relu"),
            helper.make_node("MatMul", ["a", "v"], ["y"], name="sum"),
        ],
        "absolute_difference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _print(record: dict[str, Any]) -> None:
    emit(f"python       {record['python']} on {record['system']}")
    for name, found in record["versions"].items():
        emit(f"{name:12} {found or 'MISSING'}")
    for name, found in record["optional"].items():
        emit(f"{name:12} {found or 'not installed (optional)'}")
    hardware = record["hardware"]
    emit(f"device       {hardware['gpu'] or 'cpu'}, {hardware['cores']} cores, {hardware['threads']} threads")
    test = record["self_test"]
    emit(f"self-test    {'passed' if test['ok'] else 'FAILED'} in {test['seconds']} s")
    if not test["ok"]:
        say(f"error: the self-test answered {test['answers']}; it has to be unsat, then sat")
