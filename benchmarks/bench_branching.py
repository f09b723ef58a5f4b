"""What each part of branching is worth, in counts: `python benchmarks/bench_branching.py RESULTS.csv`.

Neuron splitting alone, on the instances of branching_networks.py, with one thing changed at a time; a way of branching
is the better the more instances it closes within `--most` domains, and the fewer domains it makes. Results are
appended to the file one by one; the same command goes on where an earlier one stopped, `--seconds` stops it in good
order, and `--table` only prints what the file holds. Counts depend on the processor's arithmetic a little, on its
speed not at all.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import branching_networks as networks
import numpy as np
import torch
from branching_networks import Problem
from torch import Tensor
from verinet.solvers.branching.candidates import View
from verinet.solvers.branching.gains import Reader
from verinet.solvers.branching.leaves import ClauseRows, Engines, Leaves
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.options import Branching, Inputs, Points, Score
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.points import Pointing
from verinet.solvers.query import Clock, Query, clause_table
from verinet.solvers.root import Root

from verinet.ops.scalar import Elementwise
from verinet.propagation.optimize import Optimized
from verinet.propagation.sweep import Layers
from verinet.spec.property import Box, Clause, Property, Rows

DEFAULT = "default"
INSIDE = "values inside"
BASE = Branching(points=Points.BEST)
WAYS = {
    DEFAULT: Branching(),
    "points by score": BASE,
    "no learning": replace(BASE, learning=False),
    INSIDE: BASE,
    "dual, untried": replace(BASE, candidates=1),
    "bbps": replace(BASE, score=Score.BBPS),
    "bbps, untried": replace(BASE, score=Score.BBPS, candidates=1),
    "intercept": replace(BASE, score=Score.INTERCEPT),
    "intercept, untried": replace(BASE, score=Score.INTERCEPT, candidates=1),
    "babsr": replace(BASE, score=Score.BABSR),
    "midpoints": replace(BASE, points=Points.MIDDLE),
    "quarters too": replace(BASE, points=Points.WIDE),
    "bbps, untried, midpoints": replace(BASE, score=Score.BBPS, candidates=1, points=Points.MIDDLE),
    "bbps, untried, table": replace(BASE, score=Score.BBPS, candidates=1, points=Points.TABLE),
    "one variable only": replace(BASE, inputs=Inputs.SCALAR),
    "relu only": replace(BASE, inputs=Inputs.HINGES),
    "three at once": replace(BASE, together=3),
    "tries remembered": replace(BASE, tries=True),
    "cuts": replace(BASE, cuts=True),
    "default, tries": Branching(tries=True),
    "default, cuts": Branching(cuts=True),
    "default, both": Branching(tries=True, cuts=True),
}
"""The default is "points by score" with the table of points; all others change one more thing of "points by score", or
of what they name."""
"""With INSIDE, scores see the relaxed forward point moved into the intervals, which imperfect multipliers leave."""
RESTRICTED = ("one variable only", "relu only")
COLUMNS = ("group", "instance", "way", "most", "solved", "domains", "width", "shift")
SECONDS = 3600.0  # of the clock that searches see; domains end them, not seconds


@dataclass(frozen=True)
class Result:
    """One search. `width` and `shift` are medians over splits of smooth functions of one variable, NaN without any."""

    group: str
    instance: str
    way: str
    most: int
    solved: bool
    domains: int
    width: float  # of the interval that is split
    shift: float  # distance of the point from the middle, as a share of the width

    def row(self) -> list[str]:
        numbers = (str(self.most), str(int(self.solved)), str(self.domains), f"{self.width:.3g}", f"{self.shift:.3g}")
        return [self.group, self.instance, self.way, *numbers]

    @classmethod
    def read(cls, row: dict[str, str]) -> Result:
        counts = (int(row["most"]), row["solved"] == "1", int(row["domains"]))
        return cls(row["group"], row["instance"], row["way"], *counts, float(row["width"]), float(row["shift"]))


class Watched(NeuronSplit):
    """Neuron splitting that notes the intervals it splits."""

    widths: list[float]
    shifts: list[float]

    def _branch(self, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor) -> None:
        before = len(self.stack)
        super()._branch(leaves, layers, best, keep)
        # Where some leaves had nothing to split, or more than one split was made, parents are not told apart here.
        if len(self.stack) == before + 1 and len(self.stack[-1]) == 2 * keep.numel():
            self._note(self.stack[-1], layers, keep)

    def _note(self, made: Leaves, layers: Layers, keep: Tensor) -> None:
        node, entry = made.literals.newest()[0]
        last = (made.literals.node >= 0).sum(1) - 1
        for place, domain in enumerate(keep.tolist()):
            number = int(node[place])
            ops = [n.op for n in self.query.graph.nodes if number in n.inputs]
            if not any(isinstance(op, Elementwise) and not op.function.piecewise_linear for op in ops):
                continue
            low, high = (float(t[domain].reshape(-1)[entry[place]]) for t in layers.known[number])
            point = float(made.literals.point[place, last[place]])
            self.widths.append(high - low)
            self.shifts.append(abs((point - low) / (high - low) - 0.5))


class Prepared:
    """An instance with its root bounds, which all ways share."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        least = networks.least_sampled(problem)
        query = _query(problem, least)
        root = Root(query, query.clock)
        self.trivial = not root.bound(_silent) or root.worst is None
        self.gap = 0.0 if root.worst is None else -root.worst
        self.query = _query(problem, least - (1.0 - problem.share) * self.gap)
        self.engines: Engines = root.engines()
        self.layers = root.layers

    def search(self, way: str, most: int) -> Result:
        """Split until the instance is closed or `most` domains are made."""
        search = Watched(self.query, self.engines, self.layers, [ClauseRows(0, 0, 1)], batch=32)
        search.branching, search.pointing = WAYS[way], Pointing(WAYS[way].points)
        search.widths, search.shifts = [], []
        search.gauge.due = lambda anchors: anchors[:0]  # type: ignore[method-assign]  # sharpening hides the splits
        clock = replace(self.query.clock, stop=lambda: search.made >= most)
        with values_inside() if way == INSIDE else nullcontext():
            solved = search.run(clock, lambda points: False, _silent).end is End.CLOSED
        width, shift = (median(v) if v else float("nan") for v in (search.widths, search.shifts))
        return Result(self.problem.group, self.problem.name, way, most, solved, search.made, width, shift)


