"""Branching scores by bounds with shortcuts ("BBPS"), as in GenBaB (Shi et al. 2025, section 3.2).

The root's planes A_low x + b_low <= z <= A_high x + b_high of every neuron stand in for the whole network below it. A
child changes the lines of the split neuron only; with its coefficient going from c to c', the bound of the row as a
function of the input changes by (c'+ A_low + c'- A_high) - (c+ A_low + c- A_high), and is concretised again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Place, View
from verinet.solvers.branching.gains import child_gain
from verinet.solvers.branching.intercepts import child_lines, entry_by_entry, selected

from verinet.ir.graph import total
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers

MOST_NUMBERS = 50_000_000
"""Neurons times inputs of one node above which it gets no planes."""


class Shortcuts:
    """Planes of all neurons over the root's box, made when they are first asked for."""

    def __init__(self, backward: Backward, layers: Layers) -> None:
        """`layers` are the root's bounds and lines of one domain."""
        self.backward, self.layers = backward, layers
        self._planes: dict[int, tuple[Tensor, Tensor] | None] = {}

    def planes(self, node: int) -> tuple[Tensor, Tensor] | None:
        """(2, entries, inputs + 1): lower and upper planes with the constant last; None where they are too many."""
        if node not in self._planes:
            self._planes[node] = self._made(node)
        return self._planes[node]

    def _made(self, node: int) -> tuple[Tensor, Tensor] | None:
        shape, inputs = self.backward.graph.nodes[node].shape, self.backward.graph.input_size
        count = total(shape)
        if count * inputs > MOST_NUMBERS:
            return None
        eye = torch.eye(count, dtype=self.backward.dtype, device=self.backward.device)
        rows = torch.cat([eye, -eye]).reshape(2 * count, *shape)
        owners = RowMap.regular(1, 2 * count, rows.device)
        found = self.backward.run(node, rows, owners, self.layers.relaxation)
        full = torch.cat([found.coefficients, found.constant.unsqueeze(1)], 1)
        return full[:count], -full[count:]


class ShortcutGain:
    """The gain of a child by shortcuts; operators whose outputs mix entries of an input have their local gain."""

    def __init__(self, shortcuts: Shortcuts, lower: Tensor, upper: Tensor) -> None:
        """The boxes (kept, inputs) of the domains."""
        self.shortcuts, self.lower, self.upper = shortcuts, lower, upper

    def __call__(self, view: View, place: Place, ends: Interval, upper: bool) -> Tensor:
        reader, slot = place.reader, place.slot
        planes = self.shortcuts.planes(view.graph.nodes[place.position].inputs[slot])
        if planes is None or not entry_by_entry(reader):
            return child_gain(reader, slot, ends, upper)
        changes = []
        for lines in (reader.lines, child_lines(reader, slot, ends)):
            slopes, offset = selected(reader, lines)
            parts = (
                reader.op.blame(reader.rows * t, reader.lowers, reader.uppers)[slot] for t in (slopes[slot], offset)
            )
            changes.append([p.reshape(p.shape[0], -1) for p in parts])
        (before, first), (after, last) = changes
        found = self._concretised(view, planes, (before, after)) + last - first
        return found.reshape(reader.lowers[slot].shape)

    def _concretised(self, view: View, planes: tuple[Tensor, Tensor], slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Change (kept, entries) of the least value over the box when a neuron's coefficient changes."""
        before, after = slopes
        base = view.state.inputs.coefficients[view.lead]
        centre, radius = (self.lower + self.upper) * 0.5, (self.upper - self.lower) * 0.5
        least = (base * centre).sum(1) - (base.abs() * radius).sum(1)
        rise, fall = after.clamp(min=0) - before.clamp(min=0), after.clamp(max=0) - before.clamp(max=0)
        result = torch.empty_like(before)
        for domain in range(before.shape[0]):  # (entries, inputs) at a time
            change = rise[domain].unsqueeze(1) * planes[0] + fall[domain].unsqueeze(1) * planes[1]
            moved = base[domain] + change[:, :-1]
            value = moved @ centre[domain] - moved.abs() @ radius[domain]
            result[domain] = value + change[:, -1] - least[domain]
        return result
