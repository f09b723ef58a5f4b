"""Property files to `Property`: VNN-LIB 1.0, and VNN-LIB 2.0 with one network and linear constraints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verinet.errors import PropertyError
from verinet.spec.formula import Atoms, Conjunction
from verinet.spec.normal import normal_form
from verinet.spec.property import Property, Query2
from verinet.spec.scan import Scanner
from verinet.spec.source import Source, load_text, without_comments
from verinet.spec.symbols import Symbols2, UnknownVariableError
from verinet.spec.syntax import Parser
from verinet.spec.tables import Numbers, RowTable

DEFAULT_CAP = 100_000
STRICT_INPUTS = "strict bounds on inputs are proved on the closed box; witnesses satisfy them strictly"


@dataclass(frozen=True, slots=True)
class Formula:
    """A file as read: the formula itself, before it is multiplied out, with exact numbers."""

    name: str
    root: Conjunction
    numbers: Numbers
    table: RowTable
    inputs: int
    outputs: int
    query: Query2 | None
    notes: tuple[str, ...]


def read_property(
    path: str | Path, inputs: int | None = None, outputs: int | None = None, cap: int = DEFAULT_CAP
) -> Property:
    """Read a VNN-LIB file, version 1.0 or 2.0; `.gz` is unpacked.

    `inputs` and `outputs` are the flat sizes of the network, compared with the declared ones where given. `cap` limits
    the clauses that disjunctions may multiply to.

    Raises UsageError (no such file), VnnlibSyntaxError (malformed text, with line and column) and PropertyError (no
    fit with the network, an unbounded input, or a constraint that is not supported yet).
    """
    return parse_property(load_text(Path(path)), str(path), inputs, outputs, cap)


def parse_property(
    text: str,
    name: str = "property",
    inputs: int | None = None,
    outputs: int | None = None,
    cap: int = DEFAULT_CAP,
) -> Property:
    """As `read_property`, from text. `name` is what errors call it."""
    formula = parse_formula(text, name)
    _check_size(formula, "inputs", formula.inputs, inputs)
    _check_size(formula, "outputs", formula.outputs, outputs)
    form = normal_form(formula.root, (formula.numbers, formula.table), formula.inputs, (name, cap))
    return Property(
        boxes=form.boxes,
        clauses=form.clauses,
        inputs=formula.inputs,
        outputs=formula.outputs,
        name=name,
        notes=formula.notes + form.notes,
        v2=formula.query,
    )


def parse_formula(text: str, name: str) -> Formula:
    """Read text up to its formula. Raises VnnlibSyntaxError, PropertyError."""
    source = Source(without_comments(text), name)
    atoms = Atoms(Numbers(), RowTable())
    parser = Parser(source, atoms)
    Scanner(parser).read()
    try:
        inputs, outputs = parser.symbols.sizes()
    except UnknownVariableError as problem:
        raise PropertyError(problem.fact, where=name, hint=problem.hint) from problem
    if not inputs:
        raise PropertyError("the file declares no inputs", where=name, hint="is it a VNN-LIB file?")
    notes = (*parser.notes, STRICT_INPUTS) if atoms.strict_inputs else tuple(parser.notes)
    query = parser.symbols.query if isinstance(parser.symbols, Symbols2) else None
    return Formula(name, parser.root, atoms.numbers, atoms.table, inputs, outputs, query, notes)


def _check_size(formula: Formula, what: str, declared: int, wanted: int | None) -> None:
    if wanted is not None and wanted != declared:
        raise PropertyError(
            f"the property declares {declared} {what}, but the network has {wanted}",
            where=formula.name,
            hint="check that property and network belong together",
        )
