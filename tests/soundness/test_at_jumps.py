"""Questions about values next to jumps, where float32 and real arithmetic may stand on different sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.kits.small_queries import ask
from tests.unit.frontends.onnx_models import Spec, node
from verinet.errors import ModelError
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx
from verinet.ops.linear.arithmetic import Shift
from verinet.propagation.interval import interval_pass
from verinet.results import Status

BETWEEN = "(assert (>= Y_0 0.2))\n(assert (<= Y_0 0.8))"


@pytest.mark.parametrize("op", ("Sign", "Floor", "Ceil", "Round"))
@pytest.mark.parametrize("box", ((-1.0, 1.0), (-0.25, 0.75), (0.0, 1.0), (-1.0, 0.0)))
def test_functions_of_whole_values_have_none_between_them(op: str, box: tuple[float, float], tmp_path: Path) -> None:
    """Halving boxes never shows one side of a jump alone, so splits at the jump itself have to get their turn soon."""
    made = Spec(op, [node(op)], {"x": (1,)}).model()
    found = ask(made, box, BETWEEN, tmp_path)
    assert found.status is Status.UNSAT and found.stats.domains < 100


def test_the_value_at_the_jump_itself_is_found(tmp_path: Path) -> None:
    """Sign is 0 at 0 only."""
    made = Spec("sign", [node("Sign")], {"x": (1,)}).model()
    found = ask(made, (-1.0, 1.0), "(assert (>= Y_0 -0.1))\n(assert (<= Y_0 0.1))", tmp_path)
    assert found.status is Status.SAT and found.witness is not None and found.witness.outputs.tolist() == [0.0]


def choice() -> Spec:
    """5 where 3 x >= 0.3 in float32 numbers, else x: at x = 0.1 float32 rounds the product up to 0.3, reals do not."""
    chain = [node("Mul", "x three", "h"), node("GreaterOrEqual", "h limit", "c"), node("Where", "c five x", "y")]
    numbers = {"three": 3.0, "limit": 0.3, "five": 5.0}
    return Spec("choice", chain, {"x": (1,)}, {k: np.array([v], np.float32) for k, v in numbers.items()}, opset=16)


def test_a_box_on_a_jump_is_no_misread_file(tmp_path: Path) -> None:
    point = float(np.float32(0.1))
    model = load_onnx(choice().model())
    session = onnxruntime.InferenceSession(choice().model().SerializeToString())
    assert session.run(None, {"x": np.array([point], np.float32)})[0] == 5.0
    assert float(model.graph.to(torch.float64).forward(torch.tensor([[point]], dtype=torch.float64))) < 1.0
    compare_with_onnxruntime(model, np.full((4, 1), point))
    # What ONNX Runtime shows on the file counts, whichever side real arithmetic takes.
    assert ask(choice().model(), (point, point), "(assert (>= Y_0 4.0))", tmp_path).status is Status.SAT


def test_a_network_with_jumps_that_was_misread_is_still_noticed() -> None:
    """The same with a wrong constant: most points beside the sample differ."""
    model = load_onnx(choice().model())
    for node_ in model.graph.nodes:
        if isinstance(node_.op, Shift):
            node_.op.offset.add_(0.05)
    with pytest.raises(ModelError, match="differs from ONNX Runtime"):
        compare_with_onnxruntime(model, np.full((4, 1), 0.1))


@pytest.mark.parametrize("size", (1, 2, 3, 5, 8))
@pytest.mark.parametrize("scale", (1.0, 50.0, 800.0, -800.0, 1e4))
def test_log_sum_exp_of_large_numbers(size: int, scale: float) -> None:
    spec = Spec("lse", [node("Mul", "x s", "h"), node("ReduceLogSumExp", "h", axes=[1], keepdims=0)], {"x": (1, size)})
    made = Spec(spec.name, spec.nodes, spec.inputs, {"s": np.array([scale], np.float32)}).model()
    graph = load_onnx(made).graph.to(torch.float64)
    points = torch.from_numpy(np.random.default_rng(size).uniform(0.5, 1.5, (200, size)))
    exact = torch.logsumexp(points * scale, 1, keepdim=True)
    assert torch.allclose(graph.forward(points), exact, rtol=1e-12, atol=1e-12)
    low, high = interval_pass(graph, points - 0.01, points + 0.01)[-1]
    assert bool((low <= exact).all() and (exact <= high).all())
    assert bool(((high - low) <= 0.0201 * abs(scale) * max(1, size - 1).bit_length() * 2 + 1e-9).all())
    session = onnxruntime.InferenceSession(made.SerializeToString())
    value = session.run(None, {"x": points[:1].numpy().astype(np.float32)})[0]
    assert np.allclose(value, exact[0].numpy(), rtol=1e-5)


def test_questions_about_log_sum_exp_of_large_numbers_are_answered(tmp_path: Path) -> None:
    chain = [node("Mul", "x s", "h"), node("ReduceLogSumExp", "h", axes=[1], keepdims=0)]
    made = Spec("lse", chain, {"x": (1, 3)}, {"s": np.array([800.0], np.float32)}).model()
    assert ask(made, (0.9, 1.1), "(assert (>= Y_0 882.0))", tmp_path).status is Status.UNSAT  # at most 880 + log 3
    assert ask(made, (0.9, 1.1), "(assert (>= Y_0 881.0))", tmp_path).status is Status.SAT
