"""What verification makes of a network before it bounds it: the same function, in operators with tighter planes."""

from __future__ import annotations

from verinet.ir.graph import Graph
from verinet.ops.bilinear.factors import with_late_factors
from verinet.ops.normalisation.network import with_log_odds
from verinet.ops.sorting.network import with_comparators


def for_verification(graph: Graph) -> Graph:
    """Comparators for sorting, log-odds for softmax, common factors behind linear layers. Values stay the same."""
    return with_late_factors(with_log_odds(with_comparators(graph)))
