"""The two engines of a search: float32 finds multipliers, float64 decides with rounding charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from verinet.solvers.branching.leaves import Engines, outward

from verinet.ops.scalar import DomainError
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.sweep import Sweeper, SweepOptions


def paired(gate: Backward, sizes: Sequence[Interval], known: Mapping[int, Interval]) -> Engines:
    """A float32 engine to search with beside the float64 one that decides; float64 twice if float32 overflows.

    The first charges nothing for rounding, since whatever it would close is bounded again.

    `sizes` are bounds of every node and `known` those that shape lines, (domains, *shape) each.
    """
    single = torch.float32
    small = [outward(pair, single) for pair in sizes]
    if not all(bool(torch.isfinite(low).all() and torch.isfinite(high).all()) for low, high in small):
        return Engines(gate, gate)
    search = Backward(gate.graph.to(single, gate.device), small, charged=False)
    try:
        Sweeper(search).sweep(
            *small[0], SweepOptions(rows=False), {v: outward(pair, single) for v, pair in known.items()}
        )
    except DomainError:  # exp(100) is finite in float64 only
        return Engines(gate, gate)
    return Engines(search, gate)
