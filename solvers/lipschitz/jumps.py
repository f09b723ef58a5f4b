"""What holds for a network that jumps: ||f(x) - f(y)|| <= slope ||x - y|| + height, over a region.

A choice between two linear maps that do not quite meet (a Householder reflection written with rounded sines, say)
leaves a `Remainder` r(x): tiny, bounded over a region, not continuous. With these numbers as inputs of their own the
network is a continuous g(x, e), and f(x) - f(y) = [g(x, r(x)) - g(y, r(x))] + [g(y, r(x)) - g(y, r(y))]: a Lipschitz
bound in x for fixed e, and one in e for fixed x times the largest ||r(x) - r(y)||.

The bounds of inner nodes have to hold for e within its box whatever x is: bound propagation knows nothing else of a
`Remainder`, so its bounds do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.extract import extract_form, jumps_of, refused_jump, remainder
from verinet.solvers.lipschitz.form import Floats, Form, Ints, Matrix
from verinet.solvers.lipschitz.menu import Ask, Candidate, Subject, bounds_by_menu
from verinet.solvers.lipschitz.ranges import Ranges

from verinet.errors import UsageError
from verinet.ir.graph import Graph, InputOp, Node, total
from verinet.ops.shape.index import Index

_UP = 1 + 1e-13


@dataclass(frozen=True)
class Jumping:
    """The certified bounds: `slopes` best first, the height of all jumps together, and the nodes that jump."""

    slopes: tuple[Candidate, ...]
    height: float
    where: tuple[str, ...]
    form: Form


def bounds_across_jumps(graph: Graph, ranges: Ranges, ask: Ask) -> Jumping:
    """Slope and height of a float64 graph over a region whose ranges come from bound propagation alone.

    Raises `UsageError` for methods that need a network without jumps, and what the methods raise.
    """
    if ask.method not in ("auto", "neuron", "first-order"):
        raise UsageError(
            f"method {ask.method} is for networks without jumps", hint="use --method auto, neuron or first-order"
        )
    positions = jumps_of(graph)
    largest = [_size(graph, p, ranges) for p in positions]
    form = extract_form(*_continuous(graph, positions, ranges))
    count = graph.input_size
    by_input = columns_of(form, np.arange(count))
    by_jump = columns_of(form, np.arange(count, form.dy.value.shape[1]))
    slopes = bounds_by_menu(Subject(by_input, None, None), replace(ask, deadline=_middle(ask)))
    reach = bounds_by_menu(Subject(by_jump, None, None), replace(ask, method="auto"))[0].upper
    height = reach * _distance(np.concatenate(largest), ask.norm) * _UP + 1e-300
    names = tuple(graph.nodes[p].name for p in positions)
    return Jumping(tuple(slopes), height, names, by_input)


def _middle(ask: Ask) -> float:
    return ask.deadline - 0.5 * max(ask.left(), 0.0)


def _size(graph: Graph, position: int, ranges: Ranges) -> Floats:
    """The largest |entry| of a node that jumps, over the region."""
    pairs = [ranges.of(source) for source in graph.nodes[position].inputs]
    if any(pair is None for pair in pairs):
        raise refused_jump(graph)
    lows, highs = (
        [end.unsqueeze(0) for end in ends] for ends in zip(*(p for p in pairs if p is not None), strict=True)
    )
    found: Floats = remainder(graph, position).interval(lows, highs)[1].reshape(-1).numpy()
    return found


def _distance(largest: Floats, norm: Norm) -> float:
    """At least the p-norm of the difference of two vectors whose entries are at most these in size."""
    p = norm[0] if isinstance(norm, tuple) else float(norm)
    spread = 2.0 * largest
    if math.isinf(p) or not spread.size or not spread.any():
        return float(spread.max(initial=0.0))
    top = float(spread.max())
    return float(top * np.sum((spread / top) ** p) ** (1 / p)) * (1 + 1e-9)


def _continuous(graph: Graph, positions: Sequence[int], ranges: Ranges) -> tuple[Graph, None, None, None, Ranges]:
    """The graph with further inputs in place of the nodes that jump; other positions move up by one."""
    sizes = [total(graph.nodes[p].shape) for p in positions]
    count = graph.input_size
    starts = dict(zip(positions, count + np.cumsum([0, *sizes[:-1]]), strict=True))
    whole = count + sum(sizes)
    nodes = [Node(InputOp(whole), (), (whole,), "x and jumps"), _slice(0, (count,), whole, "x")]
    for position, node in enumerate(graph.nodes[1:], 1):
        if position in starts:
            nodes.append(_slice(int(starts[position]), node.shape, whole, node.name))
        else:
            nodes.append(replace(node, inputs=tuple(i + 1 for i in node.inputs)))
    moved = Ranges({p + 1: pair for p, pair in ranges.known.items()}, {p + 1: g for p, g in ranges.gaps.items()})
    return Graph(tuple(nodes)), None, None, None, moved


def _slice(start: int, shape: tuple[int, ...], whole: int, name: str) -> Node:
    return Node(Index(start + torch.arange(total(shape)).reshape(shape), whole), (0,), shape, name)


def columns_of(form: Form, chosen: Ints) -> Form:
    """The same network as a function of some inputs, the others fixed."""

    def cut(matrix: Matrix) -> Matrix:
        radius = None if matrix.radius is None else np.ascontiguousarray(matrix.radius[:, chosen])
        return Matrix(np.ascontiguousarray(matrix.value[:, chosen]), radius)

    parts = (form.v_block, form.w_block, form.layer, form.labels, form.implicit)
    return Form(form.c, cut(form.d), form.cy, cut(form.dy), *parts)
