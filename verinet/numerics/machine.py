"""Cores and memory of this machine, found without importing torch."""

from __future__ import annotations

import os

_UNKNOWN = 64 * 2**30  # bytes, where the system does not tell


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def resident(pid: int | None = None) -> int:
    """Bytes of memory that a process (this one by default) really holds; 0 when it has gone."""
    try:
        with open(f"/proc/{pid or os.getpid()}/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def available() -> int:
    """Bytes of memory that could be taken without swapping, within the limit of a control group if there is one."""
    return max(0, min(_machine_free(), _group_free()))


def _machine_free() -> int:
    try:
        with open("/proc/meminfo") as lines:
            amounts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return amounts["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return _UNKNOWN


def _group_free() -> int:
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return int(limit.read()) - int(used.read())
    except (OSError, ValueError):  # no group, or no limit ("max")
        return _UNKNOWN
