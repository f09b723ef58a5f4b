"""How far from the middle a pre-optimised split point lies, and what it is worth.

For intervals within [-5, 5], by width: how far the point that leaves the least area between the lines of both halves
(GenBaB, Shi et al. 2025, section 3.3) lies from the middle, as a share of the width, and the area left by it and by the
middle, as a share of the area of the whole interval.
"""

from __future__ import annotations

import torch
from verinet.solvers.branching.points import _CELLS, _REACH, _area, _shares

from verinet.ops.activations import find
from verinet.ops.scalar import Elementwise

WIDTHS = ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0))


def line(name: str, width: tuple[float, float]) -> str:
    """Means over the table's intervals of one function with widths in a range."""
    function = find(name, {})
    if function is None:
        raise ValueError(name)
    op = Elementwise(function, 1)
    grid = torch.linspace(-_REACH, _REACH, _CELLS + 1, dtype=torch.float64)
    low, high = (t.reshape(-1) for t in torch.meshgrid(grid, grid, indexing="ij"))
    here = (high - low >= width[0]) & (high - low < width[1])
    low, high, share = low[here], high[here], _shares(op).reshape(-1)[here]
    whole = _area(op, low, high).sum()
    left = []
    for point in (low + share * (high - low), (low + high) * 0.5):
        left.append(float((_area(op, low, point) + _area(op, point, high)).sum() / whole))
    off = float((share - 0.5).abs().mean())
    return (
        f"{name:9} width {width[0]:g} to {width[1]:g}: off by {off:.2f}, area left {left[0]:.2f}, middle {left[1]:.2f}"
    )


if __name__ == "__main__":
    for function in ("Sigmoid", "Tanh", "Sin", "Gelu"):
        for limits in WIDTHS:
            print(line(function, limits))
