"""What the values before every activation can be on a box: certified bounds that make slope sectors narrower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats

from verinet.errors import UsageError
from verinet.ir.graph import Graph, total
from verinet.ops.pooling.maximum import MaxLast
from verinet.propagation.backward import Backward
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward

_CHUNK = 1 << 21
"""Entries of the coefficients that are propagated at a time."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Ranges:
    """Bounds over a convex set of inputs: `known[position]` holds (low, high) of a node, each of the node's shape.

    Needed for every input of a nonlinear node; a missing one counts as unbounded. `gaps[position]`, for inputs of a
    maximum over the last axis, bounds the differences of candidates 0 - 1, 2 - 3, ...: (groups, pairs) each.
    """

    known: Mapping[int, Pair]
    gaps: Mapping[int, Pair] = field(default_factory=dict)

    def of(self, position: int) -> Pair | None:
        return self.known.get(position)


def check_box(graph: Graph, lower: Floats, upper: Floats) -> Pair:
    """Flat float64 tensors of a box of inputs; `UsageError` where it does not fit the network or is empty."""
    size = graph.input_size
    for name, end in (("lower", lower), ("upper", upper)):
        if np.asarray(end).size != size:
            raise UsageError(
                f"the region has {np.asarray(end).size} {name} bounds, the network {size} inputs",
                hint="give one number per input, flat, in the order X_0, X_1, ...",
            )
    low, high = (torch.tensor(np.asarray(e, dtype=np.float64).reshape(-1)) for e in (lower, upper))
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise UsageError("the region has a bound that is not a finite number", hint="give a bounded box")
    if bool((low > high).any()):
        raise UsageError("the region is empty: a lower bound is above its upper bound", hint="swap the two")
    return low, high


def node_ranges(graph: Graph, lower: Floats, upper: Floats) -> Ranges:
    """Ranges over the box [lower, upper] (inputs,) by intervals and backward rows, rounding charged.

    Raises `DomainError` where the box takes a function out of its domain.
    """
    low, high = check_box(graph, lower, upper)
    graph = graph.to(torch.float64)
    return swept(build_backward(graph, low, high), (low, high))


def swept(backward: Backward, box: Pair, known: Ranges | None = None, late: Callable[[], bool] | None = None) -> Ranges:
    """Ranges over what `backward` concretizes to, at least as tight as `known`; fewer rows once `late` says so."""
    low, high = box
    before = {} if known is None else {p: (a.unsqueeze(0), b.unsqueeze(0)) for p, (a, b) in known.known.items()}
    options = SweepOptions(deadline=late)
    layers = Sweeper(backward).sweep(low.unsqueeze(0), high.unsqueeze(0), options, before)
    found = {position: (pair[0][0], pair[1][0]) for position, pair in layers.known.items()}
    gaps: dict[int, Pair] = {} if known is None else dict(known.gaps)
    for node in backward.graph.nodes:
        if isinstance(node.op, MaxLast) and not (late is not None and late()):
            source = node.inputs[0]
            gaps[source] = meet(_gaps(backward, layers, source), gaps.get(source))
    return Ranges(found, gaps)


def meet(first: Pair, second: Pair | None) -> Pair:
    """Both bounds hold; a NaN gives way."""
    if second is None:
        return first
    return torch.fmax(first[0], second[0]), torch.fmin(first[1], second[1])


def _gaps(backward: Backward, layers: Layers, position: int) -> Pair:
    """Bounds of the differences of neighbouring candidates along the last axis of a node."""
    shape = backward.graph.nodes[position].shape
    width = shape[-1]
    groups, pairs = total(shape) // width, width // 2
    first = (torch.arange(groups)[:, None] * width + 2 * torch.arange(pairs)[None, :]).reshape(-1)
    size = max(1, _CHUNK // (2 * max(total(n.shape) for n in backward.graph.nodes)))
    lows, highs = [], []
    for start in range(0, first.numel(), size):
        here = first[start : start + size]
        count = here.numel()
        rows = torch.zeros(2 * count, total(shape), dtype=torch.float64)
        at = torch.arange(count)
        rows[at, here], rows[at, here + 1] = 1.0, -1.0
        rows[count:] = -rows[:count]
        owners = RowMap.ragged(torch.zeros(2 * count, dtype=torch.int64), 1)
        bound = backward.run(position, rows.reshape(2 * count, *shape), owners, layers.relaxation)
        value = backward.concretize(bound, owners, layers.lower, layers.upper)
        lows.append(value[:count])
        highs.append(-value[count:])
    if not lows:
        nothing = torch.zeros(groups, pairs, dtype=torch.float64)
        return nothing, nothing
    return torch.cat(lows).reshape(groups, pairs), torch.cat(highs).reshape(groups, pairs)
