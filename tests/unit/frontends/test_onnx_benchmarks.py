"""Every network of the public benchmark sets is read and agrees with ONNX Runtime, or is refused by operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime, open_session
from verinet.frontends.onnx import inspect_onnx, load_onnx

FOLDERS = ("digits/onnx", "lipschitz", "vnncomp/*/onnx")
UNSUPPORTED: dict[str, str] = {}


def networks(bench: Path) -> list[Path]:
    found = [p for folder in FOLDERS for p in sorted(bench.glob(f"{folder}/**/*.onnx*"))]
    return [p for p in found if p.name.endswith((".onnx", ".onnx.gz"))]


def label(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".onnx")


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_all_networks(bench_folder: Path) -> None:
    refused: dict[str, str] = {}
    paths = networks(bench_folder)
    assert len(paths) > 200
    for path in paths:
        try:
            model = load_onnx(path)
        except UnsupportedOperatorError as error:
            refused[label(path)] = error.op.split(" ")[0]
            assert any(record.status == "unsupported" for record in inspect_onnx(path))
            continue
        try:
            open_session(model)
        except ModelError:
            assert model.element_type == np.float64  # ONNX Runtime has no float64 convolution
            continue
        samples = np.random.default_rng(0).uniform(0.1, 1.0, size=(1, model.graph.input_size))
        assert compare_with_onnxruntime(model, samples) < 1e-4, path.name
    assert refused == {name: op for name, op in UNSUPPORTED.items() if name in {label(p) for p in paths}}
