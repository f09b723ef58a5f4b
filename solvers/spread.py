"""One search spread over a crew of workers: open domains are handed out, and taken back from who has many.

The arm stays the same to the strategy. Between slices its search holds exactly the domains that are open anywhere, so
every end of the search is decided here, by the search itself. Only what a worker has reported as closed is closed; what
a lost worker had goes back to how it was last reported.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from verinet.solvers.branching.input_split import InputSplit
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.pieces import Outside
from verinet.solvers.query import Clock
from verinet.solvers.spread_work import Context, Held, Order, Search, Slice, context_of, held_by, holding, join_held

from verinet.errors import InternalError

GROW = 0.5  # seconds that a search runs here before it is worth handing out
SHARES = 4  # open domains per worker before that
BUSY, HUNGRY = 1.0, 0.2  # seconds of a slice: when all have work, and when somebody waits for some
MOST = 4096  # domains handed to one worker at a time
LATE = 1.0  # seconds that workers are waited for at the end of a slice; sharpening layer bounds may take longer
OVERDUE = 180.0  # seconds after the end of its order, after which a worker is given up: sharpening may take a minute
REFUSED = 3  # candidates that are no violation, after which workers are not interrupted for one
_WAIT = 0.05  # seconds between two looks at the clock


class Inner(Protocol):
    """What spreading asks of an arm; `active` and what is put back are of one kind."""

    name: str

    @property
    def active(self) -> Search | None: ...

    def put_back(self, search: Any) -> None: ...

    def run(self, clock: Clock) -> Outcome: ...

    @property
    def closed_mass(self) -> float: ...

    @property
    def outside(self) -> Outside | None: ...


class Crew(Protocol):
    """Workers elsewhere. A member that is lost disappears from `members`; one that comes later has a new number."""

    def members(self) -> tuple[int, ...]:
        """Those that have joined, busy or not."""

    def free(self) -> tuple[int, ...]:
        """Those that have no order, of whatever context; what they have done for another one waits for it."""

    def share(self, context: Context) -> int:
        """Make a context available to all members, once; returns its number."""

    def forget(self, key: int) -> None:
        """A context is done."""

    def dismiss(self, member: int) -> None:
        """Do without a member that does not come back."""

    def send(self, member: int, order: Order) -> None:
        """Give an order to a member that has none."""

    def results(self, wait: float, key: int) -> list[tuple[int, Slice | None]]:
        """Orders of a context that have ended, waiting at most `wait` seconds; None where the member was lost."""


class Hired(Crew, Protocol):
    """A crew as a context manager, which ends what it has started."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def note(self) -> str:
        """One sentence on what the crew was, for the verdict; empty where there is nothing to say."""


@dataclass(slots=True)
class _Spread:
    """State of one search that is spread: all its open domains are in the pool, in a lease, or stuck."""

    key: int
    search: Search
    pool: list[Held] = field(default_factory=list)
    leases: dict[int, Held] = field(default_factory=dict)  # as last reported
    busy: dict[int, Held] = field(default_factory=dict)  # had orders; the domains that go back if it is lost
    due: dict[int, float] = field(default_factory=dict)  # time.monotonic() at which their orders should end
    drops: dict[int, int] = field(default_factory=dict)  # oldest domains taken from a lease, not yet told
    stuck: list[Held] = field(default_factory=list)
    local: bool = False  # has to go on here

    def everything(self) -> Held:
        """All open domains."""
        return join_held([*self.pool, *self.leases.values(), *self.stuck])

    def give_back(self, held: Held) -> None:
        """Domains that nobody works on any more."""
        searchable, stuck = held.apart()
        if len(searchable):
            self.pool.append(searchable)
        if len(stuck):
            self.stuck.append(stuck)

    @property
    def open(self) -> int:
        return sum(map(len, (*self.pool, *self.leases.values(), *self.stuck)))


