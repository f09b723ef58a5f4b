"""A search spread over workers in this process: the same verdict, every domain accounted for, also with losses."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from verinet.solvers import spread as module
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching import input_split
from verinet.solvers.branching.outcome import End
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

    def results(self, wait):
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
    return hard(seed, size=(5, 16)) if arm is InputArm else hard(3, 0.2, size=(3, 6))


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

    def results(self, wait):
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


def test_leaves_go_back_to_the_bounds_of_their_clause() -> None:
    """Sharpened bounds hold for a part of the tree only: taken over by other leaves they would prove what is false."""
    _, query = hard_for(NeuronArm, 1)
    inner = NeuronArm(query, lambda points: False, silent)
    for _ in range(50):
        inner.run(query.clock.until(0.02))
        if inner.active is not None and inner.active.open > 3:
            break
    search = inner.active
    for part in search.stack:
        part.anchor[:] = search.anchors.add(
            {v: (lo[:1] * 0, hi[:1] * 0) for v, (lo, hi) in search.root_bounds.items()}, 0
        )
    new = holding(search, held_by(search))
    assert all(bool((part.anchor == part.clause).all()) for part in new.stack)
    for node, (low, high) in new.anchors.exact.items():
        assert torch.equal(low[0], search.root_bounds[node][0][0]) and torch.equal(
            high[0], search.root_bounds[node][1][0]
        )
    assert new.margin(new.stack[-1]).shape == (len(new.stack[-1]),)


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


def test_an_empty_holder() -> None:
    assert len(Held()) == 0 and len(join_held([])) == 0 and not np.any([len(h) for h in Held().split(3)])
