"""The gate for `sat`: an input counts as a violation only if ONNX Runtime says so on the original file.

The candidate is moved into the box and onto the network's own number grid, the network is run with ONNX Runtime's graph
optimisations off and on, and the original formula is evaluated exactly, in rationals, with no tolerance. In a query
over several networks each one is run by itself; the composed graph that the search uses has no say here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verinet.results import FloatArray, Witness
from verinet.spec.layout import with_extras
from verinet.spec.property import Box, Floats, Property, Rows
from verinet.witness.grid import Grid, snap
from verinet.witness.runner import Runner

if TYPE_CHECKING:
    from verinet.frontends.compose import Composite
    from verinet.frontends.model import Model
    from verinet.spec.exact import ExactProperty

INPUT_TOLERANCE = 1e-4  # absolute, on inputs only: what the competition forgives; we only tell, and never call it sat
_COARSE = 4096.0  # steps per unit
_CLEARLY = 1e-6  # relative to the outputs: far beyond rounding in the margin


class Outcome(Enum):
    """What the replay of a candidate showed."""

    CONFIRMED = "ONNX Runtime confirms the violation with no tolerance"
    ONLY_WITHIN_TOLERANCE = "the violation holds only within rounding tolerance"
    REFUTED = "ONNX Runtime shows no violation at this input"


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Outcome, the point that was run (with the outputs of the optimised session), and what to know about it.

    `witness` has the inputs and values that the property's file declares; `point` holds the free inputs of the
    property, which are the same unless some inputs are tied to one another.
    """

    outcome: Outcome
    witness: Witness
    point: Floats
    detail: str = ""

    @property
    def confirmed(self) -> bool:
        return self.outcome is Outcome.CONFIRMED


@dataclass(frozen=True, slots=True)
class _Trial:
    """One candidate as it was run. `inside`: all of it lies in the box."""

    point: Floats
    declared: Floats
    runs: tuple[Floats, Floats]  # hidden and output entries, ONNX Runtime's optimisations off and on
    inside: bool


class Replayer:
    """Replays many candidates of one query: the ONNX Runtime sessions and the formula are opened once."""

    def __init__(self, model: Model | Composite, spec: str | Path | None, prop: Property) -> None:
        self._spec, self._prop = spec, prop
        self._composite = _composite(model, prop)
        self._runner = Runner(self._composite)
        self._formula: ExactProperty | None = None
        self._boxes: tuple[Floats, Floats] | None = None
        self._grids: tuple[Grid, Grid] | None = None

    def __call__(self, candidate: Floats, clause: int | None = None) -> ReplayResult:
        """Replay a flat float64 point of the property. `clause` is the disjunct it was found for; else the nearest box
        is used.
        """
        point = np.asarray(candidate, dtype=np.float64)
        box = self._prop.boxes[self._box_of(point, clause)]
        if not self._composite.spread.copies_only:
            # With few digits, a tied input such as x + 0.5 is a number of its type as well.
            coarse = self._try(np.rint(point * _COARSE) / _COARSE, box)
            if coarse.confirmed:
                return coarse
        return self._try(point, box)

    def _try(self, point: Floats, box: Box) -> ReplayResult:
        declared_grid, free_grid = self._grid()
        snapped = snap(point, box, free_grid)
        declared = snapped.point
        if not self._composite.spread.is_identity:
            declared = declared_grid.rounded(self._composite.spread.declared(snapped.point))
        return self._judge(_Trial(snapped.point, declared, self._runner.run(declared), snapped.inside))

    def _judge(self, trial: _Trial) -> ReplayResult:
        best = max(0.0, self._margin(trial, trial.runs[1]))
        witness = Witness(trial.declared, trial.runs[1], best)
        holds = [self._violates(trial, values) for values in trial.runs]
        if all(holds):
            return ReplayResult(Outcome.CONFIRMED, witness, trial.point)
        if any(holds):
            setting = "off" if holds[0] else "on"
            detail = f"it violates only with ONNX Runtime's graph optimisations {setting}"
            return ReplayResult(Outcome.ONLY_WITHIN_TOLERANCE, witness, trial.point, detail)
        if min(self._margin(trial, values, INPUT_TOLERANCE) for values in trial.runs) >= 0:
            why = (
                "it lies on the edge of what float64 decides"
                if trial.inside
                else "no number of the input type is in the box"
            )
            return ReplayResult(Outcome.ONLY_WITHIN_TOLERANCE, witness, trial.point, why)
        return ReplayResult(Outcome.REFUTED, witness, trial.point)

    def _margin(self, trial: _Trial, values: Floats, tolerance: float = 0.0) -> float:
        columns = with_extras(self._prop.layout, trial.point, values)
        return margin(self._prop, trial.point, columns, tolerance)

    def _violates(self, trial: _Trial, values: Floats) -> bool:
        if not (np.isfinite(trial.declared).all() and np.isfinite(values).all()):
            return False
        columns = with_extras(self._prop.layout, trial.point, values)
        size = 1.0 + float(np.abs(columns).max(initial=0.0))
        if np.isfinite(size) and margin(self._prop, trial.point, columns) < -_CLEARLY * size:
            return False  # reading a large formula for a hopeless candidate would cost the search its time
        if self._spec is None:
            tied = self._composite.spread
            if not tied.is_identity and not tied.holds(trial.point, trial.declared):
                return False
            return violates_exactly(self._prop, trial.point, values)
        if self._formula is None:
            self._formula = _read_formula(self._spec)
        return self._formula.holds(trial.declared, values)

    def _grid(self) -> tuple[Grid, Grid]:
        """Of the declared and of the free inputs."""
        if self._grids is None:
            declared, spread = Grid.checked(self._composite.dtypes), self._composite.spread
            self._grids = declared, declared if spread.is_identity else declared.shared(spread.sources, spread.free)
        return self._grids

    def _box_of(self, candidate: Floats, clause: int | None) -> int:
        return self.nearest_box(candidate) if clause is None else self._prop.clauses[clause].box

    def nearest_box(self, candidate: Floats) -> int:
        """Position of the property's box that is nearest to a point (inputs,), in the maximum norm."""
        if self._boxes is None:
            boxes = self._prop.boxes
            self._boxes = np.stack([b.lower for b in boxes]), np.stack([b.upper for b in boxes])
        lower, upper = self._boxes
        return int(np.maximum(lower - candidate, candidate - upper).max(axis=1, initial=0.0).argmin())


