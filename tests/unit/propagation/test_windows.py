"""Rows through windows: the same bounds as dense rows, on every kind of operator that windows go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph, InputOp, Node, Op, total
from verinet.ops.activations import find
from verinet.ops.linear import conv
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import WindowSum
from verinet.ops.linear.windows import Windows
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import index_op
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.steps import STEP
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward
from verinet.propagation.tails import Tails
from verinet.propagation.windows import Given

Spatial = tuple[int, ...]


class Net:
    """Builds graphs on one input grid (1, channels, *spatial)."""

    def __init__(self, channels: int, spatial: Spatial, seed: int = 0) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.nodes = [Node(InputOp(channels * total(spatial)), (), (channels * total(spatial),), "x")]
        self.grid = self.add(Reshape((1, channels, *spatial)), 0)

    def add(self, op: Op, *inputs: int) -> int:
        zeros = [torch.zeros(1, *self.nodes[i].shape, dtype=torch.float64) for i in inputs]
        self.nodes.append(Node(op, inputs, tuple(op.forward(*zeros).shape[1:]), f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.draw, dtype=torch.float64)

    def conv(self, source: int, outs: int, windows: Windows, groups: int = 1) -> int:
        shape = self.nodes[source].shape
        reach, padded = windows.reach(), windows.padded(shape[2:])
        room = zip(padded, reach, windows.strides, strict=True)
        windows = replace(windows, out=tuple((p - r) // s + 1 for p, r, s in room))
        weight = self.random(outs, shape[1] // groups, *windows.kernel) / (weight_size(windows, shape[1])) ** 0.5
        return self.add(Convolution(weight, windows, groups, self.random(outs) * 0.1), source)

    def relu(self, source: int, name: str = "Relu") -> int:
        function = find(name, {})
        assert function is not None
        return self.add(Elementwise(function, len(self.nodes[source].shape)), source)

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes))


def weight_size(windows: Windows, channels: int) -> int:
    return total(windows.kernel) * channels


def slide(kernel: Sequence[int], stride: int = 1, dilation: int = 1, begin: int = 0, end: int | None = None) -> Windows:
    axes = len(kernel)
    same = tuple([stride] * axes), tuple([dilation] * axes)
    pads = tuple([begin] * axes), tuple([begin if end is None else end] * axes)
    return Windows(tuple(kernel), *same, *pads, (1,) * axes)


def plain(**options: int) -> tuple[Graph, int]:
    """conv, ReLU, conv, ReLU, conv."""
    groups = options.pop("groups", 1)
    net = Net(2, (11, 9))
    one = net.relu(net.conv(net.grid, 4, slide((3, 3), begin=1)))
    two = net.relu(net.conv(one, 4, slide((3, 3), **options), groups))
    last = net.conv(two, 2, slide((2, 3), begin=1, end=0))
    return net.graph(), last


def one_axis() -> tuple[Graph, int]:
    net = Net(2, (19,))
    one = net.relu(net.conv(net.grid, 3, slide((3,), begin=1)), "Sigmoid")
    last = net.conv(one, 2, slide((3,), stride=2, begin=1))
    return net.graph(), last


def unet() -> tuple[Graph, int]:
    """Down by a sum of windows, up by a transposed convolution with a row of zeros added, and a skip."""
    net = Net(2, (9, 9))
    skip = net.relu(net.conv(net.grid, 3, slide((3, 3), begin=1)))
    half = Windows((2, 2), (2, 2), (1, 1), (0, 0), (0, 0), (4, 4))
    down = net.add(Scale(torch.full((1, 1, 1), 0.25, dtype=torch.float64)), net.add(WindowSum(half), skip))
    deep = net.relu(net.conv(down, 4, slide((3, 3), begin=1)))
    up = net.add(TransposedConvolution(net.random(4, 3, 2, 2) * 0.3, half, (8, 8), 1, net.random(3)), deep)
    index = torch.full((1, 3, 9, 9), -1)
    index[:, :, :8, :8] = torch.arange(3 * 64).reshape(1, 3, 8, 8)
    padded = net.add(index_op(index, 3 * 64), up)
    both = net.add(Concat(1), skip, padded)
    last = net.conv(both, 2, slide((3, 3), begin=1))
    return net.graph(), last


def residual() -> tuple[Graph, int]:
    """A sum of two paths, the negative of one of them, a bias per channel, and nearest upsampling."""
    net = Net(2, (8, 8))
    one = net.relu(net.conv(net.grid, 3, slide((3, 3), begin=1)))
    two = net.relu(net.conv(one, 3, slide((3, 3), begin=1)))
    added = net.add(Shift(net.random(3, 1, 1)), net.add(Add(), net.add(Negate(), one), two))
    small = net.relu(net.conv(added, 2, slide((3, 3), stride=2, begin=1)))
    index = torch.arange(2 * 16).reshape(1, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    last = net.conv(net.add(index_op(index, 2 * 16), small), 2, slide((3, 3), begin=1))
    return net.graph(), last


def difference() -> tuple[Graph, int]:
    """The difference of two channels with the channels gone, as ArgMax of two classes leaves it."""
    net = Net(2, (8, 7))
    one = net.relu(net.conv(net.grid, 3, slide((3, 3), begin=1)))
    last = net.conv(one, 2, slide((1, 1)))
    places = torch.arange(2 * 56).reshape(2, 8, 7, 1)
    first, second = (net.add(index_op(places[k], 2 * 56), last) for k in range(2))
    last = net.add(Subtract(), second, first)
    return net.graph(), last


CASES = {
    "plain": plain(begin=1),
    "stride": plain(begin=1, stride=2),
    "dilation": plain(begin=2, dilation=2),
    "groups": plain(begin=1, groups=2),
    "lopsided": plain(begin=0, end=2),
    "one axis": one_axis(),
    "unet": unet(),
    "residual": residual(),
    "difference": difference(),
}


def setting(name: str) -> tuple[Sweeper, int, Layers]:
    """Layers of two boxes, of which the second has an input entry fixed."""
    graph, start = CASES[name]
    draw = torch.Generator().manual_seed(7)
    centre = torch.randn(2, graph.input_size, generator=draw, dtype=torch.float64)
    low, high = centre - 0.3, centre + 0.3
    low[1, 3] = high[1, 3]
    sweeper = Sweeper(build_backward(graph, low.amin(0), high.amax(0)), targets=(start,))
    return sweeper, start, sweeper.sweep(low, high, SweepOptions(rows=False))


def every_entry(sweeper: Sweeper, start: int) -> tuple[Tensor, Tensor]:
    size = total(sweeper.graph.nodes[start].shape)
    return torch.arange(2).repeat_interleave(size), torch.arange(size).repeat(2)


def through_windows(sweeper: Sweeper, start: int, layers: Layers, step: Step | None) -> tuple[Tensor, Tensor]:
    entries = every_entry(sweeper, start)
    low, high = torch.full((2, entries[0].numel()), torch.nan, dtype=torch.float64)
    given = Given(layers.lower, layers.upper, layers.known, step, 1 << 14, None)
    for part, (lows, highs) in sweeper.panorama.bounds(start, entries, given):
        assert bool(low[part].isnan().all())  # every entry once
        low[part], high[part] = lows, highs
    return low, high


def through_dense_rows(sweeper: Sweeper, start: int, layers: Layers, step: Step | None) -> tuple[Tensor, Tensor]:
    domain, index = every_entry(sweeper, start)
    count, shape = index.numel(), sweeper.graph.nodes[start].shape
    rows = torch.zeros(2 * count, total(shape), dtype=torch.float64)
    rows[torch.arange(count), index], rows[torch.arange(count) + count, index] = 1.0, -1.0
    owners = RowMap.ragged(domain.repeat(2), 2)
    rows = rows.reshape(-1, *shape)
    if step is None:
        inputs = sweeper.backward.run(start, rows, owners, layers.relaxation)
        value = sweeper.backward.concretize(inputs, owners, layers.lower, layers.upper)
    else:
        problem = RowProblem(start, rows, owners, layers.lower, layers.upper, layers.known)
        value = optimize(problem, sweeper.backward, step=step).bound
    return value[:count], -value[count:]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [None, Step(iterations=3)], ids=["plain", "optimised"])
def test_bounds_are_those_of_dense_rows(name: str, step: Step | None) -> None:
    sweeper, start, layers = setting(name)
    low, high = through_windows(sweeper, start, layers, step)
    dense_low, dense_high = through_dense_rows(sweeper, start, layers, step)
    torch.testing.assert_close(low, dense_low, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(high, dense_high, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_no_sample_leaves_the_bounds(name: str) -> None:
    sweeper, start, layers = setting(name)
    low, high = through_windows(sweeper, start, layers, None)
    draw = torch.Generator().manual_seed(3)
    for box in range(2):
        share = torch.rand(400, sweeper.graph.input_size, generator=draw, dtype=torch.float64)
        share[200:] = share[200:].round()  # corners
        points = layers.lower[box] + share * (layers.upper - layers.lower)[box]
        values = sweeper.graph.forward_all(points)[start].reshape(400, -1)
        size = values.shape[1]
        part = slice(box * size, (box + 1) * size)
        assert bool((values >= low[part]).all() and (values <= high[part]).all())
        assert float((high - low)[part].mean()) < 20 * float((values.amax(0) - values.amin(0)).mean())


@pytest.mark.parametrize("name", ["plain", "unet", "difference"])
def test_one_entry_alone_is_a_network_with_the_same_value(name: str) -> None:
    sweeper, start, layers = setting(name)
    one = Layers(layers.lower[:1], layers.upper[:1], {v: (lo[:1], hi[:1]) for v, (lo, hi) in layers.known.items()})
    given = Given(one.lower, one.upper, one.known, None, 1 << 20, None)
    middle = (one.lower + one.upper) * 0.5
    values = sweeper.graph.forward_all(middle)[start].reshape(-1)
    for entry in range(0, values.numel(), 5):
        alone = sweeper.panorama.alone(start, entry, given)
        assert alone is not None
        found = alone.graph.forward((alone.lower + alone.upper) * 0.5)
        torch.testing.assert_close(found.reshape(()), values[entry], rtol=1e-12, atol=1e-12)
        for node, value in enumerate(alone.graph.forward_all(alone.lower)):
            if node in alone.known:
                low, high = alone.known[node]
                assert bool((value >= low - 1e-12).all() and (value <= high + 1e-12).all())


def test_windows_pay_on_large_grids_only() -> None:
    net = Net(2, (40, 40))
    net.conv(net.relu(net.conv(net.grid, 4, slide((3, 3), begin=1))), 4, slide((3, 3), begin=1))
    graph = net.graph()
    box = torch.full((2, graph.input_size), 0.1, dtype=torch.float64)
    panorama = Sweeper(build_backward(graph, -box[0], box[1])).panorama
    assert panorama.worth(graph.output, torch.arange(6400))
    assert not panorama.worth(graph.output, torch.arange(1))  # building them costs more than one row
    dense = Graph((Node(InputOp(3), (), (3,), "x"), Node(Dense(torch.eye(3, dtype=torch.float64)), (0,), (3,), "y")))
    small = torch.zeros(3, dtype=torch.float64)
    assert not Sweeper(build_backward(dense, small, small)).panorama.worth(1, torch.arange(3))


def test_a_position_dependent_scale_ends_the_windows() -> None:
    net = Net(1, (6, 6))
    scaled = net.add(Scale(net.random(1, 6, 6)), net.relu(net.conv(net.grid, 1, slide((3, 3), begin=1))))
    last = net.conv(scaled, 1, slide((3, 3), begin=1))
    graph = net.graph()
    box = torch.zeros(graph.input_size, dtype=torch.float64)
    sweeper = Sweeper(build_backward(graph, box, box))
    assert list(sweeper.panorama.bounds(last, (torch.zeros(1), torch.zeros(1)), _given(graph))) == []
    assert not sweeper.panorama.worth(last, torch.arange(36))


def _given(graph: Graph) -> Given:
    box = torch.zeros(1, graph.input_size, dtype=torch.float64)
    return Given(box, box, {}, None, 1 << 20, None)


@pytest.mark.parametrize(
    ("stride", "dilation", "begin", "end"), [(1, 1, 0, 0), (2, 1, 1, 0), (1, 2, 2, 1), (2, 2, 0, 3)]
)
def test_convolution_with_few_windows(stride: int, dilation: int, begin: int, end: int) -> None:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(7, 3, 6, 5, generator=draw, dtype=torch.float64)
    weight = torch.randn(4, 3, 2, 2, generator=draw, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (begin, end, begin, end))
    wanted = torch.nn.functional.conv2d(padded, weight, stride=stride, dilation=dilation)
    windows = replace(slide((2, 2), stride, dilation, begin, end), out=tuple(wanted.shape[2:]))
    assert conv._few_places(windows, 1) == (total(windows.out) <= 25)
    torch.testing.assert_close(conv._correlate_few(x, weight, windows), wanted)
    rows = torch.randn(wanted.shape, generator=draw, dtype=torch.float64)
    pulled = conv._scatter_few(rows, weight, windows, (6, 5))
    torch.testing.assert_close((pulled * x).sum((1, 2, 3)), (rows * wanted).sum((1, 2, 3)))


def test_tails_see_what_depends_on_one_step() -> None:
    net = Net(1, (2, 3))
    step = net.add(Elementwise(STEP, 4), net.grid)
    two = net.add(Dense(torch.ones(3, 2, dtype=torch.float64)), step)
    single = net.add(Reshape((6, 1)), step)
    spread = net.add(Dense(torch.ones(1, 2, dtype=torch.float64)), single)
    back = net.add(Dense(torch.ones(2, 1, dtype=torch.float64)), net.relu(spread))
    mixed = net.add(Add(), single, net.add(Reshape((6, 1)), net.grid))
    graph = net.graph()
    for width, decided in ((0.5, False), (0.0, True)):
        tails = Tails(graph)
        for position in range(1, len(graph.nodes)):
            value = torch.zeros(1, *graph.nodes[position].shape, dtype=torch.float64)
            tails.add(position, (value, value + width))
        settled = [v for v in (step, two, spread, back, mixed) if tails.settled(v)]
        assert settled == ([step, two, spread, back] if decided else [step, spread, back])


@pytest.mark.bench
def test_windows_of_the_unet_give_the_dense_bounds(bench_folder: Path) -> None:
    """The class margins of a few pixels in the middle and at the border of the grid, far narrower than intervals."""
    path = next((bench_folder / "vnncomp" / "carvana_unet_2022").glob("onnx/unet_simp_small.onnx*"))
    graph = load_onnx(path).graph.to(torch.float64)
    steps = [v for v, n in enumerate(graph.nodes) if isinstance(n.op, Elementwise) and n.op.function is STEP]
    start = graph.nodes[steps[0]].inputs[0]
    centre = torch.full((1, graph.input_size), 0.5, dtype=torch.float64)
    low, high = centre - 0.002, centre + 0.002
    sweeper = Sweeper(build_backward(graph, low[0], high[0]))
    layers = sweeper.sweep(low, high, SweepOptions(rows=False))
    index = torch.tensor([0, 46, 700])
    assert sweeper.panorama.worth(start, torch.arange(1457))
    given = Given(low, high, layers.known, None, 1 << 20, None)
    shape = graph.nodes[start].shape
    for part, (lows, highs) in sweeper.panorama.bounds(start, (torch.zeros_like(index), index), given):
        for entry, lower, upper in zip(index[part].tolist(), lows, highs, strict=True):
            row = torch.nn.functional.one_hot(torch.tensor(entry), total(shape)).to(low).reshape(1, *shape)
            rows, owners = torch.cat([row, -row]), RowMap.regular(1, 2, low.device)
            inputs = sweeper.backward.run(start, rows, owners, layers.relaxation)
            dense = sweeper.backward.concretize(inputs, owners, low, high)
            torch.testing.assert_close(torch.stack([lower, -upper]), dense, rtol=1e-7, atol=1e-9)  # charges differ
            known_low, known_high = (side.reshape(-1)[entry] for side in layers.known[start])
            assert upper - lower < 0.7 * (known_high - known_low)
