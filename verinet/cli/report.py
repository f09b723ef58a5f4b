"""`verinet report`: what a batch run found, on the terminal and in files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verinet.cli.session import emit, say
from verinet.errors import UsageError

if TYPE_CHECKING:
    from verinet.report.data import Results


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report goes, besides the terminal. `csv` may be `-` for stdout."""

    html: Path | None = None
    csv: str | None = None
    parquet: Path | None = None


def run_report(run: Path, other: Path | None, files: ReportFiles) -> None:
    """Read the run and write what was asked for; a table on stdout unless the csv goes there."""
    from verinet.report.data import load_others, load_run
    from verinet.report.tables import competition_csv, write_parquet

    results = load_run(run)
    others = load_others(other) if other is not None else []
    if files.csv == "-":
        sys.stdout.write(competition_csv(results))
    else:
        _print_tables(results, others)
    if files.csv not in (None, "-"):
        _write(Path(str(files.csv)), competition_csv(results))
    if files.parquet is not None:
        write_parquet(results, files.parquet)
        say(f"written: {files.parquet}")
    if files.html is not None:
        from verinet.report.page import page

        _write(files.html, page(results, others))


def _print_tables(results: Results, others: list[Results]) -> None:
    from verinet.cli.batch import wide_console
    from verinet.report.data import disagreements, family_rows
    from verinet.report.tables import comparison_table, family_table

    console = wide_console()
    if not results.entries:
        emit("the run has no results yet")
        return
    console.print(family_table(family_rows(results.entries), results.entries))
    for theirs in others:
        console.print()
        console.print(comparison_table(results, theirs))
        for mine, other in disagreements(results, theirs):
            say(f"disagreement: {mine.model} {mine.prop}: {mine.status} here, {other.status} for {theirs.name}")


def _write(path: Path, text: str) -> None:
    from verinet.batch.store import write_whole

    try:
        write_whole(path, text)
    except OSError as error:
        raise UsageError(f"the file cannot be written: {error.strerror or error}", where=str(path)) from error
    say(f"written: {path}")
