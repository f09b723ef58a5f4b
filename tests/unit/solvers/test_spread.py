"""A search spread over workers in this process: the same verdict, every domain accounted for, also with losses."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from verinet.solvers import spread as module
from verinet.solvers import spread_sets
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching import input_split
from verinet.solvers.branching.outcome import End
from verinet.solvers.query import Clock
from verinet.solvers.spread import SpreadArm
from verinet.solvers.spread_work import (
    Held,
    InputContext,
    Order,
    Slice,
    Workplace,
    context_of,
    held_by,
    holding,
    join_held,
)

from tests.soundness.networks import random_graph, samples
from tests.unit.solvers.queries import one_row, silent
from verinet.errors import InternalError

ARMS = pytest.mark.parametrize("arm", (InputArm, NeuronArm), ids=("input", "neuron"))
ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)
CPU = torch.device("cpu")


class Inline:
    """A crew in this process. Orders and results are pickled, as they would be on their way to another machine."""

    def __init__(self, count, loses=lambda order_number: False, change=lambda result: result):
        self.places = {n: Workplace(CPU) for n in range(count)}
        self.loses, self.change = loses, change
        self.contexts, self.orders, self.sent, self.given = {}, {}, 0, []

    def members(self):
        return tuple(self.places)

    def free(self):
        return tuple(member for member in self.places if member not in self.orders)

    def share(self, context):
        cloudpickle = pytest.importorskip("cloudpickle")  # what Ray sends objects with
        self.contexts[len(self.contexts) + 1] = cloudpickle.loads(cloudpickle.dumps(context))
        return len(self.contexts)

    def forget(self, key):
        pass

    def dismiss(self, member):
        del self.places[member]

    def send(self, member, order):
        assert member not in self.orders, "a member has one order at a time"
        self.sent += 1
        self.given.append((member, order))
        self.orders[member] = (self.sent, pickle.loads(pickle.dumps(replace(order, seconds=min(order.seconds, 0.05)))))

    def results(self, wait, key):
        found, orders, self.orders = [], self.orders, {}
        for member, (number, order) in orders.items():
            result = self.places[member].work(order, lambda key=order.context: self.contexts[key])
            if self.loses(number):
                self.places[max(self.places) + 1] = Workplace(CPU)  # a new one joins
                del self.places[member]
                found.append((member, None))
            else:
                found.append((member, self.change(pickle.loads(pickle.dumps(result)))))
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Hand out domains as soon as there are any."""
    monkeypatch.setattr(module, "GROW", 0.0)
    monkeypatch.setattr(module, "SHARES", 1)
    monkeypatch.setattr(module, "_WAIT", 0.0)
    monkeypatch.setattr(input_split, "FORWARD_BYTES", 1)  # small batches, so that small searches take many


def hard(seed, below=0.05, seconds=40.0, size=(6, 24)):
    """A threshold this share of the sampled range below the sampled minimum; negative shares can be violated."""
    graph = random_graph(seed, "Relu", "chain", *size)
    low, high = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
    values = graph.forward(samples(low[None], high[None], seed, 30_000)[:, 0]) @ ROW
    threshold = float(values.min()) - below * float(values.max() - values.min())
    return graph, one_row(graph, (low, high), ROW, threshold, seconds)


def hard_for(arm, seed):
    """Some hundred domains for boxes, and some ten for neurons."""
    return hard(seed, size=(5, 16)) if arm is InputArm else hard(1, 0.1, size=(3, 8))


def spread(arm, query, crew, offer=lambda points: False):
    return SpreadArm(arm(query, offer, silent), crew, (offer, silent), query.clock)


def finish(arm, query, slices=400):
    """Run in slices, as the strategy does."""
    shares, outcome = [0.0], None
    length = 3.0 if arm.name == NeuronArm.name else 0.2
    for _ in range(slices):
        outcome = arm.run(query.clock.until(length))
        shares.append(arm.closed_mass)
        if outcome.end is not End.TIME:
            break
    return outcome, shares


