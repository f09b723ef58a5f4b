"""Rewrites that change no number: chains of moves become one, and a bias joins the product before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from verinet.ir.graph import Node, total
from verinet.ops.linear.arithmetic import Shift
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index, index_op
from verinet.ops.shape.reshape import Reshape


def simplify(nodes: Sequence[Node]) -> tuple[list[Node], Mapping[int, int]]:
    """Rewritten nodes at the same positions (some are dead afterwards), and which node now stands for which."""
    work = _Simplifier(list(nodes))
    for position in range(1, len(nodes)):
        work.visit(position)
    return work.nodes, work.aliases


class _Simplifier:
    """Rewrites nodes in place, in order; `aliases` maps a node that does nothing to the one it copies."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.aliases: dict[int, int] = {}
        self.readers = [0] * len(nodes)
        for node in nodes:
            for source in set(node.inputs):
                self.readers[source] += 1

    def visit(self, position: int) -> None:
        node = self.nodes[position]
        inputs = tuple(self.aliases.get(i, i) for i in node.inputs)
        node = self.nodes[position] = dataclasses.replace(node, inputs=inputs)
        if isinstance(node.op, Reshape | Index):
            self._join_moves(position, node)
        elif isinstance(node.op, Concat):
            self._join_concat(position, node)
        elif isinstance(node.op, Shift):
            self._absorb(position, node, node.op)

    def _base(self, position: int) -> tuple[int, Tensor | None]:
        """The node that a chain of moves starts from, and flat positions in it (None: all, in order)."""
        node = self.nodes[position]
        if isinstance(node.op, Reshape):
            return node.inputs[0], None
        if isinstance(node.op, Index):
            return node.inputs[0], node.op.index.reshape(-1)
        return position, None

    def _join_moves(self, position: int, node: Node) -> None:
        # Earlier nodes are already joined, so one step back reaches the start of the chain.
        base, inner = self._base(node.inputs[0])
        outer = node.op.index.reshape(-1) if isinstance(node.op, Index) else None
        self._set_move(position, base, _composed(outer, inner))

    def _set_move(self, position: int, base: int, index: Tensor | None) -> None:
        node, size = self.nodes[position], total(self.nodes[base].shape)
        if index is not None and index.numel() == size and torch.equal(index, torch.arange(size)):
            index = None
        if index is not None:
            op: Reshape | Index = index_op(index.reshape(node.shape), size)
        elif self.nodes[base].shape == node.shape:
            self.aliases[position] = base
            return
        else:
            op = Reshape(node.shape)
        self.nodes[position] = dataclasses.replace(node, op=op, inputs=(base,))

    def _join_concat(self, position: int, node: Node) -> None:
        """Pieces of one tensor side by side are an index of it."""
        found = [self._base(i) for i in node.inputs]
        base = found[0][0]
        if any(start != base for start, _ in found):
            return
        numbers = np.arange(total(self.nodes[base].shape))
        axis = node.op.axis if isinstance(node.op, Concat) else 0
        pieces = [
            (numbers if index is None else index.numpy()).reshape(self.nodes[i].shape)
            for i, (_, index) in zip(node.inputs, found, strict=True)
        ]
        self._set_move(position, base, torch.from_numpy(np.concatenate(pieces, axis=axis)).reshape(-1))

    def _absorb(self, position: int, node: Node, shift: Shift) -> None:
        source = node.inputs[0]
        before = self.nodes[source]
        op = before.op
        if self.readers[source] != 1 or not isinstance(op, Dense | Convolution | TransposedConvolution):
            return
        offset = _offset_for(op, shift.offset, before)
        if op.offset is None and offset is not None:
            self.nodes[position] = dataclasses.replace(
                node, op=dataclasses.replace(op, offset=offset), inputs=before.inputs
            )


def _composed(outer: Tensor | None, inner: Tensor | None) -> Tensor | None:
    """First `inner`, then `outer`; -1 stays -1."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return torch.where(outer >= 0, inner[outer.clamp(min=0)], outer)


def _offset_for(op: Dense | Convolution | TransposedConvolution, offset: Tensor, node: Node) -> Tensor | None:
    """The shift as the operator's own offset, or None if it does not have that form."""
    if isinstance(op, Dense):
        return offset
    axes = op.windows.axes
    shape = (1,) * max(axes + 1 - offset.dim(), 0) + tuple(offset.shape)
    per_channel = all(extent == 1 for extent in shape[-axes:]) and all(extent == 1 for extent in shape[: -axes - 1])
    return offset.reshape(-1).expand(node.shape[1]).contiguous() if per_channel else None
