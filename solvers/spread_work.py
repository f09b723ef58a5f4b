"""Open domains on their way between machines, and what a worker does with them for a slice of time.

A domain means the same everywhere: a box, or a clause with split literals, of a query that all machines hold. What only
speeds the search up (planes, multipliers, sharpened layer bounds) stays where it was made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.branching.history import History
from verinet.solvers.branching.input_split import Chunk, InputSplit, RowChoice, join_chunks
from verinet.solvers.branching.leaves import ClauseRows, Leaves, join_leaves
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End, Offer
from verinet.solvers.branching.stack import Domains
from verinet.solvers.query import Clock, Query
from verinet.solvers.root import Root
from verinet.solvers.spread_sets import Packed, Sets, adopt, fitted, joined_sets, shifted

from verinet.errors import InternalError
from verinet.ir.graph import Graph
from verinet.numerics.memory import out_of_memory
from verinet.ops.scalar import DomainError
from verinet.propagation.interval import Interval
from verinet.propagation.sweep import Layers, build_backward
from verinet.spec.property import Floats, Property

CANDIDATES = 32  # of one slice; all of them are tried on the original file

Search = InputSplit | NeuronSplit
Parts = list[Any]  # of Chunk or of Leaves
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class InputContext:
    """What a worker needs for input splitting."""

    query: Query
    choice: RowChoice = field(default_factory=RowChoice)

    def search(self, clock: Clock, device: torch.device) -> InputSplit:
        """A search like the one that the domains come from."""
        query = replace(moved(self.query, device), clock=clock)
        backward = build_backward(query.graph, query.lower.amin(0), query.upper.amax(0))
        return InputSplit(query, backward, choice=self.choice.copy())


@dataclass(frozen=True, slots=True)
class NeuronContext:
    """What a worker needs for neuron splitting on one box: `known` are its layer bounds, the same for all workers."""

    query: Query
    known: dict[int, Interval]
    clauses: tuple[ClauseRows, ...]
    history: History = field(default_factory=History)

    def search(self, clock: Clock, device: torch.device) -> NeuronSplit:
        """A search like the one that the domains come from."""
        query = replace(moved(self.query, device), clock=clock)
        root = Root.resumed(query, clock, Layers(query.lower, query.upper, moved(self.known, device)))
        search = NeuronSplit(query, root.engines(), root.layers, list(self.clauses))
        search.history = self.history.moved(device)
        return search


Context = InputContext | NeuronContext


def context_of(search: Search) -> Context:
    """Everything of a search but its open domains, on the CPU and without its clock."""
    query = moved(replace(search.query, clock=Clock(time.monotonic, math.inf)), CPU)
    if isinstance(search, InputSplit):
        return InputContext(query, search.choice.copy())
    return NeuronContext(query, moved(search.root_bounds, CPU), tuple(search.clauses), search.history.moved(CPU))


def moved(value: Any, device: torch.device) -> Any:
    """The same nested value with all tensors on a device."""
    return _changed(value, lambda tensor: tensor.to(device), device)


def copied(value: Any, device: torch.device) -> Any:
    """The same, with no tensor shared: searches write into theirs."""
    return _changed(value, lambda tensor: tensor.to(device, copy=True), device)


def _changed(value: Any, change: Callable[[Tensor], Tensor], device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Graph):
        return value.to(torch.float64, device)
    if isinstance(value, Property):
        return value
    if isinstance(value, dict):
        return {key: _changed(item, change, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        return replace(value, **{name: _changed(item, change, device) for name, item in given.items()})
    return value


@dataclass(frozen=True, slots=True)
class Held:
    """Open domains, oldest first: those that can be searched, and those in which nothing is left to split.

    The anchors of leaves are numbers in `sets`, negative where nothing sharper is known than the bounds of the clause.
    """

    open: Domains | None = None
    stuck: Domains | None = None
    sets: Sets | None = None

    def __post_init__(self) -> None:
        count = 0 if self.sets is None else len(self.sets.prefix)
        for part in (self.open, self.stuck):
            if isinstance(part, Leaves) and len(part) and int(part.anchor.max()) >= count:
                raise InternalError("leaves came without the layer bounds that they refer to")

    def __len__(self) -> int:
        return sum(len(part) for part in (self.open, self.stuck) if part is not None)

    def apart(self) -> tuple[Held, Held]:
        """Domains that can be searched, and those in which nothing is left to split."""
        return _fitted(Held(self.open, None, self.sets)), _fitted(Held(None, self.stuck, self.sets))

    def split(self, count: int) -> tuple[Held, Held]:
        """The oldest `count` domains that can be searched, and the rest. The oldest have the largest trees below."""
        if self.open is None or count <= 0:
            return Held(), self
        first = self.open.take(slice(0, count))
        rest = self.open.take(slice(count, None)) if len(self.open) > count else None
        return _fitted(Held(first, None, self.sets)), _fitted(Held(rest, self.stuck, self.sets))


def held_by(search: Search) -> Held:
    """A copy of the open domains, ready to travel."""
    if isinstance(search, InputSplit):
        return Held(joined([copied(replace(chunk, planes=None, parent=None), CPU) for chunk in search.stack]))
    packed = Packed.of(search)
    open_, stuck = (joined([copied(packed.plain(p), CPU) for p in pile]) for pile in (search.stack, search.stuck))
    return Held(open_, stuck, packed.sets)


def join_held(parts: list[Held]) -> Held:
    """All domains of several holders."""
    open_: Parts = []
    stuck: Parts = []
    before = 0
    for part in parts:
        for pile, some in ((open_, part.open), (stuck, part.stuck)):
            if some is not None:
                pile.append(shifted(some, before) if isinstance(some, Leaves) else some)
        before += 0 if part.sets is None else len(part.sets.prefix)
    return Held(joined(open_), joined(stuck), joined_sets([part.sets for part in parts]))


def _fitted(held: Held) -> Held:
    """Without the layer bounds that none of its leaves refers to."""
    if held.sets is None:
        return held
    parts, sets = fitted([_leaves(held.open), _leaves(held.stuck)], held.sets)
    return Held(parts[0], parts[1], sets)


def _leaves(part: Domains | None) -> Leaves | None:
    return part if isinstance(part, Leaves) else None


def joined(parts: Parts) -> Domains | None:
    """Plain domains of one kind as one; None for none."""
    if not parts:
        return None
    if isinstance(parts[0], Chunk):
        return join_chunks(parts)
    return join_leaves(parts, 1)  # `per` only matters for multipliers, which do not travel


def holding(search: Search, held: Held) -> Search:
    """A search like the one given that goes on with exactly these domains.

    For neurons it is a new one, with the sharpened layer bounds that came with the leaves: they hold for a part of the
    tree, and no leaf may come to refer to those of another part.
    """
    device = search.query.lower.device
    if isinstance(search, InputSplit):
        parts = [part for part in (held.open, held.stuck) if part is not None]
        search.stack = [copied(part, device) for part in parts]
        return search
    layers = Layers(search.query.lower, search.query.upper, search.root_bounds)
    new = NeuronSplit(search.query, search.engines, layers, search.clauses)
    new.made, new.closed, new.worst = search.made, search.closed, search.worst
    new.branching, new.history = search.branching, search.history
    new.gauge = search.gauge.again(len(search.clauses))
    new.stack, new.stuck = ([copied(part, device)] if part is not None else [] for part in (held.open, held.stuck))
    adopt(new, held.sets)
    return new


def drop(search: Search, count: int) -> None:
    """Forget the oldest `count` domains of the stack: somebody else has taken them over."""
    stack: Parts = search.stack
    while count > 0 and stack:
        size = len(stack[0])
        stack[:1] = [] if size <= count else [stack[0].take(slice(count, None))]
        count -= size


@dataclass(frozen=True, slots=True)
class Order:
    """One slice of work on a context. `fresh` domains are for a worker without any; else it goes on with its own,
    of which it drops the oldest `drop`. `held` is how many it must have before that."""

    context: int
    seconds: float
    fresh: Held | None = None
    drop: int = 0
    held: int = 0
    eager: bool = True  # come back with the first candidate for a violation
    forget: tuple[int, ...] = ()  # contexts that are done


@dataclass(frozen=True, slots=True)
class Slice:
    """What came of an order: all domains that the worker still has, and counts of this slice alone.

    `failed` says why the order was not carried out; `broken` that an invariant of verinet does not hold.
    """

    end: End = End.TIME
    left: Held = field(default_factory=Held)
    made: int = 0
    closed: int = 0
    worst: float | None = None
    candidates: Floats | None = None
    failed: str = ""
    broken: bool = False


class GetContext(Protocol):
    """Fetches a context when a worker does not have it yet."""

    def __call__(self) -> Context: ...


@dataclass(slots=True)
class _Bench:
    """One context at a worker."""

    context: Context
    clock: _SliceClock
    search: Search


class _SliceClock:
    """The clock of all searches of a worker. It ends a slice between two batches only: a batch that runs out of time
    is bounded loosely, and with slices as short as a batch every one would be."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.cut = False

    def over(self) -> bool:
        return self.cut

    def batch(self, phase: str, still_open: int, closed: int, bound: float | None) -> None:
        """A batch is done: what searches call to report."""
        self.cut |= time.monotonic() >= self.deadline

    def clock(self) -> Clock:
        return Clock(time.monotonic, math.inf, self.over)


