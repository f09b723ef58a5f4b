"""Proof that a property is violated on all of a tiny box."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from verinet.ir.graph import Graph
from verinet.ops.scalar import DomainError
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec.property import Rows

Floats = npt.NDArray[np.float64]


def violated_everywhere(graph: Graph, lower: Floats, upper: Floats, clauses: Iterable[Rows]) -> bool:
    """Whether some conjunction of rows `w @ y <= d` certainly holds for every real input of a box.

    `graph` is float64 on the CPU; `lower` and `upper` are (inputs,). False where that cannot be shown.
    """
    low, high = torch.from_numpy(lower).unsqueeze(0), torch.from_numpy(upper).unsqueeze(0)
    try:
        backward = build_backward(graph, low[0], high[0])
        layers = Sweeper(backward).sweep(low, high, SweepOptions())
    except DomainError:
        return False
    for rows in clauses:
        if len(rows) == 0 or rows.weight_error:
            continue
        weights = torch.zeros(len(rows), graph.output_size, dtype=torch.float64)
        lengths = torch.from_numpy(np.diff(rows.starts))
        owner = torch.arange(len(rows)).repeat_interleave(lengths)
        weights.index_put_((owner, torch.from_numpy(rows.columns)), torch.from_numpy(rows.values), accumulate=True)
        owners = RowMap.regular(1, len(rows), low.device)
        bound = backward.run(graph.output, -weights, owners, layers.relaxation)
        most = -backward.concretize(bound, owners, low, high)  # an upper bound of every row
        if bool((most < torch.from_numpy(rows.bounds)).all()):
            return True
    return False
