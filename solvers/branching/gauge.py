"""When sharper layer bounds are due, by what the search below a node of the tree has cost so far."""

from __future__ import annotations

import torch
from torch import Tensor

FORGET = 0.9  # weight of the past in running means
CHILDREN = 2  # sharpened at a time
WORTHWHILE = 0.03  # part of the missing margin that a round must win for another one to follow


class Mean:
    """A running mean that starts from a guess and forgets it with the first measurement."""

    def __init__(self, guess: float) -> None:
        self.value, self._seen = guess, False

    def see(self, value: float) -> None:
        self.value = FORGET * self.value + (1 - FORGET) * value if self._seen else value
        self._seen = True


class Gauge:
    """Effort below every anchor against the price of a round of tightening, both counted in leaves.

    An anchor is a node of the search tree with layer bounds of its own. Once the search below it has cost as much as
    sharpening its children would, they are sharpened (the ski-rental rule: never more than a constant factor worse than
    knowing in advance which of the two is better).
    """

    def __init__(self, anchors: int, rows: int) -> None:
        """`rows` is the number of rows of a round for one anchor: two per undecided neuron."""
        self.leaf = Mean(0.0)  # seconds per leaf
        self.price = Mean(0.1 * rows)  # of sharpening one node of the tree, in leaves: few of the rows, some rounds
        self.effort = torch.zeros(anchors, dtype=torch.float64)
        self.patience = torch.full((anchors,), 1.0 / CHILDREN, dtype=torch.float64)
        self.searching = self.tightening = 0.0  # seconds

    def bounded(self, seconds: float, anchors: Tensor) -> None:
        """One batch of leaves with these anchors was bounded, scored and split."""
        self.searching += seconds
        if anchors.numel():
            self.leaf.see(seconds / anchors.numel())
            self.effort += torch.bincount(anchors.cpu(), minlength=self.effort.numel())

    def tightened(self, seconds: float) -> None:
        """All rounds for one node of the tree took so long."""
        self.tightening += seconds
        if self.leaf.value > 0:
            self.price.see(seconds / self.leaf.value)

    def allowance(self) -> float:
        """Seconds that sharpening one node may take: not much more than the search has taken, whatever its price."""
        return max(0.5, 1.5 * self.searching - self.tightening)

    def due(self, anchors: Tensor) -> Tensor:
        """Those of the anchors named whose effort has reached their patience."""
        named: Tensor = anchors.unique().cpu()
        exhausted: Tensor = self.effort[named] > CHILDREN * self.patience[named] * (self.price.value + 1)
        named = named[exhausted & (self.tightening <= self.searching + 0.5)]
        return named

    def settle(self, parent: int, new: int, won: float) -> None:
        """Start counting for `new` anchors made below a parent; little won makes them more patient."""
        factor = 0.5 if won > 0.25 else 1.0 if won > 0.08 else 3.0
        patience = (self.patience[parent] * factor).clamp(min=0.5)
        self.patience = torch.cat([self.patience, patience.expand(new)])
        self.effort = torch.cat([self.effort, torch.zeros(new, dtype=torch.float64)])
        self.effort[parent] = 0.0

    def adopt(self, new: int) -> None:
        """Start counting for `new` anchors that came from elsewhere."""
        self.patience = torch.cat([self.patience, torch.full((new,), 1.0 / CHILDREN, dtype=torch.float64)])
        self.effort = torch.cat([self.effort, torch.zeros(new, dtype=torch.float64)])

    def again(self, anchors: int) -> Gauge:
        """What was measured so far, for a search that starts anew with so many anchors."""
        other = Gauge(anchors, 0)
        other.leaf, other.price = self.leaf, self.price
        other.searching, other.tightening = self.searching, self.tightening
        return other

    def keep(self, used: Tensor) -> None:
        """Only these anchors go on, renumbered in this order."""
        self.effort, self.patience = self.effort[used.cpu()], self.patience[used.cpu()]
