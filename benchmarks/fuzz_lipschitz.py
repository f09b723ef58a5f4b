"""Lipschitz bounds of random networks: `python -m benchmarks.fuzz_lipschitz [SECONDS] [SEED]`.

Random dense, convolutional and residual networks with all kinds of activations; bounds everywhere, over boxes and over
balls, by every method and in several norms. Each has to be at least the largest Jacobian norm or secant quotient that
sampling and a climb find, and at most the product of the layers' norms where that is known. Certified radii and
implicit models take their turns. Prints what does not hold, with the seed of the network, and counts at the end; exit
code 1 if anything was found.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch

from benchmarks.fuzzing import arguments, run
from tests.kits.lipschitz_fuzz import examine, examine_implicit, examine_radius

TIMEOUT = 0.6  # seconds of one bound


def network(seed: int, counts: Counter[str]) -> list[str]:
    """One random network; what is wrong, in words."""
    counts["networks"] += 1
    kind = (examine, examine, examine, examine_radius, examine_implicit)[seed % 5]
    return kind(seed, TIMEOUT, counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run(network, *arguments()))