@ARMS
@pytest.mark.parametrize("seed", (2,))
def test_a_spread_search_closes_the_whole_tree(arm, seed) -> None:
    _, query = hard_for(arm, seed)
    crew = Inline(3)
    outcome, shares = finish(spread(arm, query, crew), query)
    alone, _ = finish(arm(query, lambda points: False, silent), query)
    assert outcome.end is alone.end is End.CLOSED
    assert crew.sent > 3 and len({member for member, _ in crew.given}) == 3, "nothing was spread"
    assert outcome.open == 0 and outcome.bound is None
    assert all(a <= b + 1e-12 for a, b in zip(shares, shares[1:], strict=False)), "closed for good"
    if arm is InputArm:  # a binary tree: every domain is closed or halved, none is missing, none counted twice
        assert outcome.domains == 2 * outcome.closed - 1


@ARMS
def test_lost_workers_lose_and_double_nothing(arm) -> None:
    _, query = hard_for(arm, 2)
    crew = Inline(2, loses=lambda number: number % 3 == 0)
    search = spread(arm, query, crew)
    outcome, shares = finish(search, query)
    assert outcome.end is End.CLOSED and search.lost >= 1
    assert all(a <= b + 1e-12 for a, b in zip(shares, shares[1:], strict=False))
    if arm is InputArm:
        assert outcome.domains == 2 * outcome.closed - 1


class Dying(Inline):
    """Every worker is lost with its first order, and none comes in its place."""

    def results(self, wait, key):
        lost, self.orders = list(self.orders), {}
        for member in lost:
            del self.places[member]
        return [(member, None) for member in lost]


@ARMS
def test_when_all_workers_are_lost_the_search_goes_on_here(arm) -> None:
    _, query = hard_for(arm, 2)
    crew = Dying(2)
    search = spread(arm, query, crew)
    outcome, _ = finish(search, query)
    assert outcome.end is End.CLOSED and search.lost == 2 and not crew.members()
    if arm is InputArm:
        assert outcome.domains == 2 * outcome.closed - 1


@ARMS
def test_a_violation_found_elsewhere_is_confirmed_here(arm) -> None:
    graph, query = hard(3, below=-1e-4, size=(3, 6))
    kept = []

    def offer(points):
        inside = ((points >= -1) & (points <= 1)).all(1)
        outputs = graph.forward(torch.from_numpy(points)) @ ROW
        kept.extend(points[inside & (outputs <= query.table.bounds[0]).numpy()])
        return bool(kept)

    quiet = arm(query, lambda points: False, silent)  # here nobody looks at candidates: only workers can find one
    search = SpreadArm(quiet, Inline(2), (offer, silent), query.clock)
    outcome, _ = finish(search, query)
    assert outcome.end is End.CANDIDATE and kept and search.handed_out > 0


@pytest.mark.parametrize("seed", range(4))
@ARMS
def test_what_can_be_violated_is_never_closed(arm, seed) -> None:
    _, query = hard(seed, below=-1e-3, seconds=1.0, size=(3, 6))
    crew = Inline(2, loses=lambda number: number % 4 == 0)
    outcome, _ = finish(spread(arm, query, crew), query, slices=8)
    assert outcome.end is not End.CLOSED and outcome.open > 0


@pytest.mark.parametrize("missing", (1, 2))
def test_a_worker_that_forgets_a_domain_is_found_out(missing) -> None:
    def forget(result: Slice) -> Slice:
        return replace(result, left=result.left.split(missing)[1]) if len(result.left) > missing else result

    _, query = hard(1, size=(5, 16))
    with pytest.raises(InternalError, match="must be left"):
        finish(spread(InputArm, query, Inline(2, change=forget)), query)


def test_a_worker_with_other_domains_than_believed_refuses() -> None:
    _, query = hard(1, size=(5, 16))
    search = InputContext(query).search(query.clock, CPU)
    place, context = Workplace(CPU), context_of(search)
    first = place.work(Order(1, 0.0, fresh=held_by(search)), lambda: context)
    assert not first.failed and len(first.left) == 2
    again = place.work(Order(1, 0.01, held=len(first.left) + 1), lambda: context)
    assert again.broken and "accounted for" in again.failed


def test_a_worker_that_cannot_leaves_the_search_here() -> None:
    _, query = hard(1, size=(5, 16))
    crew = Inline(2, change=lambda result: Slice(failed="out of memory"))
    search = spread(InputArm, query, crew)
    outcome, _ = finish(search, query)
    assert outcome.end is End.CLOSED and outcome.domains == 2 * outcome.closed - 1 and crew.sent <= 2


