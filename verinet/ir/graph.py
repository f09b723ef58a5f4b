"""The immutable graph: one flat input vector, nodes in topological order, one flat output vector.

Every tensor carries one leading axis of ours (domains, rows or samples) in front of the full ONNX shape; the ONNX batch
axis, fixed to 1, is an ordinary axis. So no operator ever has to guess which axis is the batch.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Op(ABC):
    """What one node computes. Subclasses are frozen dataclasses whose tensors are parameters."""

    kind: ClassVar[str] = "op"

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Value of the node: (batch, *input shape) each to (batch, *output shape)."""

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """A copy whose floating tensors have `dtype` and whose tensors live on `device`."""
        changes = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        return dataclasses.replace(self, **changes) if changes else self  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class InputOp(Op):
    """The flat input vector X_0 .. X_{size-1} of all network inputs in order."""

    kind: ClassVar[str] = "Input"
    size: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation. `inputs` are positions of earlier nodes; `shape` has no leading batch axis.

    `name` is for people.
    """

    op: Op
    inputs: tuple[int, ...]
    shape: Shape
    name: str


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes in topological order. Node 0 is the `InputOp`; the last node is the flat output, shape (outputs,)."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @property
    def input_size(self) -> int:
        return self.nodes[0].shape[0]

    @property
    def output_size(self) -> int:
        return self.nodes[-1].shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Network value: (batch, inputs) to (batch, outputs)."""
        return self.forward_all(x)[-1]

    def forward_all(self, x: Tensor) -> list[Tensor]:
        """Values of all nodes, in node order."""
        values: list[Tensor] = []
        for node in self.nodes:
            arguments = [values[i] for i in node.inputs] if node.inputs else [x]
            values.append(node.op.forward(*arguments))
        return values

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Graph:
        """A copy with all parameters cast."""
        where = torch.device(device)
        return Graph(tuple(dataclasses.replace(n, op=n.op.to(dtype, where)) for n in self.nodes))

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every node the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            for source in dict.fromkeys(node.inputs):
                readers[source].append(position)
        return tuple(tuple(r) for r in readers)

    def ancestors(self, start: int) -> tuple[int, ...]:
        """`start` and everything it depends on, latest first: the order of a backward pass."""
        seen = {start}
        for position in range(start, -1, -1):
            if position in seen:
                seen.update(self.nodes[position].inputs)
        return tuple(sorted(seen, reverse=True))

    def input_shapes(self, position: int) -> tuple[Shape, ...]:
        """Shapes of the inputs of one node."""
        return tuple(self.nodes[i].shape for i in self.nodes[position].inputs)


def total(shape: Sequence[int]) -> int:
    """Number of entries of a shape."""
    count = 1
    for extent in shape:
        count *= extent
    return count
