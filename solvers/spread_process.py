"""One process of a local crew: `python -m verinet.solvers.spread_process LINE THREADS`.

Orders come as pickles through the inherited line, each after its context (empty when it was sent before). The end of
the line means that the parent has gone, and this process goes too, in the middle of a search if need be.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class _Orders:
    """Messages of the parent, read in a thread, so that its end is noticed during a search."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._pairs: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="verinet-orders", daemon=True).start()

    def next(self) -> tuple[bytes, bytes]:
        """Wait for a context and an order."""
        return self._pairs.get()

    def _read(self) -> None:
        try:
            while True:
                context = self._line.recv_bytes()
                self._pairs.put((context, self._line.recv_bytes()))
        except (EOFError, OSError):
            os._exit(0)


def main() -> None:
    """Serve until the parent goes away."""
    line, threads = Connection(int(sys.argv[1])), int(sys.argv[2])
    _follow_parent()
    orders = _Orders(line)
    import torch

    torch.set_num_threads(threads)
    from verinet.solvers.spread_work import Context, Order, Slice, Workplace

    place = Workplace(torch.device("cpu"))
    line.send_bytes(pickle.dumps("ready"))
    while True:
        sent, told = orders.next()

        def context(sent: bytes = sent) -> Context:
            found: Context = pickle.loads(sent)
            return found

        order: Order = pickle.loads(told)
        try:
            result = place.work(order, context)
        except (pickle.UnpicklingError, AttributeError, ImportError) as error:  # an operator that only the parent has
            result = Slice(failed=f"{type(error).__name__}: {error}")
        line.send_bytes(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))


def _follow_parent() -> None:
    # Ctrl-C in a terminal reaches the whole group; the parent then answers, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    except (OSError, AttributeError):  # not Linux: the end of the line tells
        return


if __name__ == "__main__":
    main()
