"""Keeps what Ray says about its cluster away from stdout, where only answers belong."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_RAYS = "ray_"  # how the names of Ray's threads begin


class _Apart:
    """stdout for everybody but Ray's threads, which print notices ("a node has died") there and cannot be told not to.

    A plain redirection would not do: the watchdog answers on stdout while a search still runs.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        stream = sys.stderr if threading.current_thread().name.startswith(_RAYS) else self._stream
        return int(stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def ray_apart(wanted: bool) -> Iterator[None]:
    """While the block runs, Ray's notices go to stderr. Does nothing unless `wanted`."""
    before = sys.stdout
    if wanted:
        sys.stdout = _Apart(before)
    try:
        yield
    finally:
        sys.stdout = before
