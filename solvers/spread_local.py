"""A crew of processes on this machine, one per core: Python and small tensor operations keep one core busy at most.

Processes are started when a search has gone on for a while, since each takes seconds to import torch.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as first_of

from verinet.solvers.spread_crew import Ledger
from verinet.solvers.spread_work import Context, Order

from verinet.errors import UsageError
from verinet.numerics.machine import available, cores, resident

PATIENCE = 4.0  # seconds of searching before others are called: most queries have ended by then
_LEAST_MEMORY = 768 * 2**20  # bytes that one process is expected to need
_SPARE = 1  # lost processes are replaced so often in all


@dataclass(slots=True)
class _Member:
    process: subprocess.Popen[bytes]
    line: Connection
    ready: bool = False
    key: int | None = None  # the context of the order it has
    forgotten: int = 0  # how many contexts it was told to forget
    known: set[int] = field(default_factory=set)  # contexts that it was sent


class LocalCrew(Ledger[_Member, bytes]):
    """Up to `processes` workers on this machine. Use as a context manager, which ends them."""

    def __init__(self, processes: int, patience: float = PATIENCE) -> None:
        """Starts nothing yet. Raises `UsageError` unless `processes` is positive."""
        if processes < 1:
            raise UsageError(f"the number of processes must be positive, not {processes}")
        super().__init__()
        self._wanted, self._patience = processes, patience
        self._asked: float | None = None
        self._worked = 0
        self._closed = self._complete = False

    def __enter__(self) -> LocalCrew:
        return self

    def __exit__(self, *_: object) -> None:
        self._disband()
        self._contexts.clear()

    @property
    def note(self) -> str:
        """One sentence on what the crew was, for the verdict; empty when it was not needed."""
        if not self._worked:
            return ""
        lost = f"; lost: {self._lost}, whose work was done again" if self._lost else ""
        return f"open subproblems were shared among {self._worked} processes{lost}"

    def members(self) -> tuple[int, ...]:
        """All, busy or not, once they are ready. The first calls only start the clock, later ones the processes."""
        self._start()
        coming = [m for m in self._members.values() if not m.ready]
        self._collect(0.0, coming)
        if not self._complete and any(not m.ready for m in coming):
            return ()  # one alone would only take the work over
        self._complete = bool(self._members)
        return self._everyone()

    def share(self, context: Context) -> int:
        """Keep a context for whoever needs it; returns its number. What cannot be sent ends the crew."""
        import cloudpickle  # functions of one variable are made of local ones

        self._numbers += 1
        try:
            self._contexts[self._numbers] = cloudpickle.dumps(context)
        except (pickle.PicklingError, AttributeError, TypeError):  # an operator that holds an open file, say
            self._disband()
        return self._numbers

    def send(self, member: int, order: Order) -> None:
        """Give an order, with its context if the member has never had it."""
        one = self._members[member]
        told = self._given(one, order)
        context = b"" if order.context in one.known else self._contexts[order.context]
        one.known.add(order.context)
        self._worked = max(self._worked, sum(m.key is not None for m in self._members.values()))
        with contextlib.suppress(OSError):  # it has died; the end of its results says so
            one.line.send_bytes(context)
            one.line.send_bytes(pickle.dumps(told, pickle.HIGHEST_PROTOCOL))

    def dismiss(self, member: int) -> None:
        """End a process by force, and start another one."""
        self._gone(member)

    def _start(self) -> None:
        """Start all processes, once, when the search has lasted for a while and memory allows two of them."""
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        if self._hired or self._closed or now - self._asked < self._patience:
            return
        count = min(self._wanted, available() // max(_LEAST_MEMORY, resident()))
        if count < 2:  # one alone would only do what this process does
            self._closed = True
            return
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        ours, theirs = Pipe()
        threads = max(1, cores() // self._wanted)
        module = "verinet.solvers.spread_process"
        extra = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
        with theirs:
            # Not `multiprocessing`: it would run the script of whoever calls us once more in every process.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(threads)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | extra | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._members[self._hired] = _Member(process, ours)
        self._hired += 1

    def _collect(self, wait: float, busy: list[_Member]) -> None:
        """Take note of what members have sent: that they are ready, or a slice; and of those that have died."""
        numbers = {id(m.line): n for n, m in self._members.items()}
        for line in first_of([m.line for m in busy], wait):
            number = numbers[id(line)]
            member = self._members[number]
            try:
                message = pickle.loads(member.line.recv_bytes())
            except (EOFError, OSError):
                self._gone(number)
                message = None
            self._returned(number, member, message)
            member.ready = True

    def _gone(self, number: int) -> None:
        member = self._members.pop(number)
        self._end(member)
        self._lost += member.ready
        if not self._closed and self._hired < self._wanted + _SPARE:
            self._hire()

    def _disband(self) -> None:
        """End all processes for good."""
        self._closed = True
        for member in self._members.values():
            self._end(member)
        self._members.clear()

    @staticmethod
    def _end(member: _Member) -> None:
        member.line.close()
        member.process.kill()
        member.process.wait()
