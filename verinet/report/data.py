"""What a report speaks of: the results of a run, of another run, or of peers in a csv file."""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verinet.batch.store import Record, logs_of, read_log
from verinet.errors import UsageError

STATUSES = ("unsat", "sat", "unknown", "timed-out", "error")
SOLVED = ("unsat", "sat")
# Words of other tools and of the competition for the same five outcomes.
_SAME = {
    "holds": "unsat",
    "violated": "sat",
    "timeout": "timed-out",
    "timed_out": "timed-out",
    "unsupported": "error",
    "run_instance_timeout": "timed-out",
}
_PEER_COLUMNS = {"onnx", "vnnlib", "verdict", "seconds"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One result. `seconds` and `timeout` are seconds; `record` is what the log holds, empty for peers."""

    number: int
    family: str
    model: str
    prop: str
    timeout: float
    status: str
    seconds: float
    record: Record = field(default_factory=dict)

    @property
    def late(self) -> bool:
        """Answered, but after the limit: the competition counts that as a timeout, and so do we."""
        return self.status in SOLVED and self.seconds > self.timeout

    @property
    def solved(self) -> bool:
        return self.status in SOLVED and not self.late

    @property
    def key(self) -> tuple[str, str]:
        """File names of network and property: what the same instance has in common in different lists."""
        return base_name(self.model), base_name(self.prop)

    @property
    def gap(self) -> float | None:
        """How far the instance is from being proved; infinite when no finite bound was found."""
        value = self.record.get("gap")
        return None if value is None else float(value)

    @property
    def reason(self) -> str:
        return str(self.record.get("reason", "")).replace("_", " ")


@dataclass(frozen=True, slots=True)
class Results:
    """Named results of one tool or run."""

    name: str
    entries: tuple[Entry, ...]
    source: str = ""

    def counts(self) -> dict[str, int]:
        """How often each status occurs."""
        return {word: sum(e.status == word for e in self.entries) for word in STATUSES}

    def by_key(self) -> dict[tuple[str, str], Entry]:
        """The first result of every instance."""
        found: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            found.setdefault(entry.key, entry)
        return found


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """Summary of the results of one family. Times are seconds; None where there is nothing to take them from."""

    family: str
    total: int
    counts: dict[str, int]
    solved: int
    seconds: float
    median: float | None
    slowest: float | None
    worst_gap: float | None


def load_run(folder: str | Path) -> Results:
    """The results of a batch run, all shards together, by instance number.

    Raises UsageError when the folder holds no run, or a log that cannot be read.
    """
    top = Path(folder)
    records = [record for log in logs_of(top) for record in read_log(log)]
    entries = sorted((entry_of(record) for record in records), key=lambda entry: entry.number)
    return Results(top.absolute().name, tuple(entries), str(top))


def entry_of(record: Record) -> Entry:
    """The result that a record of the log holds."""
    return Entry(
        int(record["number"]),
        str(record["family"]),
        str(record["model"]),
        str(record["property"]),
        float(record["timeout"]),
        str(record["status"]),
        float(record["seconds"]),
        record,
    )


def load_others(source: str | Path) -> list[Results]:
    """Results to compare with: another run's folder, or a csv file.

    The csv file has a header with at least onnx, vnnlib, verdict, seconds (and perhaps peer, benchmark, timeout), or it
    is a result file of the competition: category, network, property, prepare time, result, run time, without a header.
    """
    path = Path(source)
    if path.is_dir():
        return [load_run(path)]
    if not path.is_file():
        raise UsageError("there is no such run or csv file", where=str(path))
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = [row for row in csv.reader(lines) if row]
    if rows and set(rows[0]) >= _PEER_COLUMNS:
        return _peers(rows, path)
    if rows and all(len(row) >= 6 for row in rows):
        entries = [_competition_entry(number, row, path) for number, row in enumerate(rows, start=1)]
        return [Results(path.stem, tuple(entries), str(path))]
    raise UsageError(
        "this is neither a list of peers' results nor a result file of the competition",
        where=str(path),
        hint="a header with the columns peer,onnx,vnnlib,verdict,seconds is enough",
    )


def base_name(text: str) -> str:
    """File name without folders and `.gz`; the text itself for a list of several networks."""
    plain = text.strip()
    return plain if plain.startswith("[") else plain.rsplit("/", 1)[-1].removesuffix(".gz")


def shown_name(text: str) -> str:
    """A network as tables name it: its file, or NAME=FILE for each of several."""
    pairs = (
        re.findall(r"\(\s*['\"](.*?)['\"]\s*,\s*['\"](.*?)['\"]\s*\)", text) if text.lstrip().startswith("[") else []
    )
    return ", ".join(f"{name}={base_name(file)}" for name, file in pairs) or base_name(text)


def family_rows(entries: Sequence[Entry]) -> list[FamilyRow]:
    """One row per family, in order of appearance."""
    families: dict[str, list[Entry]] = {}
    for entry in entries:
        families.setdefault(entry.family, []).append(entry)
    return [family_row(name, members) for name, members in families.items()]


def disagreements(one: Results, other: Results) -> list[tuple[Entry, Entry]]:
    """Instances that one calls sat and the other unsat: one of the two is wrong."""
    theirs = other.by_key()
    pairs = [(entry, theirs[entry.key]) for entry in one.entries if entry.key in theirs]
    return [(a, b) for a, b in pairs if {a.status, b.status} == {"sat", "unsat"}]


def family_row(name: str, entries: Sequence[Entry]) -> FamilyRow:
    """Summary of any set of results."""
    times = [entry.seconds for entry in entries if entry.solved]
    gaps = [e.gap for e in entries if not e.solved and e.gap is not None and math.isfinite(e.gap)]
    return FamilyRow(
        name,
        len(entries),
        {word: sum(e.status == word for e in entries) for word in STATUSES},
        len(times),
        sum(entry.seconds for entry in entries),
        statistics.median(times) if times else None,
        max(times, default=None),
        max(gaps, default=None),
    )


def _peers(rows: list[list[str]], path: Path) -> list[Results]:
    header, *body = rows
    found: dict[str, list[Entry]] = {}
    for number, row in enumerate(body, start=1):
        cells = dict(zip(header, row, strict=False))
        name = cells.get("peer") or path.stem
        timeout = _number(cells.get("timeout") or "inf", path, number)
        seconds = _number(cells["seconds"] or "inf", path, number)
        family = cells.get("benchmark") or cells.get("family") or ""
        status = _status(cells["verdict"])
        found.setdefault(name, []).append(
            Entry(number, family, cells["onnx"], cells["vnnlib"], timeout, status, seconds)
        )
    return [Results(name, tuple(entries), str(path)) for name, entries in found.items()]


def _competition_entry(number: int, row: list[str], path: Path) -> Entry:
    seconds = _number(row[5], path, number)
    return Entry(number, row[0], row[1], row[2], math.inf, _status(row[4]), seconds)


def _status(word: str) -> str:
    plain = word.strip().lower()
    known = _SAME.get(plain, plain)
    return known if known in STATUSES else "error"


def _number(text: str, path: Path, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a number of seconds", where=f"{path}, result {line}") from None


def versions_of(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Every version of every package that the records name; more than one where a run was resumed after an update."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        for name, version in entry.record.get("versions", {}).items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def values_of(entries: Sequence[Entry], key: str) -> list[Any]:
    """The different values that records have for a key, None left out."""
    return sorted({entry.record[key] for entry in entries if entry.record.get(key) is not None})
