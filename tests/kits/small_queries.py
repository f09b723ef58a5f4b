"""Questions about ONNX models of a few nodes, asked through `verinet.verify`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import onnx

import verinet
from verinet.frontends.onnx import load_onnx
from verinet.results import Verdict

Bounds = tuple[float, float]


def text_of(box: Bounds, inputs: int, outputs: int, asserts: str) -> str:
    """VNN-LIB of one interval for all inputs, in exact decimals, and given assertions about outputs."""
    low, high = (format(Decimal(end), "f") for end in box)
    declared = [f"(declare-const {n}_{i} Real)" for n, count in (("X", inputs), ("Y", outputs)) for i in range(count)]
    region = [f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))" for i in range(inputs)]
    return "\n".join([*declared, *region, asserts]) + "\n"


def ask(made: onnx.ModelProto, box: Bounds, asserts: str, folder: Path, timeout: float = 20.0) -> Verdict:
    """The verdict; all inputs have the same interval."""
    model = load_onnx(made)
    path = folder / "question.vnnlib"
    path.write_text(text_of(box, model.graph.input_size, model.graph.output_size, asserts))
    return verinet.verify(model, path, timeout=timeout)
