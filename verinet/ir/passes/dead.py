"""Dead nodes: those that the output does not depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from verinet.ir.graph import Graph, Node


def drop_dead(nodes: Sequence[Node], output: int) -> tuple[Graph, Mapping[int, int]]:
    """The graph that ends in `nodes[output]`, and where each surviving node went.

    Node 0 is kept even if nothing reads it, since it carries the number of inputs.
    """
    alive = {0, output}
    for position in range(output, -1, -1):
        if position in alive:
            alive.update(nodes[position].inputs)
    moved = {old: new for new, old in enumerate(sorted(alive))}
    kept = (dataclasses.replace(nodes[old], inputs=tuple(moved[i] for i in nodes[old].inputs)) for old in sorted(alive))
    return Graph(tuple(kept)), moved
