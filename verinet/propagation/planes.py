"""Stale planes: linear bounds of inner nodes over the input, kept from a parent domain and valid on every sub-box.

Splitting an input only shrinks the box, so the parent's planes stay sound on the children and need only be
re-concretised there (bound_propagation note, section 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma
from verinet.propagation.backward import InputRows
from verinet.propagation.interval import Interval


@dataclass(slots=True)
class NodePlanes:
    """coefficients (2, domains, entries, axes), constants (2, domains, entries): lower planes, negated upper planes."""

    coefficients: Tensor
    constants: Tensor

    def take(self, index: Tensor) -> NodePlanes:
        return NodePlanes(self.coefficients[:, index], self.constants[:, index])


@dataclass(slots=True)
class Planes:
    """Planes of all nodes over the input coordinates `axes`; the other coordinates are already concretised."""

    axes: Tensor  # (axes,) int64
    nodes: dict[int, NodePlanes]

    def take(self, index: Tensor) -> Planes:
        return Planes(self.axes, {v: p.take(index) for v, p in self.nodes.items()})

    @staticmethod
    def join(parts: list[Planes]) -> Planes:
        first = parts[0]
        if len(parts) == 1:
            return first
        nodes = {
            v: NodePlanes(
                torch.cat([p.nodes[v].coefficients for p in parts], 1),
                torch.cat([p.nodes[v].constants for p in parts], 1),
            )
            for v in first.nodes
        }
        return Planes(first.axes, nodes)

    def concretize(self, lower: Tensor, upper: Tensor, shapes: dict[int, tuple[int, ...]]) -> dict[int, Interval]:
        """Bounds of every node over boxes (domains, inputs), rounding charged."""
        low, high = lower[:, self.axes], upper[:, self.axes]
        rate = gamma(self.axes.numel() + 8, lower.dtype)
        centre, radius = (low + high) * 0.5, (high - low) * (0.5 * (1 + 4 * rate))
        size = torch.maximum(low.abs(), high.abs())
        result: dict[int, Interval] = {}
        for position, planes in self.nodes.items():
            flat = planes.coefficients
            middle = torch.einsum("sbne,be->sbn", flat, centre)
            spread = torch.einsum("sbne,be->sbn", flat.abs(), radius + size * (2 * rate))
            value = middle - spread + planes.constants
            value = value - value.abs() * rate - planes.constants.abs() * rate
            shape = (lower.shape[0], *shapes[position])
            result[position] = (value[0].reshape(shape), -value[1].reshape(shape))
        return result


def fresh_planes(axes: Tensor, known: dict[int, Interval], domains: int) -> Planes:
    """Constant planes (the intervals themselves), to be improved by `scatter`."""
    nodes = {}
    for position, (low, high) in known.items():
        constants = torch.stack([low.reshape(domains, -1), -high.reshape(domains, -1)])
        coefficients = constants.new_zeros(*constants.shape, axes.numel())
        nodes[position] = NodePlanes(coefficients, constants)
    return Planes(axes, nodes)


def scatter(
    planes: Planes, position: int, where: tuple[Tensor, Tensor], rows: InputRows, box: tuple[Tensor, Tensor]
) -> None:
    """Store rows (first half lower bounds, second half negated upper bounds) of entries (domain, index) of a node.

    `box` (domains, inputs) bounds the coordinates outside `axes`, which are concretised into the constant.
    """
    domain, index = where
    count = domain.numel()
    target = planes.nodes[position]
    rest = torch.ones(rows.coefficients.shape[1], dtype=torch.bool, device=domain.device)
    rest[planes.axes] = False
    constants = rows.constant
    if bool(rest.any()):
        owner = torch.cat([domain, domain])
        low, high = box[0][owner][:, rest], box[1][owner][:, rest]
        outer = rows.coefficients[:, rest]
        value = torch.where(outer >= 0, outer * low, outer * high)
        slack = value.abs().sum(-1) * gamma(outer.shape[1] + 8, value.dtype)
        constants = constants + value.sum(-1) - slack
        constants = constants - constants.abs() * gamma(4, value.dtype)
    inner = rows.coefficients[:, planes.axes]
    for side in range(2):
        part = slice(side * count, (side + 1) * count)
        target.coefficients[side, domain, index] = inner[part]
        target.constants[side, domain, index] = constants[part]
