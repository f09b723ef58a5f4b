"""LSTM, GRU and RNN of many attribute combinations agree with ONNX Runtime, step by step and in both directions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.frontends.onnx_models import Spec, node
from verinet.errors import UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.propagation.interval import interval_pass
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

STEPS, ITEMS, INPUTS, HIDDEN = 3, 2, 4, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def spec(
    op: str, extra: Sequence[str] = ("B",), outputs: str = "", steps: int = STEPS, opset: int = 14, **attributes: Any
) -> Spec:
    """A recurrent network; `extra` names the optional inputs that are there (h and c in capitals are constants)."""
    two = 2 if attributes.get("direction") == "bidirectional" else 1
    draw = np.random.default_rng(sum(map(ord, op + str(attributes))) + len(extra))

    def random(*shape: int) -> np.ndarray:
        return (draw.normal(size=shape) * 0.6).astype(np.float32)

    gates = GATES[op]
    state = (ITEMS, two, HIDDEN) if attributes.get("layout") else (two, ITEMS, HIDDEN)
    known = {
        "W": random(two, gates * HIDDEN, INPUTS),
        "R": random(two, gates * HIDDEN, HIDDEN),
        "B": random(two, 2 * gates * HIDDEN),
        "L": np.array([steps, max(steps - 2, 1)][:ITEMS], dtype=np.int32),
        "H": random(*state),
        "C": random(*state),
        "P": random(two, 3 * HIDDEN),
    }
    order = ("W", "R", "B", "L", "H", "C", "P") if op == "LSTM" else ("W", "R", "B", "L", "H")
    names = [n if n in ("W", "R", *extra) else n.lower() if n.lower() in extra else "_" for n in order]
    shape = (ITEMS, steps, INPUTS) if attributes.get("layout") else (steps, ITEMS, INPUTS)
    inputs: dict[str, Sequence[int]] = {"x": shape} | {n: state for n in names if n in ("h", "c")}
    constants = {n: known[n] for n in names if n in known}
    made = node(op, " ".join(["x", *names]).rstrip(" _"), outputs or "y", hidden_size=HIDDEN, **attributes)
    made.output[:] = ["" if name == "_" else name for name in made.output]
    ends = [n for n in (outputs or "y").split() if n != "_"]
    return Spec(f"{op} {extra} {attributes}", [made], inputs, constants, opset, tuple(ends))


CASES: list[Spec] = [
    *(
        spec(op, extra, outputs, direction=direction)
        for op, direction, extra, outputs in itertools.product(
            ("LSTM", "GRU", "RNN"),
            ("forward", "reverse", "bidirectional"),
            (("B",), ("B", "L", "H"), ("h",), ()),
            ("y e", "_ e"),
        )
    ),
    *(spec("GRU", extra, "y e", linear_before_reset=1) for extra in (("B",), ("B", "L", "h"), ())),
    *(spec("LSTM", extra, "y e k") for extra in (("B", "h", "c"), ("B", "L", "H", "C"), ("B", "L", "P"), ("C", "P"))),
    spec("LSTM", ("B", "P", "C", "L"), "y e k", direction="bidirectional"),
    spec("LSTM", ("B", "C"), "_ _ k", input_forget=1),
    spec("LSTM", ("B",), "y", activations=["Sigmoid", "Softsign", "Relu"]),
    spec("LSTM", ("B",), "y", activations=["HardSigmoid", "Tanh", "Elu"], activation_alpha=[0.3, 0.7]),
    spec(
        "GRU",
        ("B",),
        "y",
        activations=["hardsigmoid", "LeakyRelu"],
        activation_alpha=[0.25, 0.125],
        activation_beta=[0.4],
    ),
    spec("RNN", ("B",), "y e", direction="bidirectional", activations=["Relu", "Softplus"]),
    spec("RNN", ("B",), "y", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.25]),
    spec("RNN", ("B", "H"), "y", activations=["ScaledTanh"], activation_alpha=[1.5], activation_beta=[0.5]),
    spec("GRU", ("B",), "y e", steps=1),
    spec("LSTM", ("B",), "y e k", steps=1, opset=7),
    spec("RNN", ("B",), "y", opset=22),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnxruntime(case: Spec) -> None:
    model = load_onnx(case.model())
    assert [r.status for r in model.records] == ["bounded"]
    samples = np.random.default_rng(1).normal(size=(3, model.graph.input_size))
    assert compare_with_onnxruntime(model, samples) < 1e-5


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("extra", [("B",), ("B", "h")])
def test_the_batch_first_layout_is_the_same_network_with_axes_exchanged(op: str, extra: Sequence[str]) -> None:
    """ONNX Runtime has no kernel for layout 1, so the time-first network, which agrees with it, is the yardstick."""
    names = "y e k" if op == "LSTM" else "y e"
    case, plain = spec(op, extra, names, layout=1), spec(op, extra, names)
    swapped, straight = load_onnx(case.model()), load_onnx(replace(plain, constants=case.constants).model())
    draw = np.random.default_rng(3)
    parts = [draw.normal(size=(STEPS, ITEMS, INPUTS)), draw.normal(size=(1, ITEMS, HIDDEN))][: len(extra)]
    expected = _outputs(straight, parts)
    found = _outputs(swapped, [p.transpose(1, 0, 2) for p in parts])
    assert np.allclose(found[0], expected[0].transpose(2, 0, 1, 3))
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert np.allclose(ours, theirs.transpose(1, 0, 2))


def _outputs(model: Model, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    flat = torch.from_numpy(np.concatenate([p.reshape(-1) for p in parts])).unsqueeze(0)
    values = model.graph.to(torch.float64).forward(flat)[0].numpy()
    ends = np.cumsum([int(np.prod(shape)) for shape in model.output_shapes])[:-1]
    return [v.reshape(shape) for v, shape in zip(np.split(values, ends), model.output_shapes, strict=True)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": 3.0}, "clipping"),
        ({"activations": ["Sigmoid", "Sine", "Tanh"]}, "activation Sine"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "without its parameters"),
        ({"activations": ["Sigmoid"]}, "1 activations"),
    ],
)
def test_what_has_no_bounds_is_refused_by_name(change: Mapping[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=words):
        load_onnx(spec("LSTM", ("B",), "y", **change).model())


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_bounds_hold_the_values(op: str) -> None:
    graph = load_onnx(spec(op, ("B", "L", "h"), "y e", direction="bidirectional").model()).graph.to(torch.float64)
    draw = torch.Generator().manual_seed(2)
    centre = torch.randn(graph.input_size, generator=draw, dtype=torch.float64)
    low, high = (centre - 0.1)[None], (centre + 0.1)[None]
    bounds = interval_pass(graph, low, high)[-1]
    layers = Sweeper(build_backward(graph, low[0], high[0]), targets=[graph.output]).sweep(low, high, SweepOptions())
    tight = layers.known[graph.output]
    assert float((tight[1] - tight[0]).sum()) < 0.95 * float((bounds[1] - bounds[0]).sum())
    points = low + (high - low) * torch.rand(400, graph.input_size, generator=draw, dtype=torch.float64)
    values = graph.forward(points)
    assert bool((tight[0] <= values).all()) and bool((values <= tight[1]).all())
