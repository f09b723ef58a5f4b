"""A limit on what a process may ask for."""

from __future__ import annotations

import resource

_LIBRARIES = 400 * 2**20  # bytes of a worker's resident memory that are files, torch's libraries above all


def limit_own(memory: int) -> None:
    """Let this process's allocations beyond about `memory` bytes fail; 0 sets no limit.

    A search can then back off, before whoever watches the process from outside has to kill it at the limit itself.
    RLIMIT_DATA counts private writable memory; the address space would also count what CUDA only reserves.
    """
    if memory <= 0:
        return
    wanted = max(memory // 2, memory - _LIBRARIES)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
