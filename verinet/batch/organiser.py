"""Runs a tool's three competition scripts over a benchmark as the organisers do, and scores it as they do."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from verinet.batch.instances import Instance, read_instances
from verinet.batch.judge import Judgement, Ruling, judge
from verinet.errors import UsageError

PREPARE_LIMIT = 600.0  # seconds
KILL_AFTER = 60.0  # seconds beyond the instance's limit
CORRECT, WRONG = 10, -150  # points
# Words of a results file; the older and the VNN-LIB 2.0 words mean the same.
_WORDS = {"holds": "unsat", "violated": "sat", "timed-out": "timeout"} | {
    word: word for word in ("sat", "unsat", "unknown", "timeout", "error")
}


@dataclass(frozen=True, slots=True)
class Row:
    """One instance as scored. Times are seconds; `result` is the organisers' word for what happened."""

    instance: Instance
    prepare_time: float
    result: str
    run_time: float
    points: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Harness:
    """The scripts' folder, where results go, and how long past its limit a tool may run."""

    scripts: Path
    out: Path
    kill_after: float = KILL_AFTER

    def __post_init__(self) -> None:
        for name in ("prepare_instance.sh", "run_instance.sh"):
            if not (self.scripts / name).is_file():
                raise UsageError(f"the folder has no {name}", where=str(self.scripts))

    def run(self, source: Path, timeout: float | None = None, expected: Path | None = None) -> Iterator[Row]:
        """Score every instance, one after the other, and write `results.csv` as they come.

        Args:
            source: an instances.csv, or a folder with one per family.
            timeout: seconds, instead of the times in the list.
            expected: csv with onnx, vnnlib and verdict; by default `expected.csv` beside the list, if there is one.
        """
        known = _expected(expected or _beside(source))
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "results.csv").open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            for instance in read_instances(source, timeout):
                row = self.score(instance, known.get(_key(instance.network, instance.prop)))
                times = f"{row.prepare_time:.4f}", f"{row.run_time:.4f}"
                one = row.instance
                writer.writerow([one.family, one.network, one.prop, times[0], row.result, times[1]])
                stream.flush()
                yield row

    def score(self, instance: Instance, expected: str | None = None) -> Row:
        """Prepare, run and judge one instance. `expected` is sat where a strictly valid counterexample is known."""
        common = ["v1", instance.family, _network_argument(instance), str(instance.property_file())]
        code, prepare = self._call("prepare_instance.sh", common, PREPARE_LIMIT)
        if code != 0:
            why = "too slow" if code is None else f"exit code {code}"
            return Row(instance, prepare, "prepare_failed", 0.0, 0, f"prepare_instance.sh: {why}")
        results = (self.out / f"{instance.number}.result").absolute()
        results.unlink(missing_ok=True)
        arguments = [*common, str(results), str(instance.timeout)]
        code, seconds = self._call("run_instance.sh", arguments, instance.timeout + self.kill_after)
        if code is None:
            return Row(instance, prepare, "run_instance_timeout", seconds, 0, "killed")
        if code != 0:
            return Row(instance, prepare, f"error_exit_code_{code}", seconds, 0)
        word, rest = _read(results)
        if word in ("sat", "unsat") and seconds > instance.timeout:
            return Row(instance, prepare, "timeout", seconds, 0, f"{word}, but too late")
        points, note = _points(instance, word, rest, expected)
        return Row(instance, prepare, word, seconds, points, note)

    def _call(self, script: str, arguments: Sequence[str], limit: float) -> tuple[int | None, float]:
        """(exit code or None if it was killed at the limit, wall seconds)."""
        begin = time.monotonic()
        log = self.out / "tool.log"
        with log.open("ab") as sink:
            process = subprocess.Popen(
                ["bash", str((self.scripts / script).absolute()), *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                return process.wait(timeout=limit), time.monotonic() - begin
            except subprocess.TimeoutExpired:
                return None, time.monotonic() - begin
            finally:
                _end_group(process)


def percent(rows: Sequence[Row]) -> float:
    """Score of a benchmark for the only tool that ran: 100 x points / points of a tool that solves all, from 0."""
    return max(0.0, 100.0 * sum(row.points for row in rows) / (CORRECT * len(rows))) if rows else 0.0


def _points(instance: Instance, word: str, text: str, expected: str | None) -> tuple[int, str]:
    if word == "unsat":
        return (WRONG, "a counterexample is known") if expected == "sat" else (CORRECT, "")
    if word != "sat":
        return 0, ""
    if not text.strip():
        return WRONG, "sat without a counterexample"
    if instance.several_networks:
        return 0, "counterexamples over several networks are not replayed here"
    judgement = judge(instance.network_files()[0][1], instance.property_file(), text)
    return _worth(judgement, expected)


def _worth(judgement: Judgement, expected: str | None) -> tuple[int, str]:
    detail = f"{judgement.ruling.value}{f': {judgement.detail}' if judgement.detail else ''}"
    if judgement.ruling is Ruling.CORRECT:
        return CORRECT, "unsat was expected, but the counterexample is valid" if expected == "unsat" else ""
    if judgement.ruling is Ruling.WITHIN_TOLERANCE:
        return CORRECT, detail
    return (0 if judgement.ruling is Ruling.UNSUPPORTED else WRONG), detail


def _read(results: Path) -> tuple[str, str]:
    try:
        first, _, rest = results.read_text(errors="replace").partition("\n")
    except OSError:
        return "no_result_in_file", ""
    return _WORDS.get(first.strip().lower(), "unknown"), rest


def _network_argument(instance: Instance) -> str:
    """The path; for several networks the list text, with absolute paths."""
    files = instance.network_files()
    return repr([(name, str(path)) for name, path in files]) if instance.several_networks else str(files[0][1])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # Also what the script has left behind: it would take time from the next instance.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _beside(source: Path) -> Path | None:
    folders = (source, source.parent) if source.is_dir() else (source.parent, source.parent.parent)
    return next((folder / "expected.csv" for folder in folders if (folder / "expected.csv").is_file()), None)


def _expected(path: Path | None) -> dict[tuple[str, str], str]:
    if path is None:
        return {}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if rows and not {"onnx", "vnnlib", "verdict"} <= set(rows[0]):
        raise UsageError("expected columns are onnx, vnnlib, verdict", where=str(path))
    return {_key(row["onnx"], row["vnnlib"]): row["verdict"].strip() for row in rows}


def _key(network: str, prop: str) -> tuple[str, str]:
    return (network.strip() if network.lstrip().startswith("[") else _base(network)), _base(prop)


def _base(text: str) -> str:
    return text.strip().rsplit("/", 1)[-1].removesuffix(".gz")
