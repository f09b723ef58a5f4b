"""`verinet bounds` and `verinet inspect`: what is known about a network before any search."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from verinet.cli.files import NetworkFiles
from verinet.cli.finish import named
from verinet.cli.session import emit, emit_json, say
from verinet.errors import UsageError

if TYPE_CHECKING:
    from verinet.frontends.onnx import OperatorRecord


def run_bounds(files: tuple[NetworkFiles, Path], layer: str | None, device: str, as_json: bool) -> None:
    """Print certified bounds of one layer, one entry a line: index, lower, upper."""
    from verinet import api

    model, spec = files
    found = api.bounds(named(model), str(spec), layer=layer, device=device)
    if as_json:
        emit_json(found.to_dict())
        return
    say(f"layer {found.layer}, {found.lower.size} entries, method {found.method}, {found.seconds:.2f} s")
    for position, (low, high) in enumerate(zip(found.lower.ravel(), found.upper.ravel(), strict=True)):
        emit(f"{position} {float(low)!r} {float(high)!r}")


def run_inspect(path: Path, as_json: bool) -> int:
    """Print the operators of a network; returns 3 if one of them is not supported."""
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    from verinet.frontends.onnx import inspect_onnx

    records = inspect_onnx(path)
    if as_json:
        emit_json({"model": str(path), "operators": [asdict(record) for record in records]})
    else:
        _print_table(records)
    missing = sorted({record.op for record in records if record.status == "unsupported"})
    if missing:
        say(f"not supported: {', '.join(missing)}")
    return 3 if missing else 0


def _print_table(records: tuple[OperatorRecord, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("node", "operator", "status", "detail")
    styles = {"bounded": "green", "folded": "dim", "unsupported": "bold red"}
    for record in records:
        name, detail = Text(record.name), Text(record.detail)
        table.add_row(name, record.op, Text(record.status, styles.get(record.status, "")), detail)
    Console().print(table)
    counts = {status: sum(record.status == status for record in records) for status in styles}
    emit(", ".join(f"{count} {status}" for status, count in counts.items()))
