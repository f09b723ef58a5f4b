"""Clauses of several rows as one: the clause multipliers lambda of bound propagation.

Nothing satisfies a conjunction `c_j y <= d_j for all j` iff max_j (c_j y - d_j) > 0 everywhere. With that maximum as a
node of the graph, its lower line sum_j lambda_j (c_j y - d_j), lambda on the simplex, is the combined row of the clause
(a Farkas multiplier of the output polytope; bound_propagation note, section 4.1), optimised like any slope.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from verinet.solvers.query import ClauseTable, Query

from verinet.ir.graph import Graph, Node
from verinet.ops.linear.dense import Dense
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.shape.reshape import Reshape

MOST_ROWS = 64


def is_conjunction(query: Query) -> bool:
    """One box, one clause, a few rows with exact weights: what `as_maximum` can rewrite."""
    table = query.table
    rows = int(table.starts[-1])
    return query.boxes == 1 and int(table.clauses[0]) == 1 and 1 < rows <= MOST_ROWS and table.weight_error == 0.0


def as_maximum(query: Query) -> Query:
    """The same query over a graph with one output, max_j (c_j y - d_j): closed when that is > 0."""
    table = query.table
    return replace(query, graph=_extended(query.graph, table.weights, table.bounds), table=_single(table))


def _extended(graph: Graph, weights: Tensor, bounds: Tensor) -> Graph:
    rows = weights.shape[0]
    last = graph.output
    added = (
        Node(Dense(weights.T.contiguous(), -bounds), (last,), (rows,), "clause rows"),
        Node(Reshape((1, rows)), (last + 1,), (1, rows), "clause"),
        Node(MaxLast(1), (last + 2,), (1,), "clause maximum"),
    )
    return Graph((*graph.nodes, *added))


def _single(table: ClauseTable) -> ClauseTable:
    device = table.weights.device
    one = torch.ones(1, 1, dtype=table.weights.dtype, device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    # Equality settles the clause only where every row is strict.
    strict = table.strict.all().reshape(1)
    starts = torch.tensor([0, 1], device=device)
    return ClauseTable(one, one[0] * 0.0, strict, 0.0, zero, starts, torch.ones_like(zero))
