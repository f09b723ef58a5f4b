"""A crew of actors on an existing Ray cluster. What they need of a query travels once, through Ray's object store."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from verinet.solvers.spread_crew import Ledger
from verinet.solvers.spread_work import Context, Order, Slice, Workplace

from verinet.cluster import Cluster, RayOptions, Share, first_words

_SPARE = 3  # lost members are replaced so often, beyond one time each


class Worker:
    """An actor: one `Workplace` on its node."""

    def __init__(self, cpus: int, device: str) -> None:
        import torch

        torch.set_num_threads(cpus)
        cuda = device != "cpu" and torch.cuda.is_available()
        self._place = Workplace(torch.device("cuda" if cuda else "cpu"))

    def version(self) -> str:
        """Of verinet on this node."""
        return version("verinet")

    def work(self, order: Order, context: list[Any]) -> Slice:
        """Carry out an order. `context` is a list with a reference, so that it is fetched only when it is needed."""
        import ray

        return self._place.work(order, lambda: ray.get(context[0]))


@dataclass(slots=True)
class _Member:
    actor: Any
    call: Any  # the outstanding one: of `version` at first
    ready: bool = False
    key: int | None = None  # the context of the order it has
    forgotten: int = 0  # how many contexts it was told to forget


class RayCrew(Ledger[_Member, Any]):
    """Workers on a cluster, as many as fit or as asked for. Use as a context manager; the cluster goes on without."""

    def __init__(self, options: RayOptions, device: str) -> None:
        """Connect and ask for workers, which join when they are ready.

        Raises:
            UsageError: Ray is not installed, no cluster answers, or no node is large enough.
        """
        super().__init__()
        self._cluster = Cluster(options)
        self._device = device
        self._most = 0
        self._trouble = ""
        try:
            self._share = self._cluster.share(device)
            self._wanted = self._cluster.workers(self._share, 1 << 20)
            self._remote = self._made(self._share)
            for _ in range(self._wanted):
                self._hire()
        except BaseException:
            self._cluster.close()
            raise

    def __enter__(self) -> RayCrew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            self._cluster.ray.kill(member.actor)
        self._members.clear()
        self._contexts.clear()
        self._cluster.close()

    @property
    def note(self) -> str:
        """One sentence on what the crew was, for the verdict."""
        if not self._most:
            why = self._trouble or "none was ready before the search had ended"
            return f"no Ray worker took part: {why}"
        lost = f"; lost: {self._lost}, whose work was done again" if self._lost else ""
        return f"open subproblems were shared among {self._most} Ray workers{lost}"

    def members(self) -> tuple[int, ...]:
        """Those that have joined."""
        self._welcome()
        return self._everyone()

    def share(self, context: Context) -> int:
        """Put a context into the object store; returns its number."""
        self._numbers += 1
        self._contexts[self._numbers] = self._cluster.ray.put(context)
        return self._numbers

    def send(self, member: int, order: Order) -> None:
        """Give an order."""
        one = self._members[member]
        one.call = one.actor.work.remote(self._given(one, order), [self._contexts[order.context]])

    def _collect(self, wait: float, busy: list[_Member]) -> None:
        """Take note of the orders of some members that have ended."""
        if not busy:
            return
        numbers = {m.call: number for number, m in self._members.items()}
        for call in self._cluster.ended([m.call for m in busy], wait):
            number = numbers[call]
            member = self._members[number]
            self._returned(number, member, self._taken(number))

    def dismiss(self, member: int) -> None:
        """End a member by force, and ask for another one."""
        self._gone(member, "it did not answer")

    def _made(self, share: Share) -> Any:
        return self._cluster.ray.remote(Worker).options(**share.options())

    def _hire(self) -> None:
        actor = self._remote.remote(self._share.cpus, self._device)
        self._members[self._hired] = _Member(actor, actor.version.remote())
        self._hired += 1

    def _welcome(self) -> None:
        """Members that have come up since the last look."""
        waiting = {m.call: number for number, m in self._members.items() if not m.ready}
        if not waiting:
            return
        ray = self._cluster.ray
        for call in ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0]:
            number = waiting[call]
            try:
                theirs = ray.get(call)
            except ray.exceptions.RayError as error:
                self._gone(number, first_words(error))
                continue
            if theirs != version("verinet"):
                self._gone(number, f"its node has verinet {theirs}, not {version('verinet')}")
                continue
            self._members[number].ready, self._members[number].call = True, None
            self._most = max(self._most, sum(m.ready for m in self._members.values()))

    def _taken(self, number: int) -> Slice | None:
        ray, member = self._cluster.ray, self._members[number]
        try:
            result: Slice = ray.get(member.call)
        except ray.exceptions.RayTaskError as error:
            member.call = None
            return Slice(failed=first_words(error))
        except ray.exceptions.RayError as error:
            self._gone(number, first_words(error))
            return None
        member.call = None
        return result

    def _gone(self, number: int, why: str) -> None:
        member = self._members.pop(number)
        self._cluster.ray.kill(member.actor)
        self._trouble = why
        self._lost += member.ready
        if self._hired < 2 * self._wanted + _SPARE:
            self._hire()
