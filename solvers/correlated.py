"""What entries have in common, found at the root and handed to the operators that multiply them.

After rows have bounded the inner nodes once, zonotopes around the factors of products are known. From them come hulls
for the rows of right factors (values of an attention, deviations that a normalisation scales), which bound any mixture
of their entries, and bounds of the second order of scalar products (queries and keys). The network that the search goes
on with has products that know them. They hold over the whole box of the query, so in all its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from verinet.ir.graph import Graph, Node, total
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.ellipsoids import hull_of
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.mixed import Mixed, mixed, takes_rows
from verinet.ops.bilinear.squared import MatMulSquared, second_order
from verinet.ops.linear.reduce import Sum
from verinet.ops.normalisation.squares import SumOfSquares, greatest_square, is_square
from verinet.ops.scalar import DomainError
from verinet.propagation.generators import Generators
from verinet.propagation.interval import Interval

MOST_ENTRIES = 4096
"""Of a factor, whose rows are pulled back to the input at once."""
MOST_NUMBERS = 50_000_000
"""Entries of a factor times all numbers of the network."""
MOST_WORK = 1 << 31
"""Multiplications of the forms of one product of matrices."""
LARGEST = 1e60
"""Numbers that are worked with."""
WORTHWHILE = 0.8
"""How much narrower than by the box a mixture, or the second order, has to be on average."""


def with_hulls(
    graph: Graph, ranges: Sequence[Interval], known: Mapping[int, Interval], over: Callable[[], bool]
) -> Graph:
    """The same function on a box whose `ranges` (1, *shape) are given for all nodes; positions stay what they are.

    `known` are bounds of the inputs of nonlinear nodes. The graph itself where nothing is gained. Products that know
    something already get to know it anew, or keep it when time is over.
    """
    places = [v for v in range(1, len(graph.nodes)) if _informable(graph, v) and _fits(graph, v)]
    if not places:
        return graph
    engine = Generators(graph, ranges, known)
    nodes = list(graph.nodes)
    for position in places:
        if over():
            break
        try:
            found = _informed(engine, graph.nodes[position], known)
        except (DomainError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            continue  # bounds that are infinite, or as good as that
        if found is not None:
            nodes[position] = found
    changed = any(a is not b for a, b in zip(nodes, graph.nodes, strict=True))
    return Graph(tuple(nodes)) if changed else graph


def _informable(graph: Graph, position: int) -> bool:
    """Products with rows in their right factor, and sums of squares along the last axis."""
    node = graph.nodes[position]
    if isinstance(node.op, Sum):
        source = graph.nodes[node.inputs[0]]
        return is_square(source.op) and node.op.axes == (len(source.shape) - 1,) and source.shape[-1] > 1
    return takes_rows(node.op) or isinstance(node.op, SumOfSquares)


def _informed(engine: Generators, node: Node, known: Mapping[int, Interval]) -> Node | None:
    """The node with what zonotopes say about its factors; None where that is not worth its time."""
    if isinstance(node.op, Sum | SumOfSquares):
        return _squares(engine, node, known)
    if not isinstance(node.op, MatMulSquared):
        middle, factor = _hull(engine, node)
        low, high = known[node.inputs[1]]
        if isinstance(node.op, Mixed) or _narrower(factor, (high - low)[0] * 0.5) < WORTHWHILE:
            op = mixed(node.op, middle, factor) if isinstance(node.op, NonlinearOp) else None
            return None if op is None else replace(node, op=op)
    return _squared(engine, node, known)


def _sized(*values: Tensor) -> None:
    """Raises `DomainError` where numbers are not finite, or so large that their squares may not be."""
    if not all(bool((v.abs() < LARGEST).all()) for v in values):
        raise DomainError("a product")


def _fits(graph: Graph, position: int) -> bool:
    entries = max(total(shape) for shape in graph.input_shapes(position))
    numbers = sum(total(graph.nodes[v].shape) for v in graph.ancestors(position))
    return entries <= MOST_ENTRIES and entries * numbers <= MOST_NUMBERS


def _hull(engine: Generators, node: Node) -> tuple[Tensor, Tensor]:
    """Middle (..., k, j) and columns (..., k, j, columns) for the rows of a product's right factor."""
    shape = engine.graph.nodes[node.inputs[1]].shape if isinstance(node.op, MatMulTwo) else node.shape
    middle, generators = engine.around(node.inputs[1])
    _sized(middle, generators)
    return middle.reshape(shape), hull_of(generators.reshape(*shape, -1))


def _narrower(factor: Tensor, radius: Tensor) -> float:
    """About the mean radius of mixtures by the hull over that by the box, for normal coefficients: a column c gives
    sqrt(2 / pi) |c| on average, the ellipsoid at most |L|.
    """
    by_box = float(radius.sum()) * (2 / torch.pi) ** 0.5
    kept = factor.shape[-1] - factor.shape[-2]
    by_hull = factor[..., :kept].square().sum(-2).sqrt().sum() * (2 / torch.pi) ** 0.5
    by_hull = by_hull + factor[..., kept:].square().sum((-1, -2)).sqrt().sum()
    return float(by_hull) / by_box if by_box > 0 else 1.0


def _squares(engine: Generators, node: Node, known: Mapping[int, Interval]) -> Node | None:
    """A sum of squares with the second order bounded as a whole; it reads what is squared, too."""
    squares = node.inputs[0]
    varied = engine.graph.nodes[squares].inputs[0]
    shape = engine.graph.nodes[varied].shape
    middle, generators = engine.around(varied)
    _sized(middle, generators)
    middle, most = middle.reshape(shape), greatest_square(generators.reshape(*shape, -1))
    if isinstance(node.op, SumOfSquares):
        return replace(node, op=replace(node.op, middle=middle, most=most))
    low, high = known[varied]
    if not float(most.sum()) < WORTHWHILE * 0.25 * float((high - low).square().sum()):
        return None
    keepdims = isinstance(node.op, Sum) and node.op.keepdims
    return replace(node, op=SumOfSquares(len(node.shape), keepdims, middle, most), inputs=(squares, varied))


def _squared(engine: Generators, node: Node, known: Mapping[int, Interval]) -> Node | None:
    """Planes with the second order of a product of matrices bounded as a whole."""
    op = node.op
    if not isinstance(op, MatMulTwo):
        return None
    (p, first), (q, second) = engine.pair(*node.inputs)
    _sized(p, first, q, second)
    if total(node.shape) * (2 * op.left[-1]) ** 2 * first.shape[1] > MOST_WORK:
        return None
    least, most = second_order(first.reshape(*op.left, -1), second.reshape(*op.right, -1).movedim(-2, -3))
    if not isinstance(op, MatMulSquared):
        (low_x, high_x), (low_y, high_y) = (known[i] for i in node.inputs)
        by_box = ((high_x - low_x) @ (high_y - low_y)).sum() * 0.25
        if not float((most - least).sum()) * 0.5 < WORTHWHILE * float(by_box):
            return None
    planes = {"p": p.reshape(op.left), "q": q.reshape(op.right), "least": least, "most": most}
    return replace(node, op=MatMulSquared(op.left, op.right, **planes))
