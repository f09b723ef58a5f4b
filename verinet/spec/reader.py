"""Property files to `Property`: VNN-LIB 1.0 and 2.0."""

from __future__ import annotations

from pathlib import Path

from verinet.errors import PropertyError
from verinet.spec.formula import Atoms, Conjunction, Formula
from verinet.spec.normal import InputNames, Region, normal_form, used_extras
from verinet.spec.property import Layout, Property, Query2, Tie
from verinet.spec.scan import Scanner
from verinet.spec.source import Source, load_text, without_comments
from verinet.spec.symbols import Symbols2, UnknownVariableError
from verinet.spec.syntax import Parser
from verinet.spec.tables import Numbers, RowTable
from verinet.spec.terms import NotSupportedError
from verinet.spec.ties import Substitution, resolve

DEFAULT_CAP = 100_000
STRICT_INPUTS = "strict bounds on inputs are proved on the closed box; witnesses satisfy them strictly"


def read_property(
    path: str | Path, inputs: int | None = None, outputs: int | None = None, cap: int = DEFAULT_CAP
) -> Property:
    """Read a VNN-LIB file, version 1.0 or 2.0; `.gz` is unpacked.

    `inputs` and `outputs` are the flat sizes of the network, compared with the declared ones where given and where the
    file speaks of one network without hidden variables. `cap` limits the clauses that disjunctions may multiply to.

    Raises UsageError (no such file), VnnlibSyntaxError (malformed text, with line and column) and PropertyError (no
    fit with the network, an unbounded input, or a constraint too large to multiply out).
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
    if formula.query is None or formula.query.is_plain:  # else the sizes belong to several networks
        _check_size(formula, "inputs", formula.inputs, inputs)
        _check_size(formula, "outputs", formula.values, outputs)
    return property_of(formula, cap)


def read_cut_property(path: str | Path, cut: float) -> Property:
    """As `read_property`, with inputs that lack a bound cut to at most `cut` beyond zero or their other bound.

    A witness of the cut property is one of the file's; a proof is not.
    """
    return property_of(parse_formula(load_text(Path(path)), str(path)), cut=cut)


def property_of(formula: Formula, cap: int = DEFAULT_CAP, cut: float | None = None) -> Property:
    """The normal form of a formula. `cut` is explained at `read_cut_property`. Raises PropertyError."""
    ties = resolve(formula.root.ties, formula.inputs)
    try:
        root, table = _over_free_inputs(formula, ties)
    except NotSupportedError as problem:
        raise PropertyError(str(problem), where=formula.name, hint="simplify the constraint, or split it") from problem
    except OverflowError as problem:
        raise PropertyError(
            "a constraint lies outside the range of float64", where=formula.name, hint="scale the constraint"
        ) from problem
    region = Region(_names(formula, ties), formula.values, formula.name, cap, cut)
    form = normal_form(root, (formula.numbers, table), region)
    clauses, extras = used_extras(form.clauses, formula.values, table.products.factors)
    plain = formula.query is None or formula.query.is_plain
    layout = None if plain and not ties and not extras else Layout(formula.inputs, formula.values, ties, extras)
    return Property(
        boxes=form.boxes,
        clauses=clauses,
        inputs=len(region.names),
        outputs=formula.values + len(extras),
        name=formula.name,
        notes=formula.notes + form.notes,
        v2=formula.query,
        layout=layout,
    )


def parse_formula(text: str, name: str) -> Formula:
    """Read text up to its formula. Raises VnnlibSyntaxError, PropertyError."""
    source = Source(without_comments(text), name)
    atoms = Atoms(Numbers(), RowTable())
    parser = Parser(source, atoms)
    Scanner(parser).read()
    symbols = parser.symbols
    try:
        inputs, values = symbols.sizes()
    except UnknownVariableError as problem:
        raise PropertyError(problem.fact, where=name, hint=problem.hint) from problem
    if not inputs:
        raise PropertyError("the file declares no inputs", where=name, hint="is it a VNN-LIB file?")
    notes = (*parser.lint.notes, STRICT_INPUTS) if atoms.strict_inputs else tuple(parser.lint.notes)
    query = Query2(tuple(symbols.networks.values()), parser.version or "2.0") if isinstance(symbols, Symbols2) else None
    return Formula(name, parser.root, atoms.numbers, atoms.table, inputs, values, query, notes, symbols.name_of)


def _over_free_inputs(formula: Formula, ties: tuple[Tie, ...]) -> tuple[Conjunction, RowTable]:
    if not ties:
        return formula.root, formula.table
    substitution = Substitution(ties, formula.numbers, formula.table)
    return substitution.apply(formula.root), substitution.table


def _names(formula: Formula, ties: tuple[Tie, ...]) -> InputNames:
    if not ties:
        return InputNames(range(formula.inputs), formula.name_of)
    first: dict[int, int] = {}
    for i, tie in enumerate(ties):
        first.setdefault(tie.source, i)
    return InputNames([first[k] for k in range(len(first))], formula.name_of)


def _check_size(formula: Formula, what: str, declared: int, wanted: int | None) -> None:
    if wanted is not None and wanted != declared:
        raise PropertyError(
            f"the property declares {declared} {what}, but the network has {wanted}",
            where=formula.name,
            hint="check that property and network belong together",
        )
