"""Invariants of a graph, for use after every pass that makes or changes one."""

from __future__ import annotations

import torch

from verinet.errors import InternalError
from verinet.ir.graph import Graph, InputOp, Node


def check_structure(graph: Graph, made_by: str = "graph") -> None:
    """Order and shape of the graph without computing anything.

    Raises:
        InternalError: naming `made_by`, the pass to blame.
    """
    if not graph.nodes or not isinstance(graph.nodes[0].op, InputOp):
        raise InternalError("node 0 is not the input", where=made_by)
    for position, node in enumerate(graph.nodes):
        if isinstance(node.op, InputOp) != (position == 0):
            raise InternalError("the input is not node 0 alone", where=_place(made_by, position, node))
        if position and not node.inputs:
            raise InternalError("a node reads nothing", where=_place(made_by, position, node))
        if any(not 0 <= source < position for source in node.inputs):
            raise InternalError("a node reads a later one", where=_place(made_by, position, node))
    for position in (0, graph.output):
        if len(graph.nodes[position].shape) != 1:
            raise InternalError("inputs and outputs are flat", where=_place(made_by, position, graph.nodes[position]))
    if graph.nodes[0].shape != (getattr(graph.nodes[0].op, "size", -1),):
        raise InternalError("the input has the wrong size", where=made_by)


def check_graph(graph: Graph, made_by: str = "graph") -> None:
    """Structure, and the shape of every node by a run on zeros (two samples, float64).

    Raises:
        InternalError: naming `made_by`, the pass to blame.
    """
    check_structure(graph, made_by)
    values: list[torch.Tensor] = [torch.zeros(2, graph.input_size, dtype=torch.float64)]
    for position, node in enumerate(graph.to(torch.float64).nodes[1:], start=1):
        try:
            value = node.op.forward(*(values[i] for i in node.inputs))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise InternalError(f"a node cannot run: {error}", where=_place(made_by, position, node)) from error
        if tuple(value.shape) != (2, *node.shape):
            found = tuple(value.shape[1:])
            raise InternalError(f"a node gives {found} instead of {node.shape}", where=_place(made_by, position, node))
        values.append(value)


def _place(made_by: str, position: int, node: Node) -> str:
    return f"pass '{made_by}', node {position} '{node.name}' ({node.op.kind})"
