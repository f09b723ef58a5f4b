"""Softmax as two nodes, log-odds and their logistic function: what verification uses instead of `Softmax`.

Backward rows then bound every log-odds number through the network, with all that logits have in common; the joint
planes of `Softmax` only know the box of the logits. Log-odds can be split on as well.
"""

from __future__ import annotations

import dataclasses

from verinet.ir.graph import Graph, Node
from verinet.ops.normalisation.functions import LOG_LOGISTIC
from verinet.ops.normalisation.odds import LogOdds
from verinet.ops.normalisation.shares import Shares
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise


def with_log_odds(graph: Graph) -> Graph:
    """The same function, with log-odds nodes in front of every softmax."""
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        inputs = tuple(moved[i] for i in node.inputs)
        if isinstance(node.op, Softmax):
            nodes.append(Node(LogOdds(node.op.rank), inputs, node.shape, f"{node.name}/odds"))
            op = Elementwise(LOG_LOGISTIC, node.op.rank) if node.op.log else Shares(node.op.rank)
            nodes.append(Node(op, (len(nodes) - 1,), node.shape, node.name))
        else:
            nodes.append(dataclasses.replace(node, inputs=inputs))
        moved[position] = len(nodes) - 1
    return Graph(tuple(nodes))
