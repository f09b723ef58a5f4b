"""Lipschitz bounds of random networks: `python -m benchmarks.fuzz_lipschitz [SECONDS] [SEED]`.

Random dense, convolutional and residual networks with all kinds of activations; bounds everywhere, over boxes and over
balls, by every method and in several norms. Each has to be at least the largest Jacobian norm or secant quotient that
sampling and a climb find, and at most the product of the layers' norms where that is known. Certified radii and
implicit models take their turns. Prints what does not hold, with the seed of the network, and counts at the end; exit
code 1 if anything was found.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter

import torch

from tests.kits.lipschitz_fuzz import examine, examine_implicit, examine_radius

TIMEOUT = 0.6  # seconds of one bound


def main(seconds: float, seed: int) -> int:
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    end, found = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed += 1
        try:
            kind = (examine, examine, examine, examine_radius, examine_implicit)[seed % 5]
            bad = kind(seed, TIMEOUT, counts)
        except Exception:
            bad = [traceback.format_exc(limit=-3)]
        counts["networks"] += 1
        found += len(bad)
        for line in bad:
            print(f"seed {seed}: {line}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:8d}  {name}")
    print(f"{found:8d}  violations; next seed {seed}")
    return 1 if found else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(float(given[0]) if given else 60.0, int(given[1]) if len(given) > 1 else 0))
