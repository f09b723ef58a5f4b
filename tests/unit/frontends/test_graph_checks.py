"""Invariants of graphs, dead nodes, and the rewrites that change no number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import InternalError
from verinet.frontends.builder import GraphBuilder
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx
from verinet.ir.check import check_graph
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ir.passes.dead import drop_dead
from verinet.ops.linear.arithmetic import Add, Negate
from verinet.ops.shape.reshape import Reshape

INPUT = Node(InputOp(4), (), (4,), "input")

BROKEN = {
    "no input": Graph((Node(Negate(), (0,), (4,), "a"),)),
    "wrong size": Graph((dataclasses.replace(INPUT, shape=(5,)),)),
    "later node": Graph((INPUT, Node(Negate(), (1,), (4,), "a"))),
    "reads nothing": Graph((INPUT, Node(Negate(), (), (4,), "a"))),
    "two inputs": Graph((INPUT, Node(InputOp(4), (0,), (4,), "a"))),
    "output not flat": Graph((INPUT, Node(Reshape((2, 2)), (0,), (2, 2), "a"))),
    "wrong shape": Graph((INPUT, Node(Negate(), (0,), (3,), "a"))),
    "cannot run": Graph((INPUT, Node(Reshape((3,)), (0,), (3,), "a"))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs_name_the_pass(name: str) -> None:
    with pytest.raises(InternalError, match="some pass"):
        check_graph(BROKEN[name], "some pass")


def test_dead_nodes_are_dropped_and_the_rest_renumbered() -> None:
    nodes = [
        INPUT,
        Node(Negate(), (0,), (4,), "dead"),
        Node(Negate(), (0,), (4,), "a"),
        Node(Add(), (0, 2), (4,), "b"),
        Node(Negate(), (3,), (4,), "dead too"),
    ]
    graph, moved = drop_dead(nodes, 3)
    assert [n.name for n in graph.nodes] == ["input", "a", "b"]
    assert graph.nodes[2].inputs == (0, 1) and moved == {0: 0, 2: 1, 3: 2}
    check_graph(graph)


def kinds(spec: Spec) -> list[str]:
    model = load_onnx(spec.model())
    check_graph(model.graph)
    samples = np.random.default_rng(0).normal(size=(2, model.graph.input_size))
    assert compare_with_onnxruntime(model, samples) < 1e-6
    return [n.op.kind for n in model.graph.nodes[1:]]


def test_matmul_and_add_become_one() -> None:
    chain = [node("MatMul", "x A", "h"), node("Add", "h b")]
    assert kinds(Spec("dense", chain, {"x": (1, 4)}, {"A": weights(4, 3), "b": weights(3)})) == [
        "Reshape",
        "Dense",
        "Reshape",
    ]


def test_a_shared_product_keeps_its_own_value() -> None:
    chain = [node("MatMul", "x A", "h"), node("Add", "h b", "s"), node("Mul", "s h")]
    assert "Shift" in kinds(Spec("shared", chain, {"x": (1, 4)}, {"A": weights(4, 3), "b": weights(3)}))


def test_conv_takes_a_bias_per_channel_but_no_other() -> None:
    base = {"W": weights(3, 2, 2, 2)}
    chain = [node("Conv", "x W", "h"), node("Add", "h b")]
    shapes = {"x": (1, 2, 4, 4)}
    assert "Shift" not in kinds(Spec("channel", chain, shapes, base | {"b": weights(1, 3, 1, 1)}))
    assert "Shift" not in kinds(Spec("scalar", chain, shapes, base | {"b": weights(1)}))
    assert "Shift" in kinds(Spec("row", chain, shapes, base | {"b": weights(3)}))


def test_chains_of_moves_become_one() -> None:
    chain = [
        node("MatMul", "x A", "h"),
        node("Reshape", "h s", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1]),
        node("Flatten", "b", "c"),
        node("Slice", "c from to axis", "d"),
        node("Neg", "d"),
    ]
    constants = {"A": weights(4, 6), "s": ints(1, 2, 3), "from": ints(1), "to": ints(4), "axis": ints(1)}
    assert kinds(Spec("moves", chain, {"x": (1, 4)}, constants)) == ["Reshape", "Dense", "Index", "Neg", "Reshape"]


def test_pieces_put_back_together_vanish() -> None:
    chain = [
        node("MatMul", "x A", "h"),
        node("Split", "h", "a b", axis=1),
        node("Concat", "a b", "c", axis=1),
        node("Neg", "c"),
    ]
    assert kinds(Spec("pieces", chain, {"x": (1, 4)}, {"A": weights(4, 6)})) == ["Reshape", "Dense", "Neg", "Reshape"]


def test_moved_entries_and_constants() -> None:
    builder = GraphBuilder(3)
    x = builder.index(builder.reshape(builder.constant(np.ones(1)), (1,)), np.zeros(3, dtype=np.int64))
    made = builder.moved(np.array([3, 0, 4, 2]), [x], np.array([7.0, 8.0]))
    graph, _ = drop_dead(builder.nodes, made.node)
    assert graph.to(torch.float64).forward(torch.zeros(1, 3).double()).tolist() == [[7, 1, 8, 1]]
