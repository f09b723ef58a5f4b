"""TopK in all its uses agrees with ONNX Runtime: values, positions, orders, axes, opsets."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
import pytest

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx
from verinet.ops.sorting.sort import SortLast


def top_k(k: int, shape: tuple[int, ...], outputs: str = "v i", opset: int = 13, **attributes: int) -> Spec:
    """TopK, whose positions are cast to numbers so that both outputs can be compared."""
    inputs = "x" if opset < 10 else "x k"
    constants = {} if opset < 10 else {"k": ints(k)}
    attributes = attributes | ({"k": k} if opset < 10 else {})
    made = [node("TopK", inputs, "v i", **attributes)]
    names = outputs.split()
    if "i" in names:
        made.append(node("Cast", "i", "p", to=onnx.TensorProto.FLOAT))
    ends = ["p" if name == "i" else name for name in names]
    return Spec(f"TopK {k} of {shape} {attributes} opset {opset}", made, {"x": shape}, constants, opset, ends)


CASES = [
    *(
        top_k(k, (1, 3, 4), axis=axis, largest=largest)
        for k, axis, largest in itertools.product((1, 2, 3), (-1, 1), (0, 1))
    ),
    top_k(5, (2, 5), largest=0),
    top_k(2, (3, 2), largest=0),
    top_k(2, (3, 2), largest=1),
    top_k(1, (3, 1)),
    top_k(4, (4,), largest=1),
    top_k(3, (1, 6), opset=10, axis=1),
    top_k(2, (6, 2), opset=7, axis=0),
    top_k(3, (3, 4), outputs="v", opset=11, largest=0, sorted=1, axis=0),
    top_k(4, (3, 4), outputs="i", opset=20, largest=1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnxruntime(case: Spec) -> None:
    model = load_onnx(case.model())
    draw = np.random.default_rng(3)
    samples = draw.normal(size=(6, model.graph.input_size))
    samples[3:] = np.round(samples[3:])  # ties
    for sample in samples:  # one by one: with jumps a comparison is content with the best of several
        assert compare_with_onnxruntime(model, sample[None]) < 1e-6


def group_sort(size: int) -> onnx.ModelProto:
    """Reshape, Shape, Gather, TopK, Reshape: how torch exports a GroupSort."""
    chain = [
        node("Reshape", "x g", "a"),
        node("Shape", "a", "s"),
        node("Gather", "s last", "k"),
        node("TopK", "a k", "v i", largest=0),
        node("Reshape", "v flat", "b"),
        node("MatMul", "b w", "y"),
    ]
    constants = {"g": ints(-1, 20 // size, size), "last": ints(-1), "flat": ints(-1, 20), "w": weights(20, 3)}
    return Spec("group sort", chain, {"x": (1, 20)}, constants, 17).model()


@pytest.mark.parametrize(("size", "expected"), [(5, {"SortLast": 1, "Abs": 0}), (2, {"SortLast": 0, "Abs": 1})])
def test_group_sort_is_one_node_and_pairs_share_one_absolute_value(size: int, expected: dict[str, int]) -> None:
    model = load_onnx(group_sort(size))
    functions = Counter(n.op.function.name for n in model.graph.nodes if hasattr(n.op, "function"))
    found = {"SortLast": sum(isinstance(n.op, SortLast) for n in model.graph.nodes), "Abs": functions["Abs"]}
    assert found == expected and sum(functions.values()) == expected["Abs"]  # positions, which nothing reads, are gone
    assert compare_with_onnxruntime(model, np.random.default_rng(0).normal(size=(3, 20))) < 1e-6


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="without sorting"):
        load_onnx(top_k(2, (1, 4), outputs="v", sorted=0).model())
    with pytest.raises(ModelError, match="5 of 4"):
        load_onnx(top_k(5, (1, 4), outputs="v").model())
    chain = [node("Cast", "x", "n", to=onnx.TensorProto.INT64), node("TopK", "x n", "y i")]
    with pytest.raises(UnsupportedOperatorError, match="its k depends"):
        load_onnx(Spec("k", chain, {"x": (1,)}).model())