@contextmanager
def values_inside() -> Iterator[None]:
    """Scores see relaxed values that are moved into the intervals."""
    usual = View.reader

    def reader(self: View, position: int) -> Reader | None:
        found = usual(self, position)
        if found is None:
            return None
        triples = zip(found.values, found.lowers, found.uppers, strict=True)
        return replace(found, values=[torch.minimum(torch.maximum(v, low), high) for v, low, high in triples])

    View.reader = reader  # type: ignore[method-assign]
    try:
        yield
    finally:
        View.reader = usual  # type: ignore[method-assign]


def _query(problem: Problem, threshold: float) -> Query:
    low, high = problem.lower.numpy(), problem.upper.numpy()
    columns = problem.weights.nonzero().squeeze(1).numpy()
    starts, values = np.array([0, len(columns)]), problem.weights.numpy()[columns]
    rows = Rows(starts, columns, values, np.array([threshold]), np.zeros(1, dtype=bool), 0.0)
    prop = Property((Box(low, high, low, high),), (Clause(0, rows),), len(low), problem.graph.output_size)
    clock = Clock(time.monotonic, time.monotonic() + SECONDS, None)
    table = clause_table(prop, torch.device("cpu"))
    return Query(problem.graph, problem.lower[None], problem.upper[None], table, prop, clock)


def _silent(phase: str, still_open: int, closed: int, bound: float | None) -> None:
    """No progress."""


