"""The plots of a report as inline SVG. Colours come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from markupsafe import Markup

from verinet.report.axes import Axis, label, logarithmic, straight
from verinet.report.data import Entry, Results

WIDTH, HEIGHT = 960, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 16, 44  # pixels around the plot
_SHORTEST = 1e-3  # seconds: times below are drawn there
SERIES = 6  # colours that the style sheet has for lines


def cactus(series: Sequence[tuple[str, Sequence[Entry]]]) -> Markup:
    """Solved instances, sorted by time: how many are done when each may take so long. Lower and longer is better.

    One line per (name, entries), one dot per solved instance. Seconds, on a logarithmic axis.
    """
    lines = [(name, sorted((e for e in entries if e.solved), key=lambda e: e.seconds)) for name, entries in series]
    times = [max(e.seconds, _SHORTEST) for _, solved in lines for e in solved]
    across = straight([float(len(solved)) for _, solved in lines], _LEFT, WIDTH - _RIGHT)
    up = logarithmic(times, HEIGHT - _BOTTOM, _TOP, floor=_SHORTEST)
    parts = [_frame(across, up, ("solved instances", "seconds"))]
    for position, (name, solved) in enumerate(lines):
        dots = [(across.at(rank), up.at(max(e.seconds, _SHORTEST)), e) for rank, e in enumerate(solved, start=1)]
        path = " ".join(f"{x},{y}" for x, y, _ in dots)
        parts.append(f'<g class="series s{position % SERIES}" data-name="{escape(name)}" data-points="{len(dots)}">')
        parts.append(f'<polyline points="{path}"/>')
        parts += [_dot(x, y, e, f"{name}: {rank}", 2.2) for rank, (x, y, e) in enumerate(dots, start=1)]
        parts.append("</g>")
    return _svg("cactus", parts, "Solved instances by time")


def scatter(mine: Results, theirs: Results, pairs: Sequence[tuple[Entry, Entry]]) -> Markup:
    """One dot per instance that both ran: their seconds across, ours up. Below the diagonal we were faster.

    Unsolved instances stand on the outer edges; a disagreement is drawn as a larger dot.
    """
    times = [max(e.seconds, _SHORTEST) for pair in pairs for e in pair if e.solved]
    side = HEIGHT  # square
    box = logarithmic(times, _LEFT, side - 34, floor=_SHORTEST)
    across, up = box, Axis(box.low, box.high, side - _BOTTOM, 34, log=True)
    edge_x, edge_y = side - 16, 18.0
    parts = [_frame(across, up, (f"{theirs.name}: seconds", f"{mine.name}: seconds"), (side, side))]
    parts.append(f'<line class="diagonal" x1="{across.start}" y1="{up.start}" x2="{across.stop}" y2="{up.stop}"/>')
    parts.append(f'<line class="edge" x1="{edge_x}" y1="{up.start}" x2="{edge_x}" y2="{edge_y}"/>')
    parts.append(f'<line class="edge" x1="{across.start}" y1="{edge_y}" x2="{edge_x}" y2="{edge_y}"/>')
    turn = f"rotate(-90 {edge_x + 11} {up.start})"
    parts.append(f'<text x="{edge_x + 11}" y="{up.start}" transform="{turn}">not solved there</text>')
    parts.append(f'<text x="{across.start}" y="{edge_y - 6}">not solved here</text>')
    parts.append(f'<g class="pairs" data-points="{len(pairs)}">')
    for one, other in pairs:
        x = across.at(max(other.seconds, _SHORTEST)) if other.solved else edge_x
        y = up.at(max(one.seconds, _SHORTEST)) if one.solved else edge_y
        parts.append(_pair_dot(x, y, one, other))
    parts.append("</g>")
    return _svg("scatter", parts, f"Seconds of {mine.name} against {theirs.name}", (side, side))


def curve(entry: Entry, width: int = 220, height: int = 84) -> Markup | None:
    """Gap over time of one instance, down to 0 when it is closed; None where fewer than two bounds are known."""
    points = gap_points(entry)
    if len(points) < 2:
        return None
    gaps = [gap for _, gap in points]
    positive = [gap for gap in gaps if gap > 0] or [1.0]
    wide = max(positive) / min(positive) > 100
    pad = 3.0
    across = Axis(0.0, max(entry.seconds, points[-1][0], 1e-9), pad, width - pad)
    up = logarithmic(positive, height - pad, pad) if wide else straight(gaps, height - pad, pad)
    places = [(across.at(seconds), up.at(gap)) for seconds, gap in points]
    line = f"M{places[0][0]},{places[0][1]}" + "".join(f"H{x}V{y}" for x, y in places[1:])
    area = f"{line}V{height}H{places[0][0]}Z"
    shape = f'<path class="area" d="{area}"/><path class="line" d="{line}" data-points="{len(points)}"/>'
    end = f'<circle class="end" cx="{places[-1][0]}" cy="{places[-1][1]}" r="2.6"/>'
    title = f"gap from {gaps[0]:.3g} to {gaps[-1]:.3g} in {points[-1][0]:.3g} s{', logarithmic' if wide else ''}"
    head = f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" aria-label="{title}" data-tip="{title}">'
    return Markup(f"{head}{shape}{end}</svg>")


def gap_points(entry: Entry) -> list[tuple[float, float]]:
    """(seconds, gap) where a finite gap is known."""
    curve_of = entry.record.get("curve", [])
    points = [(float(seconds), float(gap)) for seconds, gap, *_ in curve_of if gap is not None]
    return [(seconds, gap) for seconds, gap in points if math.isfinite(gap)]


def _frame(across: Axis, up: Axis, titles: tuple[str, str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    width, height = size
    left, bottom = across.start, up.start
    parts = ['<g class="axes">']
    for value in across.ticks():
        x = across.at(value)
        parts.append(f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{up.stop}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{label(value)}</text>')
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{across.stop}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{label(value)}</text>')
    middle_x, middle_y = (left + across.stop) / 2, (bottom + up.stop) / 2
    parts.append(f'<text class="title" x="{middle_x}" y="{height - 6}" text-anchor="middle">{escape(titles[0])}</text>')
    turn = f"rotate(-90 12 {middle_y})"
    parts.append(f'<text class="title" x="12" y="{middle_y}" text-anchor="middle" transform="{turn}">')
    parts.append(f"{escape(titles[1])}</text></g>")
    return "".join(parts)


def _dot(x: float, y: float, entry: Entry, lead: str, radius: float) -> str:
    tip = escape(f"{lead}\n{entry.key[0]}\n{entry.key[1]}\n{entry.status}, {entry.seconds:.3g} s", quote=True)
    number = f' data-row="{entry.number}"' if entry.record else ""
    return f'<circle cx="{x}" cy="{y}" r="{radius}" data-tip="{tip}"{number}/>'


def _pair_dot(x: float, y: float, one: Entry, other: Entry) -> str:
    wrong = {one.status, other.status} == {"sat", "unsat"}
    kind = "clash" if wrong else one.status if one.solved else other.status if other.solved else "neither"
    words = [f"{one.key[0]}", one.key[1], f"here {one.status}, {one.seconds:.3g} s"]
    tip = escape("\n".join([*words, f"there {other.status}, {other.seconds:.3g} s"]), quote=True)
    radius = 5.5 if wrong else 3.4
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}" data-tip="{tip}" data-row="{one.number}"/>'


def _svg(kind: str, parts: Iterable[str], title: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    head = f'<svg class="plot {kind}" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")
