"""When this process began, so that a time limit covers the interpreter's own start-up."""

from __future__ import annotations

import os
import time
from pathlib import Path

_FIRST_IMPORT = time.monotonic()
_PLAUSIBLE_AGE = (
    120.0  # seconds from the start of the process to here; more means that the numbers are not what we think
)


def process_start() -> float:
    """The `time.monotonic()` value at which the process began.

    Linux tells the start in clock ticks since boot, to a hundredth of a second. Elsewhere, or where those numbers make
    no sense, it is the time at which this module was first imported.
    """
    try:
        # The command name in field 2 may hold spaces and parentheses, so count fields from its end.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begun = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = float(Path("/proc/uptime").read_text().split()[0]) - begun
    except (OSError, ValueError, IndexError, AttributeError):
        return _FIRST_IMPORT
    return time.monotonic() - age if 0.0 <= age <= _PLAUSIBLE_AGE else _FIRST_IMPORT