@ARMS
def test_held_domains_are_copies_and_keep_their_mass(arm) -> None:
    _, query = hard_for(arm, 1)
    inner = arm(query, lambda points: False, silent)
    for _ in range(50):
        inner.run(query.clock.until(0.02))
        if inner.active is not None and inner.active.open > 3:
            break
    search = inner.active
    held = held_by(search)
    mass = 1.0 - search.closed_mass
    assert len(held) == search.open and math.isclose(float(held.open.mass.sum()), mass, rel_tol=1e-9)
    part, rest = held.split(2)
    assert len(part) == 2 and len(join_held([part, rest])) == len(held)
    new = holding(search, join_held([part, rest]))
    assert new.open == len(held) and math.isclose(new.closed_mass, search.closed_mass, abs_tol=1e-9)
    new.stack[0].mass.zero_()
    assert float(held.open.mass.sum()) > 0.9 * mass, "tensors are shared"


def searching(query, least=4):
    """A search by neurons with some open leaves."""
    inner = NeuronArm(query, lambda points: False, silent)
    for _ in range(80):
        inner.run(query.clock.until(0.02))
        if inner.active is not None and inner.active.open >= least:
            return inner.active
    raise AssertionError("the query is too easy for this test")


def told_apart(search):
    """Every second leaf gets layer bounds of its own, a little wider than its clause's; which ones, by its mark."""
    marks = {}
    for number, part in enumerate(search.stack):
        for leaf in range(0, len(part), 2):
            by = 1e-3 * (1 + len(marks))
            wider = {v: (lo[:1] - by, hi[:1] + by) for v, (lo, hi) in search.root_bounds.items()}
            part.anchor[leaf] = search.anchors.add(wider, 0)
            marks[round(by, 6)] = (number, leaf)
    search.gauge.adopt(len(marks))
    return marks


def seen_by(search):
    """Literals of every leaf, and by how much its layer bounds are wider than the root's."""
    node = min(search.root_bounds)
    low = search.root_bounds[node][0][0]
    found = []
    for part in search.stack:
        known = search.anchors.exact[node][0][part.anchor]
        for leaf, own in enumerate(known):
            literals = part.literals.take(slice(leaf, leaf + 1))
            key = tuple(
                zip(*(getattr(literals, f)[0].tolist() for f in ("node", "index", "sign", "point")), strict=True)
            )
            found.append((tuple(k for k in key if k[0] >= 0), round(float((low - own).amax()), 6)))
    return sorted(found)


