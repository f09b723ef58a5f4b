"""The one-file HTML report: numbers in, text out. Template, style and script lie in `assets`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from verinet.report.data import (
    STATUSES,
    Entry,
    Results,
    base_name,
    disagreements,
    family_row,
    family_rows,
    shown_name,
    values_of,
    versions_of,
)
from verinet.report.pictures import Pictures, pictures_of
from verinet.report.plots import cactus, curve, gap_points, scatter

CURVES, WITNESSES = 24, 48  # shown at most; the tables hold all instances
_VALUES = 24  # entries of a witness that are printed


@dataclass(frozen=True, slots=True)
class Against:
    """The comparison with one other run or tool."""

    name: str
    common: int
    mine: int
    theirs: int
    only_mine: int
    only_theirs: int
    plot: Markup
    clashes: list[tuple[Entry, Entry]]


@dataclass(frozen=True, slots=True)
class Found:
    """A counterexample to be shown: pictures, or numbers where the input is no image."""

    entry: Entry
    pictures: Pictures | None
    inputs: str
    outputs: str
    margin: float | None


def page(mine: Results, others: Sequence[Results] = ()) -> str:
    """The whole report as one HTML text that needs no network connection.

    Args:
        mine: the run.
        others: other runs or tools; each is compared with it on the instances that both have.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, share=share, clock=clock, base=base_name, shown=shown_name)
    template = environment.from_string(_asset("page.html"))
    return template.render(
        style=Markup(_asset("style.css")), script=Markup(_asset("page.js")), statuses=STATUSES, **_context(mine, others)
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash for nothing."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.{digits}g}"


def share(part: float, whole: float) -> str:
    """Percent without decimals, but never 0 or 100 unless it is exactly that."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    rounded = min(99, max(1, round(percent))) if 0 < part < whole else round(percent)
    return f"{rounded}\u2009%"


def clock(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _context(mine: Results, others: Sequence[Results]) -> dict[str, Any]:
    entries = mine.entries
    still_open = [e for e in entries if not e.solved and e.status != "error"]
    against = [_against(mine, other) for other in others]
    return {
        "run": mine,
        "total": family_row("all", entries),
        "families": family_rows(entries),
        "still_open": sorted(still_open, key=lambda e: (e.gap is None, e.gap or 0.0)),
        "errors": [e for e in entries if e.status == "error"],
        "proved": sum(e.solved and e.status == "unsat" for e in entries),
        "late": sum(e.late for e in entries),
        "cactus": _cactus(mine, others) if any(e.solved for e in entries) else None,
        "legend": [mine.name, *(other.name for other in others)],
        "against": [one for one in against if one.common],
        "apart": [one.name for one in against if not one.common],
        "curve": curve,
        "curves": _curves(entries),
        "found": _found(entries),
        "found_in_all": sum(bool(e.record.get("witness")) for e in entries),
        "facts": _facts(mine),
        "files": _files(entries),
    }


def _cactus(mine: Results, others: Sequence[Results]) -> Markup:
    """With others, each is drawn on the instances it has in common with us; our line is over all of ours."""
    own = {entry.key for entry in mine.entries}
    lines = [(mine.name, mine.entries)]
    lines += [(other.name, tuple(e for e in other.entries if e.key in own)) for other in others]
    return cactus(lines)


def _against(mine: Results, theirs: Results) -> Against:
    other = theirs.by_key()
    pairs = [(entry, other[entry.key]) for entry in mine.entries if entry.key in other]
    return Against(
        theirs.name,
        len(pairs),
        sum(a.solved for a, _ in pairs),
        sum(b.solved for _, b in pairs),
        sum(a.solved and not b.solved for a, b in pairs),
        sum(b.solved and not a.solved for a, b in pairs),
        scatter(mine, theirs, pairs),
        disagreements(mine, theirs),
    )


def _curves(entries: Sequence[Entry]) -> list[tuple[Entry, Markup]]:
    """Open instances first, those nearest to a proof before the others; then the solved ones that took longest."""
    drawn = [entry for entry in entries if entry.status != "sat" and len(gap_points(entry)) >= 2]
    drawn.sort(key=lambda e: (e.solved, -e.seconds if e.solved else (math.inf if e.gap is None else e.gap)))
    shown = [(entry, curve(entry)) for entry in drawn[:CURVES]]
    return [(entry, picture) for entry, picture in shown if picture is not None]


def _found(entries: Sequence[Entry]) -> list[Found]:
    """Counterexamples, those with pictures first."""
    found = []
    for entry in entries:
        witness = entry.record.get("witness")
        if witness:
            margin = witness.get("margin")
            texts = _values(witness["inputs"]), _values(witness["outputs"])
            found.append(Found(entry, pictures_of(witness), *texts, None if margin is None else float(margin)))
    return sorted(found, key=lambda one: one.pictures is None)[:WITNESSES]


def _values(values: Sequence[Any]) -> str:
    shown = "  ".join(f"{float(value):.6g}" for value in values[:_VALUES])
    return shown if len(values) <= _VALUES else f"{shown}  … {len(values)} in all"


def _facts(mine: Results) -> list[tuple[str, str]]:
    """Where the numbers come from, as (what, value)."""
    entries = mine.entries
    versions = [f"{name} {', '.join(known)}" for name, known in versions_of(entries).items()]
    spans = values_of(entries, "started"), values_of(entries, "finished")
    facts = [("folder", mine.source), ("versions", "; ".join(versions))]
    facts += [(key, ", ".join(map(str, values_of(entries, key)))) for key in ("device", "seed", "threads")]
    facts.append(("workers", str(len(values_of(entries, "worker")))))
    if spans[0] and spans[1]:
        facts.append(("first started, last finished (UTC)", f"{spans[0][0]} – {spans[1][-1]}"))
    facts.append(("limits in seconds", _limits(entries)))
    memory = [float(value) for value in values_of(entries, "rss_mb")]
    if memory:
        facts.append(("largest worker", f"{max(memory):.0f} MB after an answer"))
    retried = sum(int(e.record.get("attempts", 1)) > 1 for e in entries)
    facts.append(("run twice because a worker died", str(retried)))
    return [*facts, *_settings(mine)]


def _settings(mine: Results) -> list[tuple[str, str]]:
    stored = sorted(Path(mine.source).glob("run*.json"))
    if not stored:
        return []
    try:
        settings = json.loads(stored[0].read_text())
        given = {key: value for key, value in settings.items() if value is not None}
        return [("settings", ", ".join(f"{key} {value}" for key, value in given.items()))]
    except (OSError, ValueError, AttributeError):
        return [("settings", f"{stored[0].name} cannot be read")]


def _limits(entries: Sequence[Entry]) -> str:
    limits = sorted({entry.timeout for entry in entries})
    few = ", ".join(f"{limit:g}" for limit in limits)
    return few if len(limits) <= 8 else f"{limits[0]:g} to {limits[-1]:g}"


def _files(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """(kind, file, SHA-256) of every network and property, each once."""
    found: dict[tuple[str, str, str], None] = {}
    for kind, key in (("network", "model"), ("property", "property")):
        for entry in entries:
            digest = entry.record.get(f"{key}_sha256")
            text = ", ".join(map(str, digest)) if isinstance(digest, list) else str(digest or "not read")
            found[kind, f"{entry.family}/{entry.record.get(key, '')}", text] = None
    return list(found)


def _asset(name: str) -> str:
    return files("verinet.report").joinpath("assets", name).read_text(encoding="utf-8")