class Workplace:
    """A worker: keeps a search per context, and its open domains between slices."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._benches: dict[int, _Bench] = {}

    def work(self, order: Order, get: GetContext) -> Slice:
        """Search for a slice of time. Never raises for what a query can do wrong."""
        for key in order.forget:
            self._benches.pop(key, None)
        try:
            return self._slice(self._ready(order, get), order)
        except InternalError as error:
            return Slice(failed=str(error), broken=True)
        except DomainError as error:
            return Slice(failed=str(error) or "a bound left the domain of a function")
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return Slice(failed="out of memory")

    def _ready(self, order: Order, get: GetContext) -> _Bench:
        """The bench of the order, with exactly the domains that the sender believes it to have."""
        bench = self._benches.get(order.context)
        if bench is None:
            context, clock = get(), _SliceClock()
            bench = _Bench(context, clock, context.search(Clock(time.monotonic, math.inf), self._device))
            self._benches[order.context] = bench
        if order.fresh is not None:
            bench.search = holding(bench.search, order.fresh)
        elif bench.search.open != order.held:
            raise InternalError(f"a worker has {bench.search.open} open domains where {order.held} are accounted for")
        else:
            drop(bench.search, order.drop)
        return bench

    def _slice(self, bench: _Bench, order: Order) -> Slice:
        search, clock = bench.search, bench.clock
        found: list[Floats] = []
        made, closed = search.made, search.closed
        clock.deadline, clock.cut = time.monotonic() + order.seconds, False
        outcome = search.run(clock.clock(), _collector(found, clock, order.eager), clock.batch)
        points = np.concatenate(found)[:CANDIDATES] if found else None
        return Slice(outcome.end, held_by(search), search.made - made, search.closed - closed, outcome.bound, points)


def _collector(found: list[Floats], clock: _SliceClock, eager: bool) -> Offer:
    """Candidates are confirmed where the original file is; until then their domains stay open."""

    def offer(points: Floats) -> bool:
        if sum(map(len, found)) < CANDIDATES:
            found.append(points.copy())
            clock.cut |= eager
        return False

    return offer
