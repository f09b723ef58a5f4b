"""Pow with a variable exponent: values as ONNX Runtime has them, bounds, verdicts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

import verinet
from tests.unit.frontends.onnx_models import Spec, node
from verinet.errors import ModelError, UnsupportedOperatorError, VerinetError
from verinet.frontends.crosscheck import compare_with_onnxruntime, open_session, run_session
from verinet.frontends.onnx import inspect_onnx, load_onnx

KINDS = pytest.mark.parametrize("kind", (TensorProto.FLOAT, TensorProto.DOUBLE), ids=("float32", "float64"))
NUMBERS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
BASES = [0.0, 1.0, 2.5, 0.25]


def both(kind: int) -> onnx.ModelProto:
    """x^z entry by entry."""
    return Spec("both", [node("Pow", "x z")], {"x": (2, 3), "z": (3,)}, dtype=kind).model()


def inner(kind: int, offset: float) -> onnx.ModelProto:
    """(x^2 + offset)^(x w), with the base and the exponent made of the same two inputs."""
    number = NUMBERS[kind]
    nodes = [node("Mul", "x x", "s"), node("Add", "s c", "b"), node("MatMul", "x w", "e"), node("Pow", "b e", "y")]
    constants = {"c": np.array(offset, number), "w": np.array([[0.5, -1.0], [1.0, 0.25]], number)}
    return Spec("inner", nodes, {"x": (1, 2)}, constants, dtype=kind).model()


def constant_base(kind: int, base: list[float]) -> onnx.ModelProto:
    return Spec("base", [node("Pow", "B x")], {"x": (2, len(base))}, {"B": np.array(base, NUMBERS[kind])},
                dtype=kind).model()  # fmt: skip


def runtime(model: onnx.ModelProto, points: np.ndarray) -> np.ndarray:
    loaded = load_onnx(model)
    session = open_session(loaded)
    return np.stack([run_session(session, loaded, x) for x in points])


@KINDS
@pytest.mark.parametrize("make", ("both", "inner", "base"))
def test_values_are_those_of_onnx_runtime(kind, make):
    model = {"both": both(kind), "inner": inner(kind, 0.3), "base": constant_base(kind, BASES)}[make]
    loaded = load_onnx(model)
    random = np.random.default_rng(3)
    points = random.uniform(0.05, 3.0, (50, loaded.graph.input_size))
    assert compare_with_onnxruntime(loaded, points) < (1e-5 if kind == TensorProto.FLOAT else 1e-13)
    rounded = points.astype(NUMBERS[kind]).astype(np.float64)
    found = loaded.graph.to(torch.float64).forward(torch.from_numpy(rounded)).numpy()
    np.testing.assert_allclose(found, runtime(model, rounded), rtol=1e-5)


@KINDS
def test_bases_zero_and_one_are_exact(kind):
    graph = load_onnx(constant_base(kind, [1.0, 0.0, 1.0, 0.0])).graph.to(torch.float64)
    low, high = np.array([-3.0, 0.0] * 4), np.array([5.0, 0.0, 5.0, 2.0] * 2)
    bounds = verinet.bounds(load_onnx(constant_base(kind, [1.0, 0.0, 1.0, 0.0])), verinet.box(low, high))
    np.testing.assert_allclose(bounds.lower, [1.0, 1.0, 1.0, 0.0] * 2, atol=1e-13)  # the last affine node rounds
    np.testing.assert_allclose(bounds.upper, 1.0, atol=1e-13)
    points = torch.tensor([[7.0, 0.0, -7.0, 0.5] * 2], dtype=torch.float64)
    assert graph.forward(points)[0].tolist() == [1.0, 1.0, 1.0, 0.0] * 2
    positive = verinet.bounds(
        load_onnx(constant_base(kind, [0.0])), verinet.box(np.array([1e-9, 0.5]), np.array([1.0, 2.0]))
    )
    np.testing.assert_allclose([positive.lower, positive.upper], 0.0, atol=1e-13)


@KINDS
@given(seed=st.integers(0, 2**32 - 1), reach=st.sampled_from([0.0, 0.05, 0.5]))
def test_bounds_hold(kind, seed, reach):
    random = np.random.default_rng(seed)
    model = load_onnx([both(kind), inner(kind, 0.4), constant_base(kind, [0.5, 1.0, 3.0])][seed % 3])
    center = random.uniform(0.6, 2.0, model.graph.input_size)
    method = ("interval", "linear", "auto")[seed // 3 % 3]
    bounds = verinet.bounds(model, verinet.box(center - reach, center + reach), method=method)
    points = center + reach * np.concatenate([random.uniform(-1, 1, (200, center.size)),
                                              random.choice([-1.0, 1.0], (50, center.size))])  # fmt: skip
    values = model.graph.to(torch.float64).forward(torch.from_numpy(points)).numpy()
    slack = 1e-14 * (1 + np.abs(values))  # of the values themselves
    assert (bounds.lower <= values + slack).all() and (values - slack <= bounds.upper).all()


def property_text(limit: float) -> str:
    """Whether the first output of `inner` reaches a limit on a small box."""
    lines = ["(declare-const X_0 Real)", "(declare-const X_1 Real)", "(declare-const Y_0 Real)",
             "(declare-const Y_1 Real)", "(assert (>= X_0 0.5))", "(assert (<= X_0 1.0))", "(assert (>= X_1 0.5))",
             "(assert (<= X_1 1.0))", f"(assert (>= Y_0 {limit}))"]  # fmt: skip
    return "\n".join(lines)


@KINDS
@pytest.mark.parametrize(("offset", "limit", "status"), [(0.3, 1.4837, verinet.Status.UNSAT),
                                                         (0.3, 1.4812, verinet.Status.SAT)])  # fmt: skip
def test_both_verdicts(kind, offset, limit, status, tmp_path):
    """The greatest value of (x^2 + 0.3)^(x / 2 + z) on the box is 1.3^1.5 = 1.48222..., at a corner."""
    onnx.save(inner(kind, offset), str(tmp_path / "inner.onnx"))
    (tmp_path / "p.vnnlib").write_text(property_text(limit))
    verdict = verinet.verify(tmp_path / "inner.onnx", tmp_path / "p.vnnlib", timeout=30)
    assert verdict.status is status


@KINDS
def test_a_base_that_reaches_zero_is_refused_by_name(kind, tmp_path):
    onnx.save(inner(kind, -0.5), str(tmp_path / "inner.onnx"))
    (tmp_path / "p.vnnlib").write_text(property_text(1e6))
    with pytest.raises(VerinetError, match=r"node 'y.*(?s:.)*try.*power") as caught:
        verinet.verify(tmp_path / "inner.onnx", tmp_path / "p.vnnlib", timeout=10)
    assert caught.value.exit_code == 3


def test_what_cannot_be_a_real_power_is_refused():
    with pytest.raises(UnsupportedOperatorError, match="negative constant base"):
        load_onnx(constant_base(TensorProto.FLOAT, [2.0, -1.0]))
    record = inspect_onnx(constant_base(TensorProto.FLOAT, [2.0, -1.0]))[0]
    assert "negative constant base" in record.detail
    with pytest.raises(ModelError, match="entry .1,. is nan"):
        load_onnx(constant_base(TensorProto.FLOAT, [2.0, float("nan")]))


@KINDS
def test_a_sample_below_zero_is_no_difference_to_onnx_runtime(kind):
    """(-2)^2 = 4 there, while the real function x^y ends at x = 0: the message says what to do."""
    model = load_onnx(both(kind))
    with pytest.raises(ModelError, match="(?s)node 'y/1'.*base above 0"):
        compare_with_onnxruntime(model, np.array([[-2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]]))


def test_every_module_of_handlers_is_registered():
    """One list names them all; a module that is missing there would make its operators unsupported."""
    import verinet.frontends.handlers as everything

    folder = Path(everything.__file__).parent
    names = {path.stem for path in folder.glob("handlers_*.py")}
    assert names and names == {name for name in vars(everything) if name.startswith("handlers_")}
    assert "Pow" in everything.HANDLERS


@KINDS
@pytest.mark.parametrize(("base", "joined"), [([2.0, 3.0], True), ([0.0, 0.0], False), ([1.0, 0.0], False)])
def test_powers_of_zero_stay_out_of_joined_functions(kind, base, joined):
    """t tanh(t) of t = b^x is one function of x by logarithms, which 0 does not have."""
    nodes = [node("Pow", "B x", "t"), node("Tanh", "t", "h"), node("Mul", "t h", "y")]
    model = load_onnx(Spec("joined", nodes, {"x": (2,)}, {"B": np.array(base, NUMBERS[kind])}, dtype=kind).model())
    functions = [getattr(n.op, "function", None) for n in model.graph.nodes]
    assert any(f is not None and f.name == "0^x" for f in functions) is not joined
    compare_with_onnxruntime(model, np.array([[0.5, 1.5], [0.0, 0.25]]))
    bounds = verinet.bounds(model, verinet.box(np.full(2, 0.5), np.full(2, 1.5)))
    values = model.graph.to(torch.float64).forward(torch.tensor([[0.5, 1.5], [1.0, 0.75]], dtype=torch.float64)).numpy()
    assert (bounds.lower <= values + 1e-12).all() and (values - 1e-12 <= bounds.upper).all()
