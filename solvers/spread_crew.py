"""The account every crew keeps: who has an order of which context, and what has come back, not yet asked for."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from verinet.solvers.spread_work import Order, Slice


class Member(Protocol):
    """One worker, as its crew sees it."""

    ready: bool
    key: int | None  # the context of the order it has
    forgotten: int  # how many contexts it was told to forget


M = TypeVar("M", bound=Member)
C = TypeVar("C")


class Ledger(ABC, Generic[M, C]):
    """Members by number, contexts as they travel, and orders that have ended."""

    def __init__(self) -> None:
        self._members: dict[int, M] = {}
        self._contexts: dict[int, C] = {}
        self._forgotten: list[int] = []
        self._ended: list[tuple[int, int, Slice | None]] = []  # context, member, result: not asked for yet
        self._hired = self._numbers = self._lost = 0

    @abstractmethod
    def _collect(self, wait: float, busy: list[M]) -> None:
        """Take note of the orders of some members that have ended, waiting at most `wait` seconds for one."""

    def forget(self, key: int) -> None:
        """A context is done: members hear of it with their next order."""
        if self._contexts.pop(key, None) is not None:
            self._forgotten.append(key)

    def free(self) -> tuple[int, ...]:
        """Those that have no order."""
        self._collect(0.0, [m for m in self._members.values() if m.key is not None])
        return tuple(number for number, member in self._members.items() if member.ready and member.key is None)

    def results(self, wait: float, key: int) -> list[tuple[int, Slice | None]]:
        """Orders of a context that have ended, waiting at most `wait` seconds; None where the member was lost."""
        if not any(theirs == key for theirs, _, _ in self._ended):
            busy = [m for m in self._members.values() if m.key == key]
            if busy:
                self._collect(wait, busy)
            else:
                time.sleep(wait)
        found = [(number, result) for theirs, number, result in self._ended if theirs == key]
        self._ended = [one for one in self._ended if one[0] != key and one[0] in self._contexts]
        return found

    def _everyone(self) -> tuple[int, ...]:
        """Those that are ready."""
        return tuple(number for number, member in self._members.items() if member.ready)

    def _given(self, member: M, order: Order) -> Order:
        """The order as the member is told, who has it from now on."""
        told = replace(order, forget=tuple(self._forgotten[member.forgotten :]))
        member.forgotten, member.key = len(self._forgotten), order.context
        return told

    def _returned(self, number: int, member: M, result: Slice | None) -> None:
        """The order of a member has ended, or None: the member was lost with it."""
        if member.key is not None:
            self._ended.append((member.key, number, result))
        member.key = None