def test_layer_bounds_stay_with_their_leaves() -> None:
    """Sharpened bounds hold for a part of the tree only: taken over by other leaves they would prove what is false."""
    _, query = hard_for(NeuronArm, 1)
    search = searching(query)
    marks = told_apart(search)
    before = seen_by(search)
    assert {mark for _, mark in before} == {0.0, *marks}
    held = held_by(search)
    first, rest = held.split(len(held) // 2)
    assert len(first.sets.prefix) < len(held.sets.prefix), "sets that nobody refers to travel as well"
    for parts in ([held], [rest, first], [rest.split(1)[0], first, rest.split(1)[1]]):
        new = holding(search, pickle.loads(pickle.dumps(join_held(parts))))
        assert seen_by(new) == before
        again = holding(new, held_by(new))
        assert seen_by(again) == before
        assert len(again.gauge.effort) == len(again.gauge.patience) == len(again.anchors)
        assert again.margin(again.stack[-1]).shape == (len(again.stack[-1]),)


def test_what_is_given_back_keeps_its_layer_bounds() -> None:
    _, query = hard_for(NeuronArm, 1)
    search = searching(query)
    told_apart(search)
    before = seen_by(search)
    search.stuck, search.stack = search.stack[:1], search.stack[1:]
    held = held_by(search)
    state = module._Spread(0, search)
    state.give_back(held.split(1)[0])
    state.give_back(held.split(1)[1])
    new = holding(search, state.everything())
    assert len(new.stuck) == 1 and len(new.stuck[0]) == len(search.stuck[0])
    new.stack += new.stuck
    assert seen_by(new) == before
    with pytest.raises(InternalError, match="layer bounds"):
        Held(held.open, held.stuck)


def test_layer_bounds_that_are_too_many_stay_behind(monkeypatch) -> None:
    monkeypatch.setattr(spread_sets, "MOST_BYTES", 0)
    _, query = hard_for(NeuronArm, 1)
    search = searching(query)
    told_apart(search)
    held = held_by(search)
    assert held.sets is None and {mark for _, mark in seen_by(holding(search, held))} == {0.0}


@pytest.mark.parametrize("name", ("Relu", "Tanh", "Sigmoid", "Gelu", "Sin", "Softplus"))
def test_a_query_that_has_travelled_is_bounded_alike(name) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    graph = random_graph(4, name, "residual", depth=2)
    box = (torch.full((3,), -0.5, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64))
    query = one_row(graph, box, ROW, -5.0)
    here = InputContext(query)
    there = cloudpickle.loads(cloudpickle.dumps(context_of(here.search(query.clock, CPU))))
    margins = []
    for context in (here, there):
        search = context.search(query.clock, CPU)
        kept, _, _ = search._bound(search._next(), query.clock)
        margins.append(kept.margin)
    assert torch.equal(*margins)


def test_nothing_is_handed_out_before_there_is_enough(monkeypatch) -> None:
    monkeypatch.setattr(module, "SHARES", 10**9)
    _, query = hard(1, size=(5, 16))
    crew = Inline(2)
    outcome, _ = finish(spread(InputArm, query, crew), query)
    assert outcome.end is End.CLOSED and crew.sent == 0


def test_a_slice_as_short_as_a_batch_is_bounded_as_well() -> None:
    """With time running out inside every batch, all bounds would be loose and the tree would grow without end."""
    _, query = hard(1, size=(5, 16))
    search = InputContext(query).search(query.clock, CPU)
    place, context = Workplace(CPU), context_of(search)
    result, made, fresh = Slice(), 0, held_by(search)
    while result.end is End.TIME and made < 5000:
        order = Order(1, 0.0, fresh=fresh, held=len(result.left))
        result, fresh = place.work(order, lambda: context), None
        made += result.made
    alone = InputArm(query, lambda points: False, silent).run(query.clock)
    assert result.end is End.CLOSED and made <= 2 * alone.domains


def domains_of(query, stops, moves):
    """Of the whole tree, when the arm is stopped so often, and its boxes travel or not."""
    arm, seen = InputArm(query, lambda points: False, silent), [0]
    step = 10**9 if stops == 0 else 100
    while True:
        clock = Clock(query.clock.now, math.inf, lambda: arm.active is not None and arm.active.made > seen[0] + step)
        outcome = arm.run(clock)
        seen[0] = outcome.domains
        if outcome.end is not End.TIME:
            assert outcome.end is End.CLOSED
            return outcome.domains
        if moves:
            arm.put_back(holding(arm.active, held_by(arm.active)))


def test_slices_do_not_change_the_tree_and_moves_hardly_do(monkeypatch) -> None:
    """A batch that a slice cuts short is split with loose bounds."""
    monkeypatch.setattr(input_split, "FORWARD_BYTES", 3 << 20)
    _, query = hard(1, size=(3, 12))
    whole = domains_of(query, stops=0, moves=False)
    assert whole > 200
    assert domains_of(query, stops=1, moves=False) == whole
    assert domains_of(query, stops=1, moves=True) <= 1.5 * whole


def test_rows_that_paid_on_the_first_boxes_are_kept_on_boxes_that_have_moved() -> None:
    """On small boxes they narrow intervals by little; without them a tree of ACAS Xu grew five times as large."""
    choice = input_split.RowChoice()
    zero, wide, narrow = (torch.full((4, 3), v) for v in (0.0, 4.0, 1.0))
    choice.forward()
    choice.by_rows((zero, wide), (zero, narrow))
    assert choice.wants_rows()
    moved = choice.copy()
    for some in (choice, moved):
        some.forward()  # boxes without planes
        some.by_rows((zero, 1.1 * narrow), (zero, narrow))
        assert some.rows and some.wants_rows()
    poor = input_split.RowChoice()
    poor.forward()
    poor.by_rows((zero, 1.1 * narrow), (zero, narrow))
    assert not poor.rows and not poor.copy().rows


def test_an_empty_holder() -> None:
    assert len(Held()) == 0 and len(join_held([])) == 0 and not np.any([len(h) for h in Held().split(3)])
