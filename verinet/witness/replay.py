"""The gate for `sat`: an input counts as a violation only if ONNX Runtime says so on the original file.

The candidate is moved into the box and onto the network's own number grid, the network is run with ONNX Runtime's graph
optimisations off and on, and the original formula is evaluated exactly, in rationals, with no tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verinet.results import FloatArray, Witness
from verinet.spec.property import Floats, Property, Rows
from verinet.witness.grid import Grid, snap

if TYPE_CHECKING:
    from verinet.frontends.model import Model
    from verinet.spec.exact import ExactProperty

INPUT_TOLERANCE = 1e-4  # absolute, on inputs only: what the competition forgives; we only tell, and never call it sat
_CLEARLY = 1e-6  # relative to the outputs: far beyond rounding in the margin


class Outcome(Enum):
    """What the replay of a candidate showed."""

    CONFIRMED = "ONNX Runtime confirms the violation with no tolerance"
    ONLY_WITHIN_TOLERANCE = "the violation holds only within rounding tolerance"
    REFUTED = "ONNX Runtime shows no violation at this input"


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Outcome, the point that was run (with the outputs of the optimised session), and what to know about it."""

    outcome: Outcome
    witness: Witness
    detail: str = ""

    @property
    def confirmed(self) -> bool:
        return self.outcome is Outcome.CONFIRMED


class Replayer:
    """Replays many candidates of one query: the two ONNX Runtime sessions and the formula are opened once."""

    def __init__(self, model: Model, spec: str | Path | None, prop: Property) -> None:
        self._model, self._spec, self._prop = model, spec, prop
        self._sessions: tuple[Any, Any] | None = None
        self._formula: ExactProperty | None = None
        self._boxes: tuple[Floats, Floats] | None = None

    def __call__(self, candidate: Floats, clause: int | None = None) -> ReplayResult:
        """Replay a flat float64 input. `clause` is the disjunct it was found for; else the nearest box is used."""
        box = self._prop.boxes[self._box_of(candidate, clause)]
        snapped = snap(np.asarray(candidate, dtype=np.float64), box, self._grid())
        plain, optimised = self._run(snapped.point)
        witness = Witness(snapped.point, optimised, max(0.0, margin(self._prop, snapped.point, optimised)))
        return self._judge(witness, plain, snapped.inside)

    def _judge(self, witness: Witness, plain: FloatArray, inside: bool) -> ReplayResult:
        holds = [self._violates(witness.inputs, outputs) for outputs in (plain, witness.outputs)]
        if all(holds):
            return ReplayResult(Outcome.CONFIRMED, witness)
        if any(holds):
            setting = "off" if holds[0] else "on"
            detail = f"it violates only with ONNX Runtime's graph optimisations {setting}"
            return ReplayResult(Outcome.ONLY_WITHIN_TOLERANCE, witness, detail)
        if margin(self._prop, witness.inputs, witness.outputs, INPUT_TOLERANCE) >= 0:
            why = (
                "it lies on the edge of what float64 decides" if inside else "no number of the input type is in the box"
            )
            return ReplayResult(Outcome.ONLY_WITHIN_TOLERANCE, witness, why)
        return ReplayResult(Outcome.REFUTED, witness)

    def _violates(self, inputs: FloatArray, outputs: FloatArray) -> bool:
        if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
            return False
        if margin(self._prop, inputs, outputs) < -_CLEARLY * (1.0 + float(np.abs(outputs).max(initial=0.0))):
            return False  # reading a large formula for a hopeless candidate would cost the search its time
        if self._spec is None:
            return violates_exactly(self._prop, inputs, outputs)
        if self._formula is None:
            self._formula = _read_formula(self._spec)
        return self._formula.holds(inputs.astype(np.float64), outputs.astype(np.float64))

    def _run(self, point: Floats) -> tuple[Floats, Floats]:
        from verinet.frontends.crosscheck import open_session, run_session

        if self._sessions is None:
            self._sessions = open_session(self._model), open_session(self._model, optimise=True)
        plain, optimised = self._sessions
        return run_session(plain, self._model, point), run_session(optimised, self._model, point)

    def _grid(self) -> Grid:
        return Grid.of(self._model.input_shapes, self._model.input_dtypes)

    def _box_of(self, candidate: Floats, clause: int | None) -> int:
        return self.nearest_box(candidate) if clause is None else self._prop.clauses[clause].box

    def nearest_box(self, candidate: Floats) -> int:
        """Position of the property's box that is nearest to a point (inputs,), in the maximum norm."""
        if self._boxes is None:
            boxes = self._prop.boxes
            self._boxes = np.stack([b.lower for b in boxes]), np.stack([b.upper for b in boxes])
        lower, upper = self._boxes
        return int(np.maximum(lower - candidate, candidate - upper).max(axis=1, initial=0.0).argmin())


def replay(model: Model, spec: str | Path | None, prop: Property, candidate: Floats) -> ReplayResult:
    """Replay one candidate, a flat float64 input in the order X_0, X_1, ...

    Args:
        model: the network with the bytes of its original file.
        spec: path or text of the original property, whose formula decides; None where there is only `prop`.
        prop: the same property in normal form, for the boxes and the margin.
        candidate: shape (inputs,).
    """
    return Replayer(model, spec, prop)(candidate)


def margin(prop: Property, inputs: FloatArray, outputs: FloatArray, tolerance: float = 0.0) -> float:
    """How far inside the violation a point is: the best clause's worst row, in units of the row (float64).

    Minus infinity where the inputs are in no box (widened by `tolerance`).
    """
    touched = [bool(((inputs >= b.lower - tolerance) & (inputs <= b.upper + tolerance)).all()) for b in prop.boxes]
    scores = [slack(clause.rows, outputs) for clause in prop.clauses if touched[clause.box]]
    return max(scores, default=-np.inf)


def slack(rows: Rows, outputs: FloatArray) -> float:
    """min over rows of `bounds - weights @ outputs`; infinite for an empty conjunction."""
    if len(rows) == 0:
        return float("inf")
    terms = np.append(rows.values * outputs[rows.columns], 0.0)
    sums = np.add.reduceat(terms, np.minimum(rows.starts[:-1], len(terms) - 1))
    sums = np.where(np.diff(rows.starts) > 0, sums, 0.0)
    return float((rows.bounds - sums).min())


def _read_formula(spec: str | Path) -> ExactProperty:
    from verinet.spec.exact import ExactProperty

    is_text = isinstance(spec, str) and "(" in spec and "declare-" in spec
    return ExactProperty.parse(str(spec)) if is_text else ExactProperty.read(spec)


def violates_exactly(prop: Property, inputs: FloatArray, outputs: FloatArray) -> bool:
    """Whether some clause holds at the point, computed in rationals."""
    in_box = [bool(((inputs >= b.inner_lower) & (inputs <= b.inner_upper)).all()) for b in prop.boxes]
    return any(_holds(clause.rows, outputs) for clause in prop.clauses if in_box[clause.box])


def _holds(rows: Rows, outputs: FloatArray) -> bool:
    for i, bound in enumerate(rows.bounds):
        entries = slice(int(rows.starts[i]), int(rows.starts[i + 1]))
        pairs = zip(rows.values[entries], rows.columns[entries], strict=True)
        total = sum((Fraction(float(value)) * Fraction(float(outputs[column])) for value, column in pairs), Fraction(0))
        if not (total < Fraction(float(bound)) if rows.strict[i] else total <= Fraction(float(bound))):
            return False
    return True
