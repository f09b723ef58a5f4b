"""Properties made in Python: what should hold of the outputs, on boxes of inputs.

    y = outputs(10)
    prop = show(all_of(y[3] > y[k] for k in range(10) if k != 3)).on(linf_ball(image, 0.02, clip=(0, 1)))

A `Property` states the violation, as VNN-LIB does, so it holds the negation of what is to be shown. Numbers count as
what they are: a float as its exact value, a string or a `Decimal` as the decimal that is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from verinet.errors import PropertyError
from verinet.spec import formula
from verinet.spec.formula import Atoms, Conjunction
from verinet.spec.normal import InputNames, Region, normal_form
from verinet.spec.property import Box, Clause, Property
from verinet.spec.reader import DEFAULT_CAP
from verinet.spec.regions import linf_ball
from verinet.spec.tables import Numbers, RowTable
from verinet.spec.terms import Linear

Number = int | float | str | Decimal | Fraction


def outputs(count: int) -> tuple[Affine, ...]:
    """The entries Y_0 .. Y_{count-1} of a network's flat output, for claims about them."""
    return tuple(Affine({j: Fraction(1)}, outputs=count) for j in range(count))


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A weighted sum of output entries plus a constant. Comparing two of them makes a `Claim`."""

    weights: Mapping[int, Fraction]
    constant: Fraction = Fraction(0)
    outputs: int = 0

    def __add__(self, other: Affine | Number) -> Affine:
        right = self._other(other)
        weights = dict(self.weights)
        for j, weight in right.weights.items():
            weights[j] = weights.get(j, Fraction(0)) + weight
        kept = {j: weight for j, weight in weights.items() if weight}
        return Affine(kept, self.constant + right.constant, self.outputs)

    def __mul__(self, factor: Number) -> Affine:
        exact = _exact(factor)
        return Affine({j: w * exact for j, w in self.weights.items() if exact}, self.constant * exact, self.outputs)

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | Number) -> Affine:
        return self + -self._other(other)

    def __rsub__(self, other: Number) -> Affine:
        return -self + other

    __radd__, __rmul__ = __add__, __mul__

    def __le__(self, other: Affine | Number) -> Claim:
        return Claim("atom", left=self - other)

    def __lt__(self, other: Affine | Number) -> Claim:
        return Claim("atom", left=self - other, strict=True)

    def __ge__(self, other: Affine | Number) -> Claim:
        return Claim("atom", left=-(self - other))

    def __gt__(self, other: Affine | Number) -> Claim:
        return Claim("atom", left=-(self - other), strict=True)

    def _other(self, value: Affine | Number) -> Affine:
        if not isinstance(value, Affine):
            return Affine({}, _exact(value), self.outputs)
        if value.outputs != self.outputs:
            raise PropertyError(f"outputs of networks with {self.outputs} and {value.outputs} outputs are mixed")
        return value


@dataclass(frozen=True, slots=True)
class Claim:
    """Something about the outputs: an atom `left <= 0` (or `< 0`), or an AND or OR of claims."""

    kind: str  # "atom", "and", "or"
    parts: tuple[Claim, ...] = ()
    left: Affine = field(default_factory=lambda: Affine({}))
    strict: bool = False

    def __invert__(self) -> Claim:
        """What holds where the claim does not."""
        if self.kind == "atom":
            return Claim("atom", left=-self.left, strict=not self.strict)
        return Claim("or" if self.kind == "and" else "and", tuple(~part for part in self.parts))

    def __and__(self, other: Claim) -> Claim:
        return Claim("and", (self, other))

    def __or__(self, other: Claim) -> Claim:
        return Claim("or", (self, other))

    def __bool__(self) -> NoReturn:
        raise TypeError("combine claims with all_of(...), any_of(...), & and |; Python's own words lose some of them")


def all_of(*claims: Claim | Iterable[Claim]) -> Claim:
    """All of them hold. Takes claims, or one iterable of claims."""
    return Claim("and", _listed(claims))


def any_of(*claims: Claim | Iterable[Claim]) -> Claim:
    """At least one of them holds. Takes claims, or one iterable of claims."""
    return Claim("or", _listed(claims))


@dataclass(frozen=True, slots=True)
class Shown:
    """A claim that is to hold wherever it is put."""

    claim: Claim

    def on(self, *boxes: Box, name: str = "property") -> Property:
        """The property that some input of the boxes violates the claim. Raises PropertyError."""
        return _property(~self.claim, boxes, name)


def show(claim: Claim) -> Shown:
    """State what is to be proved; `.on(box)` says where."""
    return Shown(claim)


def robustness(
    center: npt.ArrayLike,
    eps: float,
    label: int,
    classes: int,
    clip: tuple[float, float] | None = None,
) -> Property:
    """The property that some input within `eps` of `center` (maximum norm) is not clearly of class `label`.

    `center` has any shape, `eps` and `clip` (least and largest input) are in its units. Violated is
    `Y_k >= Y_label` for some other class k, as in the competition's files. Raises PropertyError.
    """
    if not (0 <= label < classes and classes > 1):
        raise PropertyError(f"there is no class {label} among {classes}", hint="classes count from 0")
    y = outputs(classes)
    stays = all_of(y[label] > y[k] for k in range(classes) if k != label)
    return show(stays).on(linf_ball(center, eps, clip), name=f"class {label} within {eps:g}")


def _property(violation: Claim, boxes: tuple[Box, ...], name: str) -> Property:
    sizes = {len(box.lower) for box in boxes}
    counts = {atom.left.outputs for atom in _atoms(violation)}
    if len(sizes) != 1 or len(counts) != 1:
        what = f"boxes with {sorted(sizes)} inputs" if len(sizes) != 1 else f"networks with {sorted(counts)} outputs"
        raise PropertyError(f"a property needs boxes and outputs of one network, not {what}", where=name)
    count, table = counts.pop(), RowTable()
    try:
        root = _conjunction(violation, Atoms(Numbers(), table))
    except OverflowError as problem:
        raise PropertyError("a number lies outside the range of float64", where=name) from problem
    form = normal_form(root, (Numbers(), table), Region(InputNames((), str), count, name, DEFAULT_CAP))
    clauses = tuple(Clause(k, clause.rows) for k in range(len(boxes)) for clause in form.clauses)
    return Property(boxes, clauses, sizes.pop(), count, name, form.notes)


def _atoms(claim: Claim) -> list[Claim]:
    found, stack = list[Claim](), [claim]
    while stack:
        one = stack.pop()
        stack += one.parts
        if one.kind == "atom":
            found.append(one)
    return found


def _conjunction(claim: Claim, atoms: Atoms) -> Conjunction:
    if claim.kind == "atom":
        weights = {2 * j + 1: weight for j, weight in claim.left.weights.items()}
        return atoms.at_most_zero(Linear(claim.left.constant, weights), claim.strict)
    parts = [_conjunction(part, atoms) for part in claim.parts]
    if not parts:
        return Conjunction(false=claim.kind == "or")
    return formula.all_of(parts) if claim.kind == "and" else formula.any_of(parts)


def _listed(claims: tuple[Any, ...]) -> tuple[Claim, ...]:
    if len(claims) == 1 and not isinstance(claims[0], Claim):
        claims = tuple(claims[0])
    wrong = next((claim for claim in claims if not isinstance(claim, Claim)), None)
    if wrong is not None:
        raise PropertyError(f"a claim compares outputs, as in y[0] <= 1.0; this is {type(wrong).__name__}")
    return tuple(claims)


def _exact(value: Number) -> Fraction:
    if isinstance(value, np.generic):
        value = value.item()
    try:
        return Fraction(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise PropertyError(f"{value!r} is no finite number") from problem
