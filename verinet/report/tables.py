"""Tables for the terminal, and results as csv and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verinet.errors import UsageError
from verinet.report.data import SOLVED, STATUSES, Entry, FamilyRow, Results, family_row

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"unsat": "green", "sat": "magenta", "unknown": "yellow", "timed-out": "yellow", "error": "red"}
_FLAT = ("number", "family", "model", "property", "timeout", "status", "reason", "gap", "seconds", "load_seconds")
_FLAT_REST = ("search_seconds", "domains", "closed", "open", "device", "seed", "threads", "worker", "attempts")
_HASHES = ("model_sha256", "property_sha256", "started", "finished")


def family_table(rows: Sequence[FamilyRow], entries: Sequence[Entry]) -> Table:
    """A row per family and one for all; median (of the solved) and total in seconds, gap the worst of the open."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("family", no_wrap=True, min_width=8, overflow="ellipsis")
    for name in ("all", "solved", "unsat", "sat", "unkn.", "time", "error", "median", "total", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = [*rows, family_row("all", entries)] if len(rows) > 1 else rows
    for row in shown:
        counts = [Text(str(row.counts[word] or "·"), _STYLES[word] if row.counts[word] else "dim") for word in STATUSES]
        share = f"{100 * row.solved / row.total:.0f} %" if row.total else "·"
        times = [short(row.median), short(row.seconds), short(row.worst_gap)]
        style = "bold" if row.family == "all" else ""
        table.add_row(row.family, str(row.total), share, *counts, *times, style=style)
    return table


def comparison_table(mine: Results, theirs: Results) -> Table:
    """Both on the instances they have in common: solved, and where one was faster. Times are whole seconds."""
    from rich.table import Table

    other = theirs.by_key()
    pairs = [(entry, other[entry.key]) for entry in mine.entries if entry.key in other]
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.title = f"{mine.name} against {theirs.name}: {len(pairs)} instances in common"
    table.add_column("")
    for name in ("solved", "unsat", "sat", "only here", "faster", "seconds where both solved"):
        table.add_column(name, justify="right", no_wrap=True)
    both = [(a, b) for a, b in pairs if a.solved and b.solved]
    for name, side, against in ((mine.name, 0, 1), (theirs.name, 1, 0)):
        own = [pair[side] for pair in pairs]
        counts = (sum(e.solved for e in own), *(sum(e.solved and e.status == w for e in own) for w in SOLVED))
        only = sum(pair[side].solved and not pair[against].solved for pair in pairs)
        faster = sum(pair[side].seconds < pair[against].seconds for pair in both)
        table.add_row(name, *map(str, (*counts, only, faster)), short(sum(pair[side].seconds for pair in both)))
    return table


def short(value: float | None) -> str:
    """Three digits, without a trailing exponent for common sizes; a dot for nothing."""
    if value is None:
        return "·"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def competition_csv(results: Results) -> str:
    """Rows as the competition writes them, without a header.

    category, network, property, prepare time, result, run time. Nothing is prepared in a batch, so that time is 0.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for entry in results.entries:
        word = "timeout" if entry.status == "timed-out" else entry.status
        writer.writerow([entry.family, entry.model, entry.prop, "0.0", word, f"{entry.seconds:.4f}"])
    return text.getvalue()


def write_parquet(results: Results, path: Path) -> None:
    """One row per instance, with everything but witness and curve. Needs pyarrow (extra `report`)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow", hint="pip install 'verinet[report]'") from None
    rows = [_flat(entry) for entry in results.entries]
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    except OSError as error:
        raise UsageError(f"the file cannot be written: {error}", where=str(path)) from error


def _flat(entry: Entry) -> dict[str, Any]:
    record = entry.record
    row = {name: record.get(name) for name in (*_FLAT, *_FLAT_REST, *_HASHES)}
    row["gap"] = entry.gap
    if isinstance(row["model_sha256"], list):
        row["model_sha256"] = " ".join(map(str, row["model_sha256"]))
    row["strategy"] = " ".join(record.get("strategy", []))
    row["error"] = (record.get("error") or {}).get("message")
    row["verinet"], row["torch"] = (record.get("versions", {}).get(name) for name in ("verinet", "torch"))
    return row
