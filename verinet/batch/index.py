"""A SQLite index beside the log, for questions about many results. It can be thrown away and built again."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from verinet.batch.store import Paths, Record, read_log

# Column of the table, and its type. All but `error` are keys of a record.
_COLUMNS = {
    "number": "INTEGER PRIMARY KEY",
    "family": "TEXT",
    "model": "TEXT",
    "property": "TEXT",
    "timeout": "REAL",
    "status": "TEXT",
    "reason": "TEXT",
    "gap": "REAL",
    "seconds": "REAL",
    "load_seconds": "REAL",
    "search_seconds": "REAL",
    "domains": "INTEGER",
    "worker": "INTEGER",
    "attempts": "INTEGER",
    "rss_mb": "REAL",
    "device": "TEXT",
    "error": "TEXT",
    "started": "TEXT",
    "finished": "TEXT",
}


def build_index(paths: Paths) -> Path:
    """Write `index.sqlite` anew from the log; nobody sees a part of it. Returns its path."""
    part = paths.index.with_name(f".{paths.index.name}.part-{os.getpid()}")
    part.unlink(missing_ok=True)
    records = read_log(paths.log) if paths.log.exists() else []
    try:
        connection = sqlite3.connect(part)
        with connection:
            columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
            connection.execute(f"CREATE TABLE results ({columns})")
            connection.execute("CREATE INDEX by_status ON results (status, family)")
            connection.execute("CREATE TABLE source (bytes INTEGER)")
            connection.execute("INSERT INTO source VALUES (?)", (_size(paths.log),))
            marks = ", ".join("?" * len(_COLUMNS))
            connection.executemany(f"INSERT INTO results VALUES ({marks})", [_row(record) for record in records])
        connection.close()
        part.replace(paths.index)
    finally:
        part.unlink(missing_ok=True)
    return paths.index


def open_index(paths: Paths) -> sqlite3.Connection:
    """A read-only connection to the index of a run, built again first if the log has grown since.

    The table `results` has one row per instance.
    """
    if not _is_fresh(paths):
        build_index(paths)
    connection = sqlite3.connect(f"file:{paths.index.absolute()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _is_fresh(paths: Paths) -> bool:
    if not paths.index.exists():
        return False
    try:
        connection = sqlite3.connect(f"file:{paths.index.absolute()}?mode=ro", uri=True)
        try:
            (size,) = connection.execute("SELECT bytes FROM source").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, TypeError):
        return False
    return bool(size == _size(paths.log))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _row(record: Record) -> list[Any]:
    values = [record.get(name) for name in _COLUMNS]
    error = record.get("error")
    if error is not None:
        values[list(_COLUMNS).index("error")] = json.dumps(error)
    return values
