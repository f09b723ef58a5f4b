"""Fill vnnlib_specs/expected.csv: `sat` where a plain search finds a violation, else what the file already says.

    python models/find_witnesses.py

The search shares no code with the verifier: it climbs along corners of the box, running the network in ONNX Runtime.
An `unsat` is never written here; those rows are entered by hand (README.md says on what grounds).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import onnxruntime
from common import SPECS, TIMEOUT, Array

SWEEPS, STARTS = 3, 4
_ASSERT = re.compile(r"^\(assert (\([<>]= [XY]_\d+ \S+\))\)$", re.MULTILINE)
_CASE = re.compile(r"^    \(and (.*)\)$", re.MULTILINE)
_RELATION = re.compile(r"\((<=|>=) ([XY])_(\d+) (Y_\d+|[-\d.]+)\)")

Relation = tuple[str, str, str, str]


class Case:
    """A box of inputs, in float32, and comparisons of outputs that all have to hold."""

    def __init__(self, relations: list[Relation], size: int) -> None:
        self.claims = [(r, a, b) for r, side, a, b in relations if side == "Y"]
        self.lower, self.upper = np.full(size, -np.inf), np.full(size, np.inf)
        for relation, side, index, value in relations:
            if side == "X" and relation == ">=":
                self.lower[int(index)] = max(self.lower[int(index)], float(value))
            elif side == "X":
                self.upper[int(index)] = min(self.upper[int(index)], float(value))
        self.lower, self.upper = _inside(self.lower, np.inf), _inside(self.upper, -np.inf)


def _inside(exact: Array, towards: float) -> Array:
    single = exact.astype(np.float32)
    outside = single < exact if towards > 0 else single > exact
    return np.where(outside, np.nextafter(single, np.float32(towards)), single)


class Query:
    """Our own property files: comparisons that always hold, and either an `or` of cases or nothing else."""

    def __init__(self, model: Path, spec: Path) -> None:
        text = spec.read_text()
        common = [_RELATION.findall(line)[0] for line in _ASSERT.findall(text)]
        options = [_RELATION.findall(line) for line in _CASE.findall(text)] or [[]]
        size = 1 + max(int(index) for _, side, index, _ in common if side == "X")
        self.cases = [Case([*common, *option], size) for option in options]
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.entry = self.session.get_inputs()[0]

    def worth(self, x: Array, case: Case) -> float:
        """The least of one number per claim, at least 0 where it holds."""
        y = self.session.run(None, {self.entry.name: x.reshape(self.entry.shape)})[0].ravel().astype(np.float64)
        sides = [(r, y[int(a)], y[int(b[2:])] if b.startswith("Y") else float(b)) for r, a, b in case.claims]
        return float(min(a - b if r == ">=" else b - a for r, a, b in sides))


def search(query: Query, rng: np.random.Generator) -> bool:
    """Climb one coordinate at a time between lower, upper and middle of the box."""
    return any(_climb(query, case, rng) for case in query.cases for _ in range(STARTS))


def _climb(query: Query, case: Case, rng: np.random.Generator) -> bool:
    lower, upper = case.lower, case.upper
    x = rng.uniform(lower, upper).astype(np.float32).clip(lower, upper)
    best = query.worth(x, case)
    for _ in range(SWEEPS):
        for i in rng.permutation(len(x)):
            for value in (lower[i], upper[i], rng.uniform(lower[i], upper[i])):
                trial = x.copy()
                trial[i] = np.float32(value).clip(lower[i], upper[i])
                worth = query.worth(trial, case)
                if worth > best:
                    x, best = trial, worth
        if best >= 0:
            return True
    return False


def main() -> None:
    path = SPECS / "expected.csv"
    known = {row["vnnlib"]: row["verdict"] for row in csv.DictReader(path.open())} if path.exists() else {}
    rng = np.random.default_rng(3)
    rows = [["onnx", "vnnlib", "verdict", "timeout"]]
    for onnx, spec, _ in csv.reader((SPECS / "instances.csv").open()):
        found = search(Query((SPECS / onnx).resolve(), SPECS / spec), rng)
        verdict = "sat" if found else known.get(spec, "unknown")
        if found and known.get(spec) == "unsat":
            raise SystemExit(f"{spec} is listed as unsat, but has a counterexample")
        rows.append([onnx, spec, verdict, str(TIMEOUT)])
        print(f"{spec}: {verdict}")
    with path.open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
