"""The folder of a run: an append-only log that is the truth, the settings, and the lock.

Every result is one line of JSON, flushed to the disk before the next one counts. After `kill -9` at most the last line
is incomplete; it is cut off when the run is resumed, and its instance is run again.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from verinet.batch.instances import Shard
from verinet.errors import UsageError

Record = dict[str, Any]
FORMAT = 1  # of the records; a reader refuses what it does not know


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of a run, or of one shard of it. Shards share a folder but no file."""

    folder: Path
    log: Path
    settings: Path
    lock: Path
    index: Path
    stderr: Path  # folder of the workers' error output

    @classmethod
    def of(cls, folder: str | Path, shard: Shard | None = None) -> Paths:
        top = Path(folder)
        tail = f"-{shard.index:04d}-of-{shard.count:04d}" if shard else ""
        return cls(
            top,
            top / f"results{tail}.jsonl",
            top / f"run{tail}.json",
            top / f".lock{tail}",
            top / f"index{tail}.sqlite",
            top / f".workers{tail}",
        )


class Store:
    """The open log of a run. Use as a context manager; only one process can have a run open."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.records: dict[int, Record] = {}
        self.repaired = 0  # bytes of an incomplete last line that were cut off
        self._log: IO[bytes] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Store:
        self.paths.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.paths)
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            self._lock.close()  # the kernel gives the lock back, also after kill -9

    def begin(self, fixed: Record, *, fresh: bool = False) -> None:
        """Open the log: new, or behind the results of an earlier run with the same settings.

        Raises:
            UsageError: the folder holds a run with other settings, or a log that cannot be understood.
        """
        if fresh:
            self._set_aside()
        if self.paths.settings.exists():
            _compare(_load_settings(self.paths.settings), fixed, self.paths.settings)
        elif self.paths.log.exists():
            raise UsageError(
                "the folder holds results but no settings", where=str(self.paths.folder), hint="--fresh starts again"
            )
        else:
            write_whole(self.paths.settings, json.dumps(fixed, indent=1) + "\n")
        self._resume()
        self._log = self.paths.log.open("ab")
        _sync_folder(self.paths.folder)

    def append(self, record: Record) -> None:
        """Store one result for good. Raises UsageError when the instance has one already, or the disk refuses."""
        if self._log is None or record["number"] in self.records:
            raise UsageError(f"instance {record['number']} cannot be stored twice", where=str(self.paths.log))
        line = json.dumps(finite(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._log.write(line)
            self._log.flush()
            os.fsync(self._log.fileno())
        except OSError as error:
            raise UsageError(f"the log cannot be written: {error.strerror}", where=str(self.paths.log)) from error
        self.records[record["number"]] = record

    def _resume(self) -> None:
        if not self.paths.log.exists():
            return
        good = 0
        for end, record in _read_lines(self.paths.log):
            self.records.setdefault(record["number"], record)
            good = end
        size = self.paths.log.stat().st_size
        if good < size:
            with self.paths.log.open("r+b") as log:
                log.truncate(good)
                os.fsync(log.fileno())
            self.repaired = size - good

    def _set_aside(self) -> None:
        paths = (self.paths.log, self.paths.settings, self.paths.index)
        old = [path for path in paths if path.exists()]
        if not old:
            return
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        places = (self.paths.folder / f"old-{stamp}{'' if n == 0 else f'-{n}'}" for n in range(1000))
        place = next(place for place in places if not place.exists())
        place.mkdir()
        for path in old:
            path.rename(place / path.name)


def read_log(path: Path) -> list[Record]:
    """The records of a log, first result of each instance; an incomplete last line is passed over.

    Raises:
        UsageError: no such log, or a line inside it that is no record.
    """
    if not path.is_file():
        raise UsageError("there is no such log", where=str(path))
    records: dict[int, Record] = {}
    for _, record in _read_lines(path):
        records.setdefault(record["number"], record)
    return list(records.values())


def logs_of(folder: str | Path) -> list[Path]:
    """The logs of a run: one, or one per shard. Raises UsageError when the folder holds none."""
    top = Path(folder)
    logs = sorted(top.glob("results*.jsonl"))
    if not logs:
        raise UsageError("the folder holds no run", where=str(top), hint="a run is made by `verinet batch ... --out`")
    return logs


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        with part.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The same value with infinities and NaN as strings, because JSON has none."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _read_lines(path: Path) -> Iterator[tuple[int, Record]]:
    """(end of the line in bytes, record) for every complete line; stops before an incomplete last one."""
    position = 0
    with path.open("rb") as lines:
        for line, text in enumerate(lines, start=1):
            record = _record(text)
            if record is not None and (record.get("format") != FORMAT or "number" not in record):
                raise UsageError(
                    f"the log is of format {record.get('format')}, this version reads {FORMAT}",
                    where=f"{path}, line {line}",
                )
            if record is None:
                if lines.read(1):
                    raise UsageError(
                        "a line of the log is no record",
                        where=f"{path}, line {line}",
                        hint="delete that line to run its instance again, or start again with --fresh",
                    )
                return
            position += len(text)
            yield position, record


def _record(text: bytes) -> Record | None:
    if not text.endswith(b"\n"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _locked(paths: Paths) -> IO[str]:
    lock = paths.lock.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise UsageError(
            f"{holder} is already running in this folder", where=str(paths.folder), hint="choose another --out"
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def _load_settings(path: Path) -> Record:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        raise UsageError("the settings of the run cannot be read", where=str(path), hint="start again with --fresh")
    return stored


def _compare(stored: Record, wanted: Record, path: Path) -> None:
    changed = [name for name in wanted if stored.get(name) != wanted[name]]
    if not changed:
        return
    lines = [f"{name} was {_show(stored.get(name))}, now {_show(wanted[name])}" for name in changed]
    raise UsageError(
        f"the folder holds a run with other settings: {'; '.join(lines)}",
        where=str(path),
        hint="use the same settings to resume it, another --out, or --fresh to set the old results aside",
    )


def _show(value: Any) -> str:
    return (
        "not set" if value is None else f"{value[:8]}..." if isinstance(value, str) and len(value) > 20 else str(value)
    )


def _sync_folder(folder: Path) -> None:
    # Without this a power cut could forget that the new files exist.
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
