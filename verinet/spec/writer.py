"""Properties to VNN-LIB text that reads back to the same float64 values."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

import numpy as np

from verinet.errors import PropertyError
from verinet.spec.property import Box, Property, Query2, Rows
from verinet.spec.reader import parse_formula
from verinet.spec.render import comparison, to_version_2

_EXACT = Context(prec=1200)  # more digits than the sum of two float64 can have


def to_vnnlib1(prop: Property) -> str:
    """The property as VNN-LIB 1.0.

    Numbers are written in full, so float64 values stay what they are. Where inner and outer sides of a box are
    neighbours, a decimal between them is written, which reads back to the same pair. Rows with a `weight_error` are
    written with their float64 weights. Raises PropertyError for a property that VNN-LIB 1.0 cannot hold in this form.
    """
    if prop.layout is not None:
        raise PropertyError(
            "this property relates inputs, hidden tensors or several networks, which its normal form cannot show",
            where=prop.name,
            hint="convert the file it was read from: verinet convert",
        )
    lines = [f"; {' '.join(prop.name.split())}"]
    lines += [f"(declare-const X_{i} Real)" for i in range(prop.inputs)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(prop.outputs)]
    if not prop.clauses:
        lines += ["; nothing can satisfy this", "(assert (<= X_0 0))", "(assert (>= X_0 1))"]
    elif len({clause.box for clause in prop.clauses}) == 1:
        lines += [f"(assert {atom})" for atom in _box_atoms(prop.boxes[prop.clauses[0].box])]
        if all(len(clause.rows) for clause in prop.clauses):
            lines.append(_assert_any([_row_atoms(clause.rows) for clause in prop.clauses]))
    else:
        boxes = [_box_atoms(box) for box in prop.boxes]
        lines.append(_assert_any([boxes[clause.box] + _row_atoms(clause.rows) for clause in prop.clauses]))
    return "\n".join(lines) + "\n"


def to_vnnlib2(prop: Property, query: Query2 | None = None) -> str:
    """The property as VNN-LIB 2.0, as `to_vnnlib1` writes it. `query` declares the tensors.

    Its default is what the property's file declared, or real vectors X and Y. Raises PropertyError.
    """
    return to_version_2(parse_formula(to_vnnlib1(prop), prop.name), query or prop.v2)


def _assert_any(disjuncts: list[list[str]]) -> str:
    if len(disjuncts) == 1:
        return "\n".join(f"(assert {atom})" for atom in disjuncts[0])
    return "(assert (or\n" + "\n".join(f"  (and {' '.join(atoms)})" for atoms in disjuncts) + "\n))"


def _box_atoms(box: Box) -> list[str]:
    atoms = []
    for i, (low, inner) in enumerate(zip(box.lower.tolist(), box.inner_lower.tolist(), strict=True)):
        atoms.append(f"(>= X_{i} {_between(low, inner)})")
    for i, (high, inner) in enumerate(zip(box.upper.tolist(), box.inner_upper.tolist(), strict=True)):
        atoms.append(f"(<= X_{i} {_between(high, inner)})")
    return atoms


def _between(outer: float, inner: float) -> str:
    if np.nextafter(outer, inner) != inner or outer == inner:
        return _number(Decimal(outer))
    return _number(_EXACT.divide(_EXACT.add(Decimal(outer), Decimal(inner)), Decimal(2)))


def _number(value: Decimal) -> str:
    return str(value).replace("E+", "e").replace("E", "e")


def _row_atoms(rows: Rows) -> list[str]:
    atoms = []
    for k, (bound, strict) in enumerate(zip(rows.bounds.tolist(), rows.strict.tolist(), strict=True)):
        part = slice(int(rows.starts[k]), int(rows.starts[k + 1]))
        pairs = zip(rows.columns[part].tolist(), rows.values[part].tolist(), strict=True)
        terms = [([f"Y_{j}"], Fraction(weight)) for j, weight in pairs]
        atoms.append(comparison("<" if strict else "<=", terms, Fraction(bound)))
    return atoms
