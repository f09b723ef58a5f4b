"""log(sum of exp) as a tree of log(e^a + e^b) = b + softplus(a - b): what Lipschitz bounds use.

Every slope of softplus lies between 0 and 1, so the tree has a global constant, which sums of exponentials have not.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, Node, Op, Shape
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.log_sum_exp import LogSumExp
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape


def with_softplus(graph: Graph) -> Graph:
    """The same function, with a tree in place of every `LogSumExp`."""
    if not any(isinstance(node.op, LogSumExp) for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        inputs = tuple(moved[i] for i in node.inputs)
        if isinstance(node.op, LogSumExp):
            _append_tree(nodes, inputs[0], node)
        else:
            nodes.append(dataclasses.replace(node, inputs=inputs))
        moved[position] = len(nodes) - 1
    return Graph(tuple(nodes))


def _append_tree(nodes: list[Node], source: int, whole: Node) -> None:
    """Append one tree; the last node has the name and shape of what it replaces."""
    softplus = find("Softplus")
    if softplus is None:
        raise InternalError("the activation Softplus is not registered")

    def emit(op: Op, inputs: tuple[int, ...], shape: Shape, what: str) -> int:
        nodes.append(Node(op, inputs, shape, f"{whole.name}/{what}"))
        return len(nodes) - 1

    level = 0
    while (count := nodes[source].shape[-1]) > 1:
        apart, kept, back = _matrices(count)
        between, after = ((*whole.shape, m.shape[1]) for m in (apart, kept))
        difference = emit(Dense(apart), (source,), between, f"difference{level}")
        raised = emit(Elementwise(softplus, len(between)), (difference,), between, f"softplus{level}")
        second = emit(Dense(kept), (source,), after, f"second{level}")
        spread = emit(Dense(back), (raised,), after, f"spread{level}")
        source, level = emit(Add(), (second, spread), after, f"level{level}"), level + 1
    nodes.append(Node(Reshape(whole.shape), (source,), whole.shape, whole.name))


def _matrices(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """x @ apart = a - b of every pair, x @ kept = b of every pair and who has none, and where the pairs' values go."""
    pairs = count // 2
    apart = torch.zeros(count, pairs, dtype=torch.float64)
    kept = torch.zeros(count, count - pairs, dtype=torch.float64)
    for pair in range(pairs):
        apart[pair, pair], apart[pairs + pair, pair] = 1.0, -1.0
        kept[pairs + pair, pair] = 1.0
    if count % 2:
        kept[count - 1, pairs] = 1.0
    return apart, kept, torch.eye(pairs, count - pairs, dtype=torch.float64)
