"""The one exit for verdicts: word to stdout, file for the competition, reason to stderr, exactly once."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

from verinet.cli.files import NetworkFiles
from verinet.cli.session import EXIT_INTERRUPTED, EXIT_TOOL, emit, emit_json, say
from verinet.results import Reason, Status, Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """How the user wants to hear the verdict.

    `assignment` prints a counterexample after the verdict, as the VNN-LIB standard has it; `folder` stores it there
    instead, as ONNX tensors.
    """

    model: NetworkFiles
    spec: Path
    result: Path | None = None
    as_json: bool = False
    quiet: bool = False
    assignment: bool = False
    folder: Path | None = None


@dataclass(slots=True)
class Finish:
    """Gives the final output of one query. The search and the watchdog race for it; only the first one speaks."""

    report: Report
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def give(self, verdict: Verdict) -> int | None:
        """Print and store `verdict`; returns the exit code, or None if the other one has already spoken."""
        if not self._turn.acquire(blocking=False):
            return None
        self._print(verdict)
        stored = self._store(verdict)
        if not self.report.quiet:
            _say_reason(verdict)
        if not stored:
            return EXIT_TOOL
        return EXIT_INTERRUPTED if verdict.reason is Reason.INTERRUPTED else 0

    def _print(self, verdict: Verdict) -> None:
        if self.report.as_json:
            head = {"verdict": verdict.status.value, "model": named(self.report.model), "spec": str(self.report.spec)}
            emit_json(head | verdict.to_dict())
            return
        emit(verdict.status.value)
        if self.report.assignment and self.report.folder is None and verdict.witness is not None:
            from verinet.witness.formats import assignment

            emit(assignment(verdict.witness, self.report.spec).rstrip("\n"))

    def _store(self, verdict: Verdict) -> bool:
        path, folder = self.report.result, self.report.folder
        try:
            if path is not None:
                write_whole(path, _result_text(verdict, self.report.spec))
            if folder is not None and verdict.witness is not None:
                from verinet.witness.formats import serialise

                serialise(verdict.witness, self.report.spec, folder)
        except OSError as error:
            what = error.filename or path or folder
            say(f"error: cannot write the result file: {error.strerror or error}\n  where   {what}")
            return False
        return True


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads a part of it: under another name beside it, then renamed.

    What is no ordinary file (/dev/stdout, a pipe) is written to as it is, and so is a file in a folder that takes no
    new ones. Raises OSError.
    """
    target = path.resolve()
    try:
        status = target.stat()
    except FileNotFoundError:
        status = None
    if status is not None and (not stat.S_ISREG(status.st_mode) or not os.access(target.parent, os.W_OK)):
        target.write_text(text)
        return
    if status is not None and not os.access(target, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(path))  # a rename would not ask
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_text(text)
        if status is not None:
            beside.chmod(stat.S_IMODE(status.st_mode))
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def named(networks: NetworkFiles) -> str | dict[str, str]:
    """The networks' files as text."""
    if isinstance(networks, Path):
        return str(networks)
    return {name: str(path) for name, path in networks.items()}


def _result_text(verdict: Verdict, spec: Path) -> str:
    word = "timeout" if verdict.status is Status.TIMED_OUT else verdict.status.value
    if verdict.witness is None:
        return f"{word}\n"  # without an import: the watchdog may be here while the main thread is still importing
    from verinet.witness.formats import assignment

    return f"{word}\n{assignment(verdict.witness, spec)}"


def _say_reason(verdict: Verdict) -> None:
    say(f"reason: {verdict.reason.name.lower()}: {verdict.reason.value}")
    if verdict.gap is not None and verdict.gap > 0:
        say(f"gap: {verdict.gap:.6g}")
    if verdict.witness is not None:
        say(f"margin of the witness: {verdict.witness.margin:.6g}")
    stats = verdict.stats
    if stats.domains:
        say(f"subproblems: {stats.domains}, closed {stats.closed}, open {stats.open}; {stats.seconds:.2f} s")
    for note in verdict.notes:
        say(f"note: {note}")
