"""Damaged files and odd options through the command line: `python -m benchmarks.fuzz_cli [SECONDS] [SEED]`.

Every command line runs in a process of its own that is forked off, so that a crash is seen as well. Prints what does
not end as the documentation says, with its seed, and counts at the end; exit code 1 if anything was found.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from benchmarks.fuzzing import arguments, run
from tests.kits.cli_fuzz import attempt, opened, violations

MEMORY = 12 << 30  # bytes of address space; a damaged extent must not take the machine
_USED = ("scipy.optimize", "verinet.api", "verinet.api_lipschitz", "verinet.frontends.onnx", "verinet.solvers.strategy")
LONGEST = 20.0  # seconds; every command line asks for much less


def _child(seed: int, folder: Path, pipe: int) -> None:
    """Run one command line and write its exit code and what is wrong to the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    begin = time.monotonic()
    try:
        tried = attempt(folder, seed)
        code, bad = violations(tried)
        bad = [f"{line}\n    {' '.join(tried.arguments)[:300]}" for line in bad]
        name = f"{tried.command}, {tried.what}: exit code {code}"
    except Exception:
        name, bad = "the fuzz itself failed", [traceback.format_exc(limit=-3)]
    if time.monotonic() - begin > LONGEST:
        bad.append(f"took {time.monotonic() - begin:.0f} s")
    os.write(pipe, "\x00".join([name, *bad]).encode()[:60_000])
    os._exit(0)


def examine(seed: int, counts: Counter[str]) -> list[str]:
    """One command line, in a process of its own; what is wrong, in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(seed, folder, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            text = stream.read().decode(errors="replace")
        status = os.waitpid(child, 0)[1]
        opened(folder)
    if status != 0 or not text:
        counts["crashed"] += 1
        return [f"the process ended with status {status}"]
    what, *bad = text.split("\x00")
    counts[what] += 1
    return bad


if __name__ == "__main__":
    torch.set_num_threads(1)
    for used in _USED:  # once, and not in every child
        importlib.import_module(used)
    sys.exit(run(examine, *arguments()))
