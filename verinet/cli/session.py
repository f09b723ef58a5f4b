"""What all commands share: where they write, how they fail."""

from __future__ import annotations

import errno
import json
import math
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

from verinet.errors import VerinetError

EXIT_TOOL, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_WRONG_PATHS = frozenset(
    getattr(errno, name) for name in "EACCES EISDIR ELOOP ENAMETOOLONG ENOENT ENOTDIR EPERM EROFS".split()
)


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the command. `started` is on the clock of `time.monotonic()`.

    `owns_process` allows the watchdog to end the process at the time limit; a test that calls the command in its own
    process must not allow that.
    """

    started: float
    owns_process: bool = True


def say(text: str) -> None:
    """A line for people, on stderr: stdout belongs to the verdict."""
    print(text, file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """A line for programs, on stdout."""
    print(text, flush=True)


def emit_json(record: Any) -> None:
    """One JSON object on stdout. JSON has no infinities, so they are written as strings."""
    emit(json.dumps(_finite(record), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@contextmanager
def guarded(verbose: int = 0) -> Iterator[None]:
    """Turn every exception into a message on stderr and an exit code; tracebacks only when asked for."""
    try:
        yield
    except VerinetError as error:
        _explain(str(error), verbose)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except MemoryError as error:
        _explain("out of memory; try a smaller input region, or close other programs", verbose)
        raise typer.Exit(EXIT_TOOL) from error
    except (typer.Exit, typer.BadParameter, typer.Abort):
        raise
    except OSError as error:
        _explain(f"{error.strerror or error}\n  where   {error.filename}", verbose)
        raise typer.Exit(EXIT_USAGE if error.errno in _WRONG_PATHS else EXIT_TOOL) from error
    except Exception as error:
        _explain(_unexpected(error), verbose)
        raise typer.Exit(EXIT_TOOL) from error


def _explain(text: str, verbose: int) -> None:
    if verbose:
        say(traceback.format_exc().rstrip())
    say(f"error: {text}")


def _unexpected(error: Exception) -> str:
    what = " ".join(str(error).split())[:300]
    return (
        f"verinet failed in a way it should not: {type(error).__name__}: {what}\n"
        "  try     run again with -v for the traceback, and report it together with the model and the property"
    )
