"""Splits of the inputs of any nonlinear operator: sound, complete enough to decide, and worth it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Table
from verinet.solvers.branching.gains import Reader, child_gain
from verinet.solvers.branching.leaves import Choice, Leaves, children
from verinet.solvers.branching.options import Branching, Inputs, Points, Score
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.splits import Literals
from verinet.solvers.query import Query

from tests.unit.solvers.branching_networks import KINDS, box, network, sampled, split
from tests.unit.solvers.queries import one_row
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.pooling.maximum import MaxLast

ONE = torch.ones(1, dtype=torch.float64)
REAL = {"dtype": torch.float64}


def query(kind: str, seed: int, below: float) -> Query:
    """Whether the output falls below a threshold this share of its range under (or, negative, above) its minimum."""
    graph = network(kind, seed)
    values = sampled(graph)
    threshold = float(values.min()) - below * float(values.max() - values.min())
    return one_row(graph, box(), ONE, threshold, 300.0)


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_neurons_decides_every_kind(kind: str) -> None:
    assert split(query(kind, 0, 0.1), Branching(), 400)[0] is End.CLOSED


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampled_violation_is_never_closed(kind: str) -> None:
    """Just above the sampled minimum something violates, so no way of branching may end closed."""
    options = Branching(points=Points.WIDE, together=3, score=Score.BBPS if kind in ("product", "tanh") else Score.DUAL)
    assert split(query(kind, 0, -1e-6), options, 20)[0] is not End.CLOSED


@pytest.mark.parametrize(
    "options",
    [*(Branching(score=score) for score in Score), *(Branching(points=points) for points in Points)],
    ids=lambda options: f"{options.score.name}-{options.points.name}",
)
def test_all_ways_of_branching_decide(options: Branching) -> None:
    for kind in ("product", "tanh"):
        assert split(query(kind, 0, 0.1), options)[0] is End.CLOSED


def test_only_general_splits_close_products() -> None:
    """A network without functions of one variable has nothing else to split."""
    for kind, below in (("product", 0.02), ("matmul", 0.1), ("softmax", 0.02)):
        hard = query(kind, 0, below)
        end, domains = split(hard, Branching())
        assert end is End.CLOSED and domains > 1, kind
        assert split(hard, Branching(inputs=Inputs.SCALAR))[0] is End.STALLED
    assert split(query("tanh", 0, 0.1), Branching(inputs=Inputs.HINGES))[0] is End.STALLED


def test_trying_the_best_few_saves_domains() -> None:
    hard = query("softmax", 0, 0.02)
    trusted = split(hard, Branching(candidates=1, score=Score.INTERCEPT), 60)[1]
    assert split(hard, Branching(), 60)[1] < trusted


def leaves(domains: int) -> Leaves:
    real = torch.zeros(domains, **REAL)
    whole = torch.arange(domains)
    return Leaves(whole * 0, real - 1, real + 1 / domains, whole * 0, real + 0.1, Literals.none(domains, real), None)


def choice(node: int, index: list[int], point: float) -> Choice:
    where = torch.tensor(index)
    return Choice(torch.full_like(where, node), where, torch.full(where.shape, point, **REAL), where >= 0)


def test_several_splits_at_once_cover_the_domain() -> None:
    made = children(leaves(2), [choice(3, [0, 1], 0.5), choice(4, [2, 2], -1.0)], {})
    assert len(made) == 8 and float(made.mass.sum()) == 1.0
    assert made.parent is not None and made.parent.tolist() == [0, 1] * 4
    for parent in range(2):
        mine = [i for i in range(8) if int(made.parent[i]) == parent]
        assert {tuple(made.literals.sign[i].tolist()) for i in mine} == {
            (a, b) for a in (1.0, -1.0) for b in (1.0, -1.0)
        }
        assert made.literals.index[mine].tolist() == [[parent, 2]] * 4
        assert made.literals.node[mine].tolist() == [[3, 4]] * 4


def test_the_newest_literals_are_found_behind_padding() -> None:
    deep = children(leaves(1), [choice(3, [0], 0.5), choice(4, [2], -1.0)], {}).literals
    deep.beta[:, 0] = 0.25
    shallow = children(leaves(1), [choice(5, [1], 0.5)], {}).literals
    newest = Literals.join([deep, shallow]).newest()
    assert newest[0][0].tolist() == [4] * 4 + [5] * 2 and newest[0][1].tolist() == [2] * 4 + [1] * 2
    assert len(newest) == 1  # the first literals of the deep ones have a beta
    deep.beta[:, 0] = 0.0
    assert Literals.join([deep, shallow]).newest()[1][0].tolist() == [3] * 4 + [-1] * 2


def test_new_literals_come_right_after_the_old_ones() -> None:
    deep = children(leaves(1), [choice(3, [0], 0.5), choice(4, [2], -1.0)], {}).literals
    shallow = children(leaves(1), [choice(5, [1], 0.5)], {}).literals
    both = Literals.join([deep, shallow])
    number = torch.full((6,), 7)
    more = both.extended(number, number, torch.ones(6, **REAL), torch.zeros(6, **REAL))
    assert more.node.tolist() == [[3, 4, 7]] * 4 + [[5, 7, -1]] * 2
    assert [n.tolist() for n, _ in more.newest()][0] == [7] * 6
    assert Literals.join([more.take(slice(4, 6))]).depth == 2


def test_a_table_gives_every_kind_its_share() -> None:
    score = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.5]])
    kind = torch.tensor([1, 1, 1, 2, 2, 2])
    gains = torch.stack([score, score])
    found = Table(kind, kind, kind, score, score, score, gains)
    assert found.best(2, 1).tolist() == [[0, 1, 2, 3]]
    assert found.best(1, 1).tolist() == [[0]]
    assert Table(kind, kind, kind * 0, score, score, score, gains).best(3, 1).tolist() == [[0, 1, 2]]


def reader(op: NonlinearOp, shapes: list[tuple[int, ...]], out: tuple[int, ...], seed: int) -> Reader:
    """Random coefficients and boxes, and a point in every box; lines without multipliers."""
    draw = torch.Generator().manual_seed(seed)
    lowers = [torch.randn(1, *s, generator=draw, **REAL) for s in shapes]
    uppers = [lo + 0.2 + torch.rand(lo.shape, generator=draw, **REAL) for lo in lowers]
    values = [
        lo + (hi - lo) * torch.rand(lo.shape, generator=draw, **REAL) for lo, hi in zip(lowers, uppers, strict=True)
    ]
    rows = torch.randn(1, *out, generator=draw, **REAL)
    multipliers = op.multipliers(lowers, uppers)
    return Reader(op, rows, op.lines(lowers, uppers, multipliers), lowers, uppers, values, multipliers)


def brute(seen: Reader, slot: int, entry: int, ends: tuple[Tensor, Tensor]) -> float:
    """The change of looseness when one entry alone has other ends, default lines."""
    op, change = seen.op, torch.zeros(seen.lowers[slot][0].numel(), dtype=torch.bool)
    change[entry] = True
    here = change.reshape(seen.lowers[slot].shape)
    pair = torch.where(here, ends[0], seen.lowers[slot]), torch.where(here, ends[1], seen.uppers[slot])
    lowers, uppers, values = seen.moved(slot, pair)
    after = seen.rows * (op.forward(*values) - op.push(seen.rows, op.lines(lowers, uppers), *values))
    before = seen.rows * (op.forward(*seen.values) - op.push(seen.rows, seen.lines, *seen.values))
    return float(before.sum() - after.sum())


@pytest.mark.parametrize("upper", [True, False])
def test_gains_of_matrix_products_are_changes_of_looseness(upper: bool) -> None:
    """Where the point stays in the half, the gain is exactly what the planes through the centre lose in looseness."""
    checked = 0
    for seed in range(6):
        seen = reader(MatMulTwo((2, 3), (3, 2)), [(2, 3), (3, 2)], (2, 2), seed)
        for slot in range(2):
            low, high = seen.lowers[slot], seen.uppers[slot]
            middle = (low + high) / 2
            ends = (middle, high) if upper else (low, middle)
            gain = child_gain(seen, slot, ends, upper).reshape(-1)
            inside = ((seen.values[slot] > middle) == upper).reshape(-1)
            for entry in inside.nonzero().reshape(-1).tolist():
                assert float(gain[entry]) == pytest.approx(brute(seen, slot, entry, ends), abs=1e-9)
                checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("op", "shapes", "out"),
    [
        (Product((4,), (1,)), [(4,), (1,)], (4,)),
        (Softmax(1), [(4,)], (4,)),
        (MaxLast(1), [(2, 3)], (2,)),
    ],
)
def test_gains_are_at_least_those_of_default_lines(
    op: NonlinearOp, shapes: list[tuple[int, ...]], out: tuple[int, ...]
) -> None:
    for seed in range(4):
        seen = reader(op, shapes, out, seed)
        for slot, low in enumerate(seen.lowers):
            value = seen.values[slot]
            ends = (low, (value + seen.uppers[slot]) / 2)  # the point stays inside
            gain = child_gain(seen, slot, ends, False).reshape(-1)
            for entry in range(gain.numel()):
                assert float(gain[entry]) >= brute(seen, slot, entry, ends) - 1e-9