class SpreadArm:
    """An arm whose search is done by a crew as soon as it has enough open domains."""

    def __init__(self, inner: Inner, crew: Crew, calls: tuple[Offer, Report], final: Clock) -> None:
        """`final` is the clock of the whole query: when it is over, orders that are out are not waited for."""
        self.inner, self.crew = inner, crew
        self.name = inner.name
        self._offer, self._report = calls
        self._final = final
        self._state: _Spread | None = None
        self._seen: Search | None = None
        self._since = 0.0
        self._refused = 0
        self.handed_out = self.lost = 0  # orders, and members that went with one

    @property
    def closed_mass(self) -> float:
        return self.inner.closed_mass

    @property
    def outside(self) -> Outside | None:
        return self.inner.outside

    def run(self, clock: Clock) -> Outcome:
        """Go on until the clock is over or the search ends."""
        while True:
            if self._state is None or self._state.local:
                outcome = self._here(clock)
                if outcome.end is not End.TIME or clock.over():
                    return outcome
                self._hand_over()
            if self._state is not None and self._there(self._state, clock):
                return self._outcome(End.CANDIDATE)
            if clock.over():
                return self.inner.run(clock)  # which ends at once, with the domains that are open anywhere

    def _outcome(self, end: End) -> Outcome:
        over = Clock(time.monotonic, -math.inf)
        last = self.inner.run(over)
        return Outcome(end, last.bound, last.domains, last.closed, last.open)

    def _here(self, clock: Clock) -> Outcome:
        """Search on this machine until there is enough to hand out."""

        def enough() -> bool:
            return self._enough() or (clock.stop is not None and clock.stop())

        return self.inner.run(Clock(clock.now, clock.deadline, enough))

    def _enough(self) -> bool:
        self._leave_spread()
        search, members = self.inner.active, len(self.crew.members())
        if search is not self._seen:
            self._seen, self._since = search, time.monotonic()
        if search is None or not members or (self._state is not None and self._state.local):
            return False
        return search.open >= SHARES * members and time.monotonic() - self._since > GROW

    def _leave_spread(self) -> None:
        """Forget the state of a search that has ended; one that has to stay here keeps its mark."""
        state = self._state
        if state is not None and self.inner.active is not state.search:
            self.crew.forget(state.key)
            self._state = None

    def _hand_over(self) -> None:
        search = self.inner.active
        if search is None or not self._enough():
            return
        self._state = _Spread(self.crew.share(context_of(search)), search)
        self._state.give_back(held_by(search))

    def _there(self, state: _Spread, clock: Clock) -> bool:
        """Let the crew search until the clock is over or nothing is open there; True with a confirmed violation."""
        found = False
        try:
            while not (clock.over() or found or state.local) and (state.pool or state.leases):
                self._reclaim(state)
                self._order(state, clock)
                found = self._collect(state)
            found = found or self._wait(state)
        finally:
            self._mirror(state)
            if not self.crew.members():  # when others come, they may start anew
                self.crew.forget(state.key)
                self._state = None
        return found

    def _wait(self, state: _Spread) -> bool:
        """Wait a little for the orders that are out, which end with the slice of this arm; True with a violation.

        Those that are late go on: what they were given counts as open until they report.
        """
        patience = time.monotonic() + LATE
        while state.busy and not self._final.over() and time.monotonic() < patience:
            if self._collect(state):
                return True
        return False

    def _mirror(self, state: _Spread) -> None:
        """Give the search all domains that are open anywhere, so that it knows how far it is."""
        state.search = holding(state.search, state.everything())
        self.inner.put_back(state.search)
        self._seen = state.search
        if not state.pool and not state.leases:
            state.local = True  # nothing is open, or only what no worker can split further

    def _reclaim(self, state: _Spread) -> None:
        """Take back what members had that have gone meanwhile, or that do not come back."""
        for member in [m for m, due in state.due.items() if time.monotonic() > due + OVERDUE]:
            self.crew.dismiss(member)
            self._done(state, member)
            self.lost += 1
        members = set(self.crew.members())
        for member in set(state.leases) - members - set(state.busy):
            state.give_back(state.leases.pop(member))
            state.drops.pop(member, None)
        if not members and not state.busy:
            state.local = True

    def _order(self, state: _Spread, clock: Clock) -> None:
        """Give every idle member a slice of work."""
        idle = [m for m in self.crew.free() if m not in state.busy]
        hungry = [m for m in idle if m not in state.leases]
        if hungry and not state.pool:
            self._steal(state, [m for m in idle if m in state.leases], len(hungry))
        waiting = len(hungry)
        for member in hungry:
            if not state.pool:
                break
            fresh = self._portion(state, waiting)
            waiting -= 1
            state.leases[member] = fresh
            self._send(state, member, fresh, clock)
        for member in idle:
            if member in state.leases and member not in state.busy:
                self._send(state, member, None, clock)

    def _steal(self, state: _Spread, givers: list[int], hungry: int) -> None:
        """The oldest domains of who has most go into the pool: half of them, for each to have about the same."""
        richest = max(givers, key=lambda m: len(state.leases[m]), default=None)
        if richest is None or len(state.leases[richest]) < 2:
            return
        had = len(state.leases[richest])
        taken, kept = state.leases[richest].split(had * hungry // (hungry + 1))
        if len(taken) and len(kept):
            state.pool.append(taken)
            state.leases[richest] = kept
            state.drops[richest] = state.drops.get(richest, 0) + len(taken)

    def _portion(self, state: _Spread, waiting: int) -> Held:
        """A fair part of the pool."""
        whole = join_held(state.pool)
        size = max(1, min(MOST, -(-len(whole) // waiting)))
        part, rest = whole.split(size)
        state.pool = [rest] if len(rest) else []
        return part

    def _send(self, state: _Spread, member: int, fresh: Held | None, clock: Clock) -> None:
        lease, dropped = state.leases[member], state.drops.pop(member, 0)
        short = len(state.leases) < len(self.crew.members()) and not state.pool
        seconds = max(0.01, min(HUNGRY if short else BUSY, clock.left()))
        eager = self._refused < REFUSED
        held = 0 if fresh is not None else len(lease) + dropped
        self.crew.send(member, Order(state.key, seconds, fresh, 0 if fresh is not None else dropped, held, eager))
        state.busy[member], state.due[member] = lease, time.monotonic() + seconds
        self.handed_out += 1

    @staticmethod
    def _done(state: _Spread, member: int) -> Held | None:
        """The order of a member has ended; returns what it had, None where it had none."""
        state.due.pop(member, None)
        return state.busy.pop(member, None)

    def _collect(self, state: _Spread) -> bool:
        """Take what has come back; True with a confirmed violation."""
        for member, result in self.crew.results(_WAIT, state.key):
            before = self._done(state, member)
            if before is None:
                continue
            if result is None or result.failed:
                state.give_back(state.leases.pop(member))
                self._failed(state, result)
                continue
            self._account(state, before, result)
            state.leases.pop(member)
            if result.end is End.STALLED:
                state.stuck.append(_as_stuck(state.search, result.left))
                state.local |= isinstance(state.search, InputSplit)
            elif len(result.left):
                state.leases[member] = result.left
            self._report("branching", state.open, state.search.closed, state.search.worst)
            if result.candidates is not None:
                if self._offer(result.candidates):
                    return True
                self._refused += 1
        return False

    def _failed(self, state: _Spread, result: Slice | None) -> None:
        if result is None:
            self.lost += 1
        elif result.broken:
            raise InternalError(result.failed)
        else:
            state.local = True  # what a worker cannot do, the search here meets as well and knows how to go on

    def _account(self, state: _Spread, before: Held, result: Slice) -> None:
        """Add the counts of a slice. Every domain is bounded, and then closed or halved: their number must agree."""
        search = state.search
        expected = len(before) + result.made - 2 * result.closed
        if isinstance(search, InputSplit) and result.end is not End.STALLED and len(result.left) != expected:
            raise InternalError(f"a worker returned {len(result.left)} open domains where {expected} must be left")
        search.made += result.made
        search.closed += result.closed
        search.worst = result.worst if result.worst is not None else search.worst


def _as_stuck(search: Search, left: Held) -> Held:
    """For boxes, those that a search ended with come last, so that the search here meets them first."""
    return Held(None, left.open) if isinstance(search, InputSplit) else left