def read(path: Path, most: int) -> list[Result]:
    """What the file holds for this limit."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [result for row in csv.DictReader(file) if (result := Result.read(row)).most == most]


def extend(path: Path, chosen: list[Problem], ways: list[str], most: int, seconds: float) -> bool:
    """Run what the file lacks; False when `seconds` were over first."""
    done = {(r.instance, r.way) for r in read(path, most)}
    end, fresh = time.monotonic() + seconds, not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        for problem in chosen:
            missing = [way for way in ways if (problem.name, way) not in done]
            prepared = Prepared(problem) if missing and time.monotonic() < end else None
            for way in missing:
                if prepared is None or time.monotonic() >= end:
                    return False
                writer.writerow(prepared.search(way, most).row())
                file.flush()
    return True


def summary(results: list[Result], most: int) -> list[str]:
    """One line per way. Domains in total count an unsolved instance as `most`."""
    by_way: dict[str, dict[str, Result]] = {}
    for result in results:
        by_way.setdefault(result.way, {})[result.instance] = result
    ways = [w for w in WAYS if w in by_way]
    shared = set.intersection(*(set(by_way[w]) for w in ways))
    general = [w for w in ways if w not in RESTRICTED]
    easy = {i for i in shared if all(by_way[w][i].solved for w in general)}
    usual = by_way.get(DEFAULT, {})
    lines = [f"{len(shared)} instances, at most {most} domains each; {len(easy)} solved by all general ways"]
    lines.append(f"{'way':26}{'solved':>8}{'domains':>9}{'of those':>10}{'default: both solve':>21}")
    for way in ways:
        mine = {i: by_way[way][i] for i in sorted(shared)}
        total = sum(r.domains if r.solved else most for r in mine.values())
        both = [i for i, r in mine.items() if r.solved and i in usual and usual[i].solved]
        ours, theirs = sum(mine[i].domains for i in both), sum(usual[i].domains for i in both)
        common = str(sum(mine[i].domains for i in easy)) if way in general else "-"
        solved = sum(r.solved for r in mine.values())
        lines.append(f"{way:26}{solved:8}{total:9}{common:>10}{f'{ours} : {theirs} of {len(both)}':>21}")
    return lines


def details(results: list[Result]) -> list[str]:
    """One line per instance: domains by every way."""
    ways = [w for w in WAYS if any(r.way == w for r in results)]
    cells = {(r.instance, r.way): f"{r.domains}{'' if r.solved else '+'}" for r in results}
    lines = [f"{'instance':20}" + "".join(f"{way[:12]:>13}" for way in ways)]
    for name in dict.fromkeys(r.instance for r in results):
        lines.append(f"{name:20}" + "".join(f"{cells.get((name, way), ''):>13}" for way in ways))
    return lines


def show(results: list[Result], most: int) -> None:
    for group in dict.fromkeys(r.group for r in results):
        part = [r for r in results if r.group == group]
        print(f"\n{group}: " + "\n".join(summary(part, most)))
        usual = [r for r in part if r.way == DEFAULT and r.width == r.width]
        if usual:
            width, shift = median(r.width for r in usual), median(r.shift for r in usual)
            print(f"smooth intervals split: width {width:.2g}, point {100 * shift:.0f} % off the middle (medians)")
    print("\nall: " + "\n".join(summary(results, most)) + "\n\n" + "\n".join(details(results)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="csv file that results are kept in")
    parser.add_argument("--quick", action="store_true", help="one random network of each kind")
    parser.add_argument("--most", type=int, default=100, help="domains per instance")
    parser.add_argument("--ways", default="", help="only these, separated by semicolons")
    parser.add_argument("--kinds", default="", help="only instances whose names contain one of these words")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing more after so long")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = options.kinds.split(";") if options.kinds else [""]
    chosen = [p for p in networks.problems(options.quick) if any(word in p.name for word in words)]
    ways = options.ways.split(";") if options.ways else list(WAYS)
    if not options.table and not extend(options.results, chosen, ways, options.most, options.seconds):
        print("stopped; the same command goes on")
        return
    names = {p.name for p in chosen}
    show([r for r in read(options.results, options.most) if r.instance in names and r.way in ways], options.most)


if __name__ == "__main__":
    main()
