"""Every nonlinear node as a fixed linear part plus norm-bounded blocks.

Scalar functions: slope in [c - r, c + r] gives c dx + r w with |w| <= |dx|. Two-sided linear functions of t and maxima
are linear plus a multiple of |t|, so that all that share a number t share its block:
relu(t) = t/2 + |t|/2, max(a, b) = (a + b)/2 + |a - b|/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.lipschitz.blocks import added, picked, scaled, with_absolutes, with_columns
from verinet.solvers.lipschitz.channels import Channels
from verinet.solvers.lipschitz.increments import Increment
from verinet.solvers.lipschitz.ranges import Pair, Ranges
from verinet.solvers.lipschitz.sectors import hinge, hinge_slopes, sector
from verinet.solvers.lipschitz.tracing import Tracer, spread

from verinet.errors import UnsupportedOperatorError
from verinet.ir.graph import Graph
from verinet.ops.bilinear.product import Product
from verinet.ops.scalar import Elementwise


@dataclass(frozen=True)
class Walk:
    """What every step needs: the graph, the blocks so far, who equals whom, and bounds on a region if there is one."""

    graph: Graph
    channels: Channels
    tracer: Tracer
    ranges: Ranges | None

    def range_of(self, position: int) -> Pair | None:
        return None if self.ranges is None else self.ranges.of(position)

    def unsupported(self, position: int, reason: str, hint: str) -> UnsupportedOperatorError:
        node = self.graph.nodes[position]
        kinds = [self.graph.nodes[i].op.kind for i in node.inputs]
        return UnsupportedOperatorError(f"{node.op.kind} {reason}", node.name, "the network", kinds, hint)


def elementwise(walk: Walk, position: int, x: Increment) -> Increment:
    """y = f(x): one scalar block per entry, shared |t| for functions with one kink at 0, none for fixed slopes."""
    node = walk.graph.nodes[position]
    op = node.op
    if not isinstance(op, Elementwise):
        raise TypeError(node.name)
    low, high = walk.range_of(node.inputs[0]) or (None, None)
    sides = hinge_slopes(op.function)
    flat = x.flat()
    if sides is not None:
        parts = hinge(sides, low, high, node.shape)
        line = scaled(x, parts.middle, parts.middle_error).flat()
        active = (parts.half != 0).reshape(-1).nonzero().reshape(-1)
        trace = walk.tracer.of(node.inputs[0]).pick(active.numpy())
        found = walk.channels.absolutes(picked(flat, active), trace, node.name)
        half, error = parts.half.reshape(-1)[active], parts.half_error.reshape(-1)[active]
        return with_absolutes(line, found, half, error, walk.channels, active.numpy()).shaped(node.shape)
    centre, radius = sector(op, low, high, node.shape, node.name).disc()
    line = scaled(x, centre).flat()
    active = (radius != 0).reshape(-1).nonzero().reshape(-1)
    return _with_scalars(walk, line, picked(flat, active), active, radius.reshape(-1)[active], node.name).shaped(
        node.shape
    )


def _with_scalars(walk: Walk, line: Increment, rows: Increment, at: Tensor, radius: Tensor, name: str) -> Increment:
    """line + radius * w with one new scalar block per row, in the entries `at`."""
    column = walk.channels.scalars(rows, name)
    none = torch.zeros_like(radius)
    result = with_columns(line, (column, at.numpy()), radius, none, walk.channels.columns)
    depth = max(line.depth, rows.depth + 1) if at.numel() else line.depth
    return Increment(result.value, result.error, result.norm, depth)


def product(walk: Walk, position: int, x: Increment, y: Increment) -> Increment:
    """z = x y on a box: dz = ym dx + xm dy with ym, xm the means of two values, anywhere within the bounds."""
    node = walk.graph.nodes[position]
    ranges = [walk.range_of(i) for i in node.inputs]
    if ranges[0] is None or ranges[1] is None or not isinstance(node.op, Product):
        raise walk.unsupported(
            position, "of two variables", "its slope grows with its inputs: give a region to bound them"
        )
    shapes = walk.graph.input_shapes(position)
    index = [torch.from_numpy(spread(shape, node.shape)) for shape in shapes]
    both = []
    for own, other in ((0, 1), (1, 0)):
        pair = ranges[other]
        if pair is None:
            raise TypeError(node.name)
        low, high = (end.reshape(-1)[index[other]] for end in pair)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise walk.unsupported(position, "of two variables", "its inputs have no finite bounds on this region")
        both.append(weighted(walk, picked((x, y)[own].flat(), index[own]), (low, high), node.name))
    return added(both[0], both[1]).shaped(node.shape)


def weighted(walk: Walk, rows: Increment, factors: Pair, name: str) -> Increment:
    """rows (flat) times unknown numbers within bounds: the middles are linear, and a scalar block each is the rest."""
    low, high = factors
    middle = 0.5 * low + 0.5 * high
    radius = torch.maximum(high - middle, middle - low) * (1 + 2.0**-51)
    active = ((low != high) & (radius > 0)).nonzero().reshape(-1)
    return _with_scalars(walk, scaled(rows, middle), picked(rows, active), active, radius[active], name)
