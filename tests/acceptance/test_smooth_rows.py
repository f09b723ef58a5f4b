"""The independent proofs behind the `unsat` rows of smooth networks: they cover the rows, and they can fail."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(180)
RANGES_DECIDE = ("_score", "_angle")  # names of properties that follow from the ranges of the layers


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """`models/check_smooth.py`, which is part of no package."""
    pytest.importorskip("scipy")
    sys.path.insert(0, str(root / "models"))
    try:
        import check_smooth
    finally:
        sys.path.remove(str(root / "models"))
    return check_smooth


def test_every_row_that_needs_a_proof_has_one(script, root):
    smooth = ("digits_gelu", "digits_sigmoid", "digits_tanh", "pendulum_step_speed", "pendulum_step_angle")
    rows = list(csv.DictReader((root / "vnnlib_specs" / "expected.csv").open()))
    named = {Path(row["vnnlib"]).stem for row in rows if row["verdict"] == "unsat"}
    wanted = {n for n in named if n.startswith(smooth) and not n.endswith(RANGES_DECIDE)}
    assert wanted == {spec for _, spec in script.ROWS} | {script.PENDULUM[1]}


@pytest.mark.parametrize("spec", ["digits_sigmoid_radius_0.02", "digits_gelu_radius_0.05"])
def test_linear_programs_prove_the_rows(script, spec):
    assert script.margin_of_digits(spec.rpartition("_radius")[0], spec) > 100 * script.CLEAR


def test_a_grid_proves_the_pendulum(script):
    assert script.margin_of_pendulum(*script.PENDULUM) > 100 * script.CLEAR


def test_what_is_false_is_not_proved(script, monkeypatch):
    assert script.margin_of_pendulum("pendulum_step", "pendulum_step_speed_0.5") < 0
    monkeypatch.setattr(script, "DEEPEST", 0)
    assert script.margin_of_digits("digits_sigmoid", "digits_sigmoid_radius_0.2") < 0


@pytest.mark.parametrize("kind", ["Tanh", "Sigmoid", "Gelu"])
@pytest.mark.parametrize("ends", [(-0.3, 0.2), (-4.0, 3.0), (1.0, 1.5), (-6.0, -2.0)])
def test_lines_enclose_the_function(script, kind, ends):
    function = script.FUNCTIONS[kind]
    x = np.linspace(*ends, 20_011)
    value = function.value(x)
    below, above = script.lines(function, *ends)
    assert len(below) == len(above) >= 2
    for sign, side in ((1, below), (-1, above)):
        gaps = [sign * (value - (slope * x + offset)) for slope, offset in side]
        assert all(gap.min() >= 0 for gap in gaps), "a line crosses the function"
        assert all(gap.min() < 1e-4 for gap in gaps), "a line does not touch it"
