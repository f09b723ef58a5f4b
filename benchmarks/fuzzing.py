"""The loop of all fuzz programs: seeds until the time is over, what was wrong, and counts."""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable


def run(examine: Callable[[int, Counter[str]], list[str]], seconds: float, seed: int) -> int:
    """`examine` a seed after the other; it counts what it has done and returns what is wrong. 1 where anything is."""
    counts: Counter[str] = Counter()
    end, found = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed += 1
        try:
            bad = examine(seed, counts)
        except Exception:
            bad = [traceback.format_exc(limit=-3)]
        found += len(bad)
        for line in bad:
            print(f"seed {seed}: {line}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:8d}  {name}")
    print(f"{found:8d}  violations; next seed {seed}")
    return 1 if found else 0


def arguments() -> tuple[float, int]:
    """SECONDS and SEED of the command line, by default 60 and 0."""
    given = sys.argv[1:]
    return float(given[0]) if given else 60.0, int(given[1]) if len(given) > 1 else 0