def _composite(model: Model | Composite, prop: Property) -> Composite:
    from verinet.frontends.compose import Composite, compose

    return model if isinstance(model, Composite) else compose(model, prop)


def replay(model: Model | Composite, spec: str | Path | None, prop: Property, candidate: Floats) -> ReplayResult:
    """Replay one candidate, a flat float64 point of the property.

    Args:
        model: the network with the bytes of its original file, or all networks of a query.
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


def violates_exactly(prop: Property, inputs: FloatArray, values: FloatArray) -> bool:
    """Whether some clause holds at a point of the property, computed in rationals."""
    in_box = [bool(((inputs >= b.inner_lower) & (inputs <= b.inner_upper)).all()) for b in prop.boxes]
    exact = _Columns(prop, np.asarray(inputs, dtype=np.float64), np.asarray(values, dtype=np.float64))
    return any(_holds(clause.rows, exact) for clause in prop.clauses if in_box[clause.box])


def outputs_violate(prop: Property, box: int, result: ReplayResult) -> bool:
    """Whether the outputs of a replay satisfy the rows of some clause of a box, in rationals, whatever the inputs."""
    outputs = np.asarray(result.witness.outputs, dtype=np.float64)
    exact = _Columns(prop, result.point, outputs)
    return bool(np.isfinite(outputs).all()) and any(
        _holds(clause.rows, exact) for clause in prop.clauses if clause.box == box
    )


class _Columns:
    """The columns of a property's rows at a point, as rationals: values, and products behind them."""

    def __init__(self, prop: Property, inputs: Floats, values: Floats) -> None:
        from verinet.spec.exact import ExactValues

        self._values, self._count = ExactValues(inputs, values), len(values)
        self._extras = prop.layout.extras if prop.layout is not None else ()

    def __getitem__(self, column: int) -> Fraction:
        codes = (2 * column + 1,) if column < self._count else self._extras[column - self._count]
        return self._values.product(codes)


def _holds(rows: Rows, columns: _Columns) -> bool:
    for i, bound in enumerate(rows.bounds.tolist()):
        entries = slice(int(rows.starts[i]), int(rows.starts[i + 1]))
        pairs = zip(rows.values[entries].tolist(), rows.columns[entries].tolist(), strict=True)
        total = sum((Fraction(value) * columns[column] for value, column in pairs), Fraction(0))
        if not (total < Fraction(bound) if rows.strict[i] else total <= Fraction(bound)):
            return False
    return True
