"""The norm product: a certified Lipschitz bound for any graph, from norms of its pieces alone.

The graph is cut at the nodes that no path avoids. Linear pieces count with the norm of their composed matrix,
activation layers with the largest norm of any secant matrix, and what is neither is followed into its branches: sums of
branches add up, branches side by side count as the root of the sum of squares (l2) or the largest (l_inf).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.attention import bounds_of, gate_factors, matrix_sizes, probabilities, steepness
from verinet.solvers.lipschitz.chain import Cuts, Section, activation, elementwise_slopes
from verinet.solvers.lipschitz.channels import Channels
from verinet.solvers.lipschitz.convolutions import symbol_bound
from verinet.solvers.lipschitz.extract import push
from verinet.solvers.lipschitz.form import Floats, Matrix
from verinet.solvers.lipschitz.increments import identity
from verinet.solvers.lipschitz.nonlinear import Walk
from verinet.solvers.lipschitz.norms import matrix_norm, operator_norms
from verinet.solvers.lipschitz.ranges import Pair, Ranges, node_ranges
from verinet.solvers.lipschitz.secants import Secants, secant_norm
from verinet.solvers.lipschitz.sparse import linear_piece
from verinet.solvers.lipschitz.tracing import Tracer

from verinet.errors import UnsupportedOperatorError, UsageError
from verinet.ir.graph import Graph, total
from verinet.numerics.rounding import gamma
from verinet.ops.base import LinearOp
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.sorting.sort import SortLast

_UP = 1 + 1e-14
_COMPOSE = 1 << 23
"""Entries up to which linear pieces are composed to a matrix for the l2 norm."""
_SIDE = 1500
_LOCAL = 512


def norm_product(
    graph: Graph,
    norm: str = "2",
    lower: Floats | None = None,
    upper: Floats | None = None,
    ranges: Ranges | None = None,
) -> float:
    """An upper bound of the Lipschitz constant from l2 to l2 (norm "2") or l_inf to l_inf ("inf"), rounding charged.

    Local over a box with `lower` and `upper` (inputs,). Errors as for `extract_form`.
    """
    if norm not in ("2", "inf"):
        raise UsageError(f"unknown norm '{norm}'", hint="use 2 or inf")
    if (lower is None) != (upper is None):
        raise UsageError("a region needs both lower and upper bounds", hint="give both, or neither for a global bound")
    graph = graph.to(torch.float64)
    if ranges is None and lower is not None and upper is not None:
        ranges = node_ranges(graph, lower, upper)
    return _Products(graph, Cuts(graph), ranges, norm).between(0, graph.output)


def lipschitz_between(graph: Graph, ends: tuple[int, int], ranges: Ranges | None) -> float:
    """An upper bound of the l2 Lipschitz constant from one node to another that all its paths go through."""
    return _Products(graph, Cuts(graph), ranges, "2").between(*ends)


@dataclass
class _Products:
    """Bounds of the Lipschitz constant from one node to another, remembered."""

    graph: Graph
    cuts: Cuts
    ranges: Ranges | None
    norm: str
    _known: dict[tuple[int, int], float] = field(default_factory=dict)

    def between(self, start: int, end: int) -> float:
        """From node `start` to node `end`, whose paths to the input all go through `start`."""
        if start == end:
            return 1.0
        if (start, end) not in self._known:
            bound = 1.0
            for section in self.cuts.sections(start, end):
                bound = bound * self._section(section) * _UP
            self._known[start, end] = bound
        return self._known[start, end]

    def _section(self, section: Section) -> float:
        if section.linear:
            return self._linear(section)
        found = [self._layer(section)]
        if not found[0] <= 1.0 + 1e-9:
            found.append(self._branches(section))
        best = min(found)
        if not math.isfinite(best):
            node = self.graph.nodes[section.end]
            raise UnsupportedOperatorError(node.op.kind, node.name, "the network", hint="no norm is known for it")
        return best

    def _linear(self, section: Section) -> float:
        """The norm of the composed matrix, or of its operators one by one where it is large."""
        ends = [total(self.graph.nodes[p].shape) for p in (section.start, section.end)]
        if self.norm == "inf":
            return _sparse_row_sums(linear_piece(self.graph, section.order, section.start))
        if math.prod(ends) <= _COMPOSE and min(ends) <= _SIDE:
            piece = linear_piece(self.graph, section.order, section.start)
            radius = None if piece.radius is None else piece.radius.toarray()
            return matrix_norm(Matrix(piece.value.toarray(), radius))
        return self._operators(section.start, section.end)

    def _operators(self, start: int, end: int) -> float:
        """Linear pieces operator by operator: branches as in `_branches`."""
        if start == end:
            return 1.0
        node = self.graph.nodes[end]
        parts = [self._operators(start, source) for source in node.inputs]
        return self._joined(end, parts)

    def _joined(self, position: int, parts: list[float]) -> float:
        """Bound of a linear node from bounds of its inputs."""
        node = self.graph.nodes[position]
        op, shapes = node.op, self.graph.input_shapes(position)
        if not isinstance(op, LinearOp):
            return math.inf
        if isinstance(op, Concat):
            return max(parts) if self.norm == "inf" else math.hypot(*parts) * _UP
        if self.norm == "inf":
            ones = [torch.full((1, *s), b, dtype=torch.float64) for s, b in zip(shapes, parts, strict=True)]
            slack = 1 + 2 * gamma(op.terms(shapes, node.shape) + 8, torch.float64)
            return float(op.magnitude(*ones).max()) * slack
        norms = list(operator_norms(op, shapes, node.shape))
        if isinstance(op, Convolution | TransposedConvolution):
            norms = [min(norms[0], symbol_bound(op) * (1 + 1e-15))]
        return sum(n * b for n, b in zip(norms, parts, strict=True)) * _UP

    def _layer(self, section: Section) -> float:
        """A layer of activations: the largest norm of P + R Delta Q over its secants."""
        node = self.graph.nodes[section.end]
        if len(section.order) == 1:
            if isinstance(node.op, Elementwise):
                return elementwise_slopes(self.graph, section.end, self.ranges).largest()
            if isinstance(node.op, MaxLast | SortLast):
                return 1.0
            if isinstance(node.op, Softmax):
                return self._softmax(section.end, node.op)
        layer = activation(self.graph, self.cuts, section, self.ranges)
        if layer is None:
            return self._small(section)
        parts = (Matrix(layer.p), Matrix(layer.r), Matrix(layer.q))
        return secant_norm(Secants(*parts, layer.v_block, layer.w_block), self.norm)

    def _small(self, section: Section) -> float:
        """The same from a local form, where the layer is small and has no exact matrices."""
        shape = self.graph.nodes[section.start].shape
        size = total(shape)
        if size > _LOCAL or total(self.graph.nodes[section.end].shape) > _LOCAL or len(section.order) > 32:
            return math.inf
        channels = Channels(size)
        walk = Walk(self.graph, channels, Tracer(self.graph), self.ranges)
        form = channels.form(push(walk, section.start, section.end, identity(size).shaped(shape)).flat())
        if form.c.value.any() or form.c.radius is not None:
            return math.inf
        return secant_norm(Secants(form.dy, form.cy, form.d, form.v_block, form.w_block), self.norm)

    def _branches(self, section: Section) -> float:
        """By the last node: what its inputs do, then the node itself."""
        node = self.graph.nodes[section.end]
        if len(node.inputs) == 1:
            return math.inf  # its input would be a cut
        parts = [self.between(section.start, source) for source in node.inputs]
        if isinstance(node.op, Product | MatMulTwo | Gate):
            return self._product(section.end, parts)
        return self._joined(section.end, parts)

    def _softmax(self, position: int, op: Softmax) -> float:
        """The norm of diag(p) - p p^T, at most 1/2; of I - 1 p^T for the logarithm."""
        node = self.graph.nodes[position]
        width = node.shape[-1]
        if op.log:
            return 2.0 if self.norm == "inf" else (1 + math.sqrt(width)) * _UP
        pair = None if self.ranges is None else self.ranges.of(node.inputs[0])
        return float(steepness(*probabilities(pair, width, total(node.shape) // width)).max())

    def _product(self, position: int, parts: list[float]) -> float:
        """|d(xy)| <= max|y| |dx| + max|x| |dy|; entries that are repeated count by their own norm."""
        node = self.graph.nodes[position]
        walk = Walk(self.graph, Channels(0), Tracer(self.graph), self.ranges)
        first, second = (bounds_of(walk, position, source) for source in node.inputs)
        shapes = self.graph.input_shapes(position)
        copies = [total(node.shape) // total(shape) for shape in shapes]
        if isinstance(node.op, MatMulTwo):
            sizes = matrix_sizes(node.op, (first, second), self.norm)
            batch = total(node.shape[:-2])
            copies = [batch // total(shape[:-2]) for shape in shapes]
        elif isinstance(node.op, Gate):
            values, slopes = (_largest(p) for p in gate_factors(node.op, first, shapes[0], node.name))
            sizes = values, slopes * _largest(second) * _UP
        else:
            sizes = _largest(first), _largest(second)
        grow = [1.0 if self.norm == "inf" else math.sqrt(count) * _UP for count in copies]
        return (sizes[1] * parts[0] * grow[0] + sizes[0] * parts[1] * grow[1]) * _UP


def _largest(pair: Pair) -> float:
    return max(float(end.abs().max()) for end in pair)


def _sparse_row_sums(piece: Any) -> float:
    whole = abs(piece.value) if piece.radius is None else abs(piece.value) + piece.radius
    sums = np.asarray(whole.sum(1)).reshape(-1)
    return float(sums.max(initial=0.0)) * (1 + 2 * gamma(whole.shape[1] + 4, torch.float64))
