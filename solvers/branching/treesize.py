"""How large a search tree a split leads to, from what its two children gain.

With gains a <= b of the children and a missing margin G, the tree that repeats this split has about phi^G nodes where
phi^-a + phi^-b = 1 (Le Bodic and Nemhauser 2017, "An abstract model for branching and its application to mixed integer
programming"). A child that closes counts b = G. Weighted sums of gains cannot tell a split that closes one child and
gains nothing in the other, which leads nowhere, from one that gains a little in both.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-4  # gains below this part of the missing margin count as this
STEPS = 4


def log_tree_size(first: Tensor, second: Tensor, missing: Tensor) -> Tensor:
    """Logarithm of the number of nodes, (...), for gains of two children and the missing margin, all (...).

    Only good for comparing splits of one domain: gains of later splits are taken to be the same.
    """
    whole = missing.clamp(min=1e-30)
    first, second = ((gain.minimum(whole) / whole).clamp(min=LEAST) for gain in (first, second))
    small, large = torch.minimum(first, second), torch.maximum(first, second)
    ratio = large / small
    # y = log(phi^a) solves e^-y + e^(-r y) = 1. The left side is convex and falling, so Newton from the left never
    # overshoots; the start is within 10 % of the root for every ratio that can occur.
    root = torch.log1p(ratio / torch.log(2 + ratio)) / ratio
    for _ in range(STEPS):
        here, there = torch.exp(-root), torch.exp(-ratio * root)
        root = root + (here + there - 1) / (here + ratio * there)
    return root / small
