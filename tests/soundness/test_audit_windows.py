"""Rows through windows of random grids against dense rows: uneven kernels, strides, dilations and pads, and skips.

Off by one anywhere in the geometry of a window gives bounds of another network, so the two have to agree to rounding.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from tests.unit.propagation.test_windows import Net, every_entry, through_dense_rows, through_windows
from verinet.ir.graph import Graph
from verinet.ops.linear.arithmetic import Add, Negate, Subtract
from verinet.ops.linear.conv import TransposedConvolution
from verinet.ops.linear.reduce import WindowSum
from verinet.ops.linear.windows import Windows
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import index_op
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward

SEEDS = range(24)
FUNCTIONS = ("Relu", "Sigmoid", "Tanh", "Abs")


class Garden(Net):
    """A `Net` that grows at random; `axes` spatial axes."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        axes = self.dice.choice((1, 2, 2))
        super().__init__(2, tuple(self.dice.randint(6, 10) for _ in range(axes)), seed)
        self.axes = axes

    def windows(self, source: int) -> Windows:
        """Uneven windows that fit; pads may be negative."""
        dice, extents = self.dice, self.nodes[source].shape[2:]
        kernel = tuple(dice.randint(1, 3) for _ in extents)
        strides = tuple(dice.choice((1, 1, 2, 3)) for _ in extents)
        dilations = tuple(dice.choice((1, 1, 2)) for _ in extents)
        begin = tuple(dice.choice((-1, 0, 1, 2)) for _ in extents)
        end = tuple(dice.choice((-1, 0, 1, 2)) for _ in extents)
        return Windows(kernel, strides, dilations, begin, end, (1,) * len(extents))

    def convolved(self, source: int) -> int:
        while True:
            windows = self.windows(source)
            room = zip(windows.padded(self.nodes[source].shape[2:]), windows.reach(), strict=True)
            if all(padded - reach >= 0 for padded, reach in room):
                break
        channels = self.nodes[source].shape[1]
        groups = self.dice.choice([g for g in (1, 2) if channels % g == 0])
        outs = groups * self.dice.randint(1, 2)
        return self.conv(source, outs, windows, groups)

    def spread(self, source: int) -> int:
        """A transposed convolution with uneven cropping."""
        channels, small = self.nodes[source].shape[1], self.nodes[source].shape[2:]
        kernel = tuple(self.dice.randint(1, 3) for _ in small)
        strides = tuple(self.dice.choice((1, 2, 3)) for _ in small)
        begin = tuple(self.dice.choice((0, 1)) for _ in small)
        end = tuple(self.dice.choice((0, 1)) for _ in small)
        full = [(n - 1) * s + k for n, s, k in zip(small, strides, kernel, strict=True)]
        spatial = tuple(f - b - e for f, b, e in zip(full, begin, end, strict=True))
        if min(spatial) < 2 or max(spatial) > 14:
            return source
        windows = Windows(kernel, strides, (1,) * len(small), begin, end, small)
        weight = self.random(channels, 2, *kernel) * 0.4
        return self.add(TransposedConvolution(weight, windows, spatial, 1, self.random(2)), source)

    def doubled(self, source: int) -> int:
        """Nearest upsampling along the first axis, shifted by a row of zeros."""
        shape = self.nodes[source].shape
        count = int(torch.tensor(shape).prod())
        index = torch.arange(count).reshape(shape).repeat_interleave(2, 2)
        pad = torch.full((*index.shape[:2], 1, *index.shape[3:]), -1)
        return self.add(index_op(torch.cat([pad, index], 2), count), source)

    def step(self, source: int) -> int:
        kind = self.dice.choice(("conv", "conv", "relu", "relu", "spread", "sum", "skip", "concat", "double", "negate"))
        extents = self.nodes[source].shape[2:]
        if kind == "conv":
            return self.convolved(source)
        if kind == "spread":
            return self.spread(source)
        if kind == "sum" and min(extents) >= 3:
            ones = (1,) * len(extents)
            out = tuple((e - 2) // 2 + 1 for e in extents)
            return self.add(WindowSum(Windows((2,) * len(extents), (2,) * len(extents), ones, ones, ones, out)), source)
        if kind in ("skip", "concat"):  # the function sees one position where another reader sees a window of it
            wide = self.conv(source, self.nodes[source].shape[1], _around(len(extents)))
            bent = self.relu(source, self.dice.choice(FUNCTIONS))
            op = Concat(1) if kind == "concat" else self.dice.choice((Add(), Subtract()))
            return self.add(op, wide, bent)
        if kind == "double" and max(extents) <= 6:
            return self.doubled(source)
        return self.add(Negate(), source) if kind == "negate" else self.relu(source, self.dice.choice(FUNCTIONS))


def _around(axes: int) -> Windows:
    three, one = (3,) * axes, (1,) * axes
    return Windows(three, one, one, one, one, one)


def grown(seed: int) -> tuple[Graph, int]:
    net = Garden(seed)
    last = net.convolved(net.grid)
    for _ in range(net.dice.randint(2, 5)):
        if min(net.nodes[last].shape[2:]) >= 2:
            last = net.step(last)
    return net.graph(), last


@pytest.mark.parametrize("seed", SEEDS)
def test_random_windows_give_the_bounds_of_dense_rows(seed: int) -> None:
    graph, start = grown(seed)
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(2, graph.input_size, generator=draw, dtype=torch.float64)
    low, high = centre - 0.2, centre + 0.2
    low[1, :3] = high[1, :3]
    sweeper = Sweeper(build_backward(graph, low.amin(0), high.amax(0)), targets=(start,))
    layers: Layers = sweeper.sweep(low, high, SweepOptions(rows=False))
    if sweeper.panorama.work(start) == float("inf"):
        pytest.skip("some position sees nothing of its input, which windows leave to dense rows")
    found, wanted = through_windows(sweeper, start, layers, None), through_dense_rows(sweeper, start, layers, None)
    for side, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(side, other, rtol=1e-9, atol=1e-9)
    assert not bool(found[0].isnan().any())
    assert every_entry(sweeper, start)[0].numel() == found[0].numel()


def test_most_seeds_have_windows() -> None:
    kinds = Counter()
    for seed in SEEDS:
        graph, start = grown(seed)
        box = torch.zeros(graph.input_size, dtype=torch.float64)
        sweeper = Sweeper(build_backward(graph, box - 0.1, box + 0.1), targets=(start,))
        kinds["windows" if sweeper.panorama.work(start) < float("inf") else "none"] += 1
    assert kinds["windows"] >= 12
