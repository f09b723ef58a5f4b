"""Exact check of a witness: the formula as written, in rational arithmetic, with no tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from verinet.errors import UsageError
from verinet.spec.formula import Conjunction, Formula, walk
from verinet.spec.layout import Spread, with_extras
from verinet.spec.property import Floats, Property, Rows
from verinet.spec.reader import parse_formula
from verinet.spec.source import load_text

Values = Sequence[float] | Floats


class ExactProperty:
    """The formula of a property file, before it is multiplied out. Reads once, checks many witnesses."""

    def __init__(self, formula: Formula) -> None:
        self._formula = formula
        self._down, self._up = formula.numbers.arrays()

    @classmethod
    def read(cls, path: str | Path) -> ExactProperty:
        """Raises as `read_property` does."""
        return cls(parse_formula(load_text(Path(path)), str(path)))

    @classmethod
    def parse(cls, text: str, name: str = "property") -> ExactProperty:
        """From text; `name` is what errors call it."""
        return cls(parse_formula(text, name))

    @property
    def notes(self) -> tuple[str, ...]:
        """What other tools may not accept in the file."""
        return self._formula.notes

    def holds(self, inputs: Values, outputs: Values) -> bool:
        """Whether flat inputs and outputs satisfy the formula exactly. Values that are not finite never do.

        In VNN-LIB 2.0, `inputs` are those of all networks and `outputs` the hidden and output entries of all networks,
        both in order of declaration. Raises UsageError when the numbers of values are not the declared ones.
        """
        x, y = np.asarray(inputs, dtype=np.float64).ravel(), np.asarray(outputs, dtype=np.float64).ravel()
        formula = self._formula
        if (len(x), len(y)) != (formula.inputs, formula.values):
            raise UsageError(
                f"{len(x)} inputs and {len(y)} outputs were given, but the property declares "
                f"{formula.inputs} and {formula.values}",
                where=formula.name,
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return False
        check = _Check(self, x, y)
        return check.own(formula.root) and check.whole(formula.root)

    def bounds_hold(self, node: Conjunction, x: Floats) -> bool:
        """Exact although in floats: no float64 lies strictly between a number and its neighbours."""
        for block in node.bounds():
            upper = (block[:, 0] & 1) == 1
            value = x[block[:, 0] >> 1]
            good = np.where(upper, value <= self._down[block[:, 1]], value >= self._up[block[:, 1]])
            if not good.all():
                return False
        return True

    def row_holds(self, row: int, values: ExactValues) -> bool:
        """One row in rationals."""
        table = self._formula.table
        return table.exact[row].holds(lambda code: values.product(table.products.of(code)))


class ExactValues:
    """Inputs and values of a point as rationals, made when they are asked for. See `terms` for codes."""

    def __init__(self, inputs: Floats, values: Floats) -> None:
        self._sides = (inputs, values)
        self._known: dict[int, Fraction] = {}

    def product(self, codes: Sequence[int]) -> Fraction:
        """The product of some variables."""
        return math.prod((self._one(code) for code in codes), start=Fraction(1))

    def _one(self, code: int) -> Fraction:
        if code not in self._known:
            self._known[code] = Fraction(float(self._sides[code & 1][code >> 1]))
        return self._known[code]


class _Check:
    """One evaluation. Rows are shared by many disjuncts, so each is decided once."""

    def __init__(self, owner: ExactProperty, x: Floats, y: Floats) -> None:
        self._owner, self._x, self._values = owner, x, ExactValues(x, y)
        self._rows: dict[int, bool] = {}

    def own(self, node: Conjunction) -> bool:
        """The node without its disjunctions."""
        if node.false or not all(self._row(row) for row in node.rows):
            return False
        return self._owner.bounds_hold(node, self._x)

    def whole(self, root: Conjunction) -> bool:
        values: dict[int, bool] = {}
        for node in reversed(list(walk(root))):
            choices = all(any(values[id(part)] for part in choice) for choice in node.choices)
            values[id(node)] = choices and self.own(node)
        return values[id(root)]

    def _row(self, row: int) -> bool:
        if row not in self._rows:
            self._rows[row] = self._owner.row_holds(row, self._values)
        return self._rows[row]


def holds_exactly(source: str | Path, inputs: Values, outputs: Values) -> bool:
    """Whether a witness satisfies a property file (`Path`), or VNN-LIB text or a file name (`str`), with no tolerance.

    A float counts as the number it is, a decimal of the file as what is written: 0.1 in the file is one tenth.
    Raises as `read_property` does.
    """
    is_text = isinstance(source, str) and "(" in source and "declare-" in source
    check = ExactProperty.parse(str(source)) if is_text else ExactProperty.read(source)
    return check.holds(inputs, outputs)


def margin(prop: Property, inputs: Values, outputs: Values) -> float:
    """How far outputs are inside the violation: the largest over clauses of min over rows of `bound - weights @ y`.

    Inputs and outputs are those that the file declares. Only clauses whose box holds the inputs count; -inf when there
    is none, 0 for a clause without rows. In float64, in the units of the rows: for reports, not for decisions.
    """
    x, y = np.asarray(inputs, dtype=np.float64).ravel(), np.asarray(outputs, dtype=np.float64).ravel()
    if prop.layout is not None:
        x = Spread(prop.layout).free_of(x)
        y = with_extras(prop.layout, x, y)
    inside = [bool(((box.lower <= x) & (x <= box.upper)).all()) for box in prop.boxes]
    return max((_slack(clause.rows, y) for clause in prop.clauses if inside[clause.box]), default=-math.inf)


def _slack(rows: Rows, y: Floats) -> float:
    if not len(rows):
        return 0.0
    products = np.add.reduceat(rows.values * y[rows.columns], rows.starts[:-1])
    return float((rows.bounds - products).min())
