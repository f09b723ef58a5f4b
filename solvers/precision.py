"""How much of a certified margin is rounding charge: whether a gap that is left could be closed in float64 at all."""

from __future__ import annotations

import torch
from verinet.solvers.query import Query

from verinet.numerics.memory import out_of_memory
from verinet.ops.scalar import DomainError
from verinet.propagation.backward import Backward
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

_MOST_ROWS = 32
_ROOM = 4.0  # rows of a leaf have other coefficients than those of the root


def precision_floor(query: Query) -> float:
    """About the gap that rounding alone can leave: what the charges take from the margins of the root's final rows.

    The same rows are bounded twice, as always and without charges; only for saying why a search has ended. 0 where the
    root has no bounds, or no time or memory is left to look.
    """
    if query.clock.over():
        return 0.0
    try:
        return _ROOM * _taken(query)
    except DomainError:
        return 0.0
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return 0.0


def _taken(query: Query) -> float:
    lower, upper = query.lower.amin(0), query.upper.amax(0)
    graph, table = query.graph, query.table
    ids = torch.arange(min(_MOST_ROWS, int(table.bounds.numel())), device=lower.device)
    charged = build_backward(graph, lower, upper, query.clock.over)
    layers = Sweeper(charged).sweep(lower.unsqueeze(0), upper.unsqueeze(0), SweepOptions(rows=False))
    nothing = [(torch.zeros(1, *n.shape).to(lower), torch.zeros(1, *n.shape).to(lower)) for n in graph.nodes]
    owners = RowMap.regular(1, int(ids.numel()), lower.device)
    found = []
    for engine in (charged, Backward(graph, nothing)):
        rows = engine.run(graph.output, table.weights[ids], owners, layers.relaxation)
        found.append(engine.concretize(rows, owners, layers.lower, layers.upper))
    taken = found[1] - table.bounds[ids] - table.margins(ids, found[0], charged.output_size())
    taken = taken[torch.isfinite(taken)]
    return float(taken.max()) if taken.numel() else 0.0
