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
_BOUND = re.compile(r"\(assert \((<=|>=) X_(\d+) (\S+)\)\)")
_CLAIM = re.compile(r"\((<=|>=) Y_(\d+) (Y_\d+|[-\d.]+)\)")


class Query:
    """Our own property files: a box, and either an `or` of comparisons or a conjunction of them."""

    def __init__(self, model: Path, spec: Path) -> None:
        text = spec.read_text()
        self.any_of = "(or" in text
        self.claims = _CLAIM.findall(text)
        bounds: dict[str, dict[int, float]] = {">=": {}, "<=": {}}
        for relation, index, value in _BOUND.findall(text):
            bounds[relation][int(index)] = float(value)
        self.lower, self.upper = (self._inside(bounds[r], r) for r in (">=", "<="))
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.entry = self.session.get_inputs()[0]

    @staticmethod
    def _inside(values: dict[int, float], relation: str) -> Array:
        exact = np.array([values[i] for i in range(len(values))])
        single = exact.astype(np.float32)
        outside = single < exact if relation == ">=" else single > exact
        return np.where(outside, np.nextafter(single, np.float32(np.inf if relation == ">=" else -np.inf)), single)

    def scores(self, x: Array) -> Array:
        """One number per claim, at least 0 where it holds."""
        y = self.session.run(None, {self.entry.name: x.reshape(self.entry.shape)})[0].ravel().astype(np.float64)
        sides = [(y[int(a)], y[int(b[2:])] if b.startswith("Y") else float(b)) for _, a, b in self.claims]
        return np.array([a - b if r == ">=" else b - a for (r, _, _), (a, b) in zip(self.claims, sides, strict=True)])

    def holds(self, x: Array) -> bool:
        values = self.scores(x)
        return bool((values >= 0).any() if self.any_of else (values >= 0).all())


def search(query: Query, rng: np.random.Generator) -> bool:
    """Climb one coordinate at a time between lower, upper and middle of the box."""
    goals = range(len(query.claims)) if query.any_of else [-1]
    for goal in goals:
        for _ in range(STARTS):
            if _climb(query, goal, rng):
                return True
    return False


def _climb(query: Query, goal: int, rng: np.random.Generator) -> bool:
    x = rng.uniform(query.lower, query.upper).astype(np.float32).clip(query.lower, query.upper)
    best = _worth(query, x, goal)
    for _ in range(SWEEPS):
        for i in rng.permutation(len(x)):
            for value in (query.lower[i], query.upper[i], rng.uniform(query.lower[i], query.upper[i])):
                trial = x.copy()
                trial[i] = np.float32(value).clip(query.lower[i], query.upper[i])
                worth = _worth(query, trial, goal)
                if worth > best:
                    x, best = trial, worth
        if query.holds(x):
            return True
    return False


def _worth(query: Query, x: Array, goal: int) -> float:
    scores = query.scores(x)
    return float(scores.min() if goal < 0 else scores[goal])


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
