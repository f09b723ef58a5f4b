"""The command line: the only part of verinet that prints or ends the process.

Everything heavy (torch, onnx, onnxruntime, rich) is imported inside the commands, because start-up time is answer time.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from verinet.cli.clock import process_start


def main() -> NoReturn:
    """Entry point of the `verinet` command."""
    started = process_start()
    # Threads that spin at the end of every small parallel loop starve each other as soon as the machine is shared;
    # must be set before torch loads OpenMP.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from verinet.cli.app import run

    code = run(sys.argv[1:], started)
    _leave(code)


def _leave(code: int) -> NoReturn:
    # Unloading torch takes about a third of a second, which would count against the user's time limit.
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the reader of a pipe has gone
        code = code or 1
    os._exit(code)
