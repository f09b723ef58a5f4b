"""Formulas back to VNN-LIB text that means exactly the same, in version 1.0 or 2.0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from verinet.errors import PropertyError
from verinet.spec.formula import Conjunction, Formula, walk
from verinet.spec.property import Network2, Query2, Variable2
from verinet.spec.symbols import Symbols2
from verinet.spec.tables import ExactRow

_WHOLE = ("int", "uint")


def to_version_1(formula: Formula) -> str:
    """The formula as VNN-LIB 1.0. Raises PropertyError for several networks and hidden variables."""
    if formula.query is not None and not formula.query.is_plain:
        raise PropertyError(
            "VNN-LIB 1.0 speaks of the inputs and outputs of one network only",
            where=formula.name,
            hint="keep version 2.0 for several networks and hidden variables",
        )
    lines = [f"(declare-const X_{i} Real)" for i in range(formula.inputs)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(formula.values)]
    some = "Y_0" if formula.values else "X_0"
    false = "(and (<= X_0 0.0) (>= X_0 1.0))"  # as bounds, which every reader knows
    words = _Words(lambda code: f"{'XY'[code & 1]}_{code >> 1}", lambda code: False, false, f"(<= {some} {some})")
    return "\n".join([*lines, *_assertions(formula, words, equality=False)]) + "\n"


def beyond_version_1(formula: Formula) -> tuple[str, ...]:
    """What the formula says that tools for VNN-LIB 1.0 mostly cannot read."""
    rows, numbers = formula.table.exact, formula.numbers
    found = {
        "products": any(len(factors) > 1 for factors in formula.table.products.factors),
        "constraints on several inputs": any(len(factors) == 1 for factors in formula.table.products.factors),
        "strict comparisons": any(row.strict for row in rows)
        or any(numbers.written(int(n))[1] for node in walk(formula.root) for b in node.bounds() for n in b[:, 1]),
        "sums": any(sorted(map(abs, row.weights)) not in ([1], [1, 1]) or _both(row) for row in rows),
    }
    return tuple(word for word, present in found.items() if present)


def to_version_2(formula: Formula, query: Query2 | None = None) -> str:
    """The formula as VNN-LIB 2.0. `query` declares the tensors; its default is the file's own declarations, or real
    vectors X and Y. Raises PropertyError where `query` has other sizes than the formula.
    """
    own = query or formula.query or _vectors(formula)
    symbols = Symbols2()
    for network in own.networks:
        symbols.declare(network)
    if symbols.sizes() != (formula.inputs, formula.values):
        raise PropertyError(
            f"the property has {formula.inputs} inputs and {formula.values} outputs, the network "
            f"{symbols.sizes()[0]} and {symbols.sizes()[1]}",
            where=formula.name,
            hint="check that property and network belong together",
        )
    some = symbols.name_of(0)
    words = _Words(symbols.name_of, _whole(own), f"(< {some} {some})", f"(<= {some} {some})")
    lines = ["(vnnlib-version <2.0>)", *map(_declaration, own.networks)]
    return "\n".join([*lines, *_assertions(formula, words, equality=True)]) + "\n"


def _vectors(formula: Formula) -> Query2:
    inputs, outputs = (
        Variable2("X", "input", "real", (formula.inputs,)),
        Variable2("Y", "output", "real", (formula.values,)),
    )
    return Query2((Network2("N", (inputs, outputs)),))


def _whole(query: Query2) -> Callable[[int], bool]:
    """Which codes have an integer type, whose constants are written without a point."""
    spans: tuple[list[tuple[int, bool]], list[tuple[int, bool]]] = ([], [])
    ends = [0, 0]
    for variable in query.variables:
        side = 0 if variable.is_input else 1
        ends[side] += variable.size
        spans[side].append((ends[side], variable.dtype.startswith(_WHOLE)))
    if not any(whole for side in spans for _, whole in side):
        return lambda code: False
    return lambda code: next(whole for end, whole in spans[code & 1] if code >> 1 < end)


def _declaration(network: Network2) -> str:
    lines = [f"(declare-network {network.name}"]
    if network.relation:
        lines.append(f"    ({network.relation} {network.target})")
    for role in ("input", "hidden", "output"):
        for v in network.variables:
            if v.role == role:
                shape = f"[{', '.join(map(str, v.shape))}]"
                dtype = "real" if v.dtype == "Real" else v.dtype
                node = f" {_quoted(v.node)}" if role == "hidden" else ""
                lines.append(f"    (declare-{role} {v.name} {dtype} {shape}{node})")
    return "\n".join(lines) + "\n)"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


@dataclass(frozen=True, slots=True)
class _Words:
    """How a version writes variables, and what it writes for false and true."""

    name_of: Callable[[int], str]
    whole: Callable[[int], bool]
    false: str
    true: str


def _assertions(formula: Formula, words: _Words, *, equality: bool) -> Iterator[str]:
    writer = _Writer(formula, words, equality)
    made: dict[int, str] = {}
    for node in reversed(list(walk(formula.root))):
        if node is not formula.root:
            made[id(node)] = writer.whole(node, made)
    yield from (f"(assert {part})" for part in writer.parts(formula.root, made))


class _Writer:
    """Writes the conjunctions of one formula. Rows are written once."""

    def __init__(self, formula: Formula, words: _Words, equality: bool) -> None:
        self._formula, self._words, self._equality = formula, words, equality
        self._rows: dict[tuple[int, str], str] = {}

    def whole(self, node: Conjunction, made: Mapping[int, str]) -> str:
        parts = list(self.parts(node, made))
        if not parts:
            return self._words.true
        return parts[0] if len(parts) == 1 else f"(and {' '.join(parts)})"

    def parts(self, node: Conjunction, made: Mapping[int, str]) -> Iterator[str]:
        """What is ANDed. `made` holds the text of all conjunctions below."""
        if node.false:
            yield self._words.false
        for block in node.bounds():
            for code, number in block.tolist():
                yield self._bound(code, number)
        yield from self._joined(node.rows)
        for choice in node.choices:
            options = [made[id(part)] for part in choice]
            yield options[0] if len(options) == 1 else f"(or {' '.join(options)})"

    def _joined(self, rows: Sequence[int]) -> Iterator[str]:
        """Rows; a row and its opposite are one equality, so that ties between inputs stay visible."""
        exact = self._formula.table.exact
        left = dict.fromkeys(rows)
        place = {exact[row]: row for row in left} if self._equality else {}
        done: set[int] = set()
        for row in left:
            if row in done:
                continue
            opposite = place.get(_opposite(exact[row]))
            both = opposite is not None and opposite != row and not exact[row].strict
            if both and opposite is not None:
                done.add(opposite)
            yield self._row(row, "==" if both else "<" if exact[row].strict else "<=")

    def _row(self, number: int, operator: str) -> str:
        if (number, operator) not in self._rows:
            row = self._formula.table.exact[number]
            products = [self._formula.table.products.of(code) for code in row.codes]
            self._rows[number, operator] = self._comparison(operator, products, row.weights, row.bound)
        return self._rows[number, operator]

    def _bound(self, code: int, number: int) -> str:
        value, strict = self._formula.numbers.written(number)
        operator = ("<" if code & 1 else ">") + ("" if strict else "=")
        return self._comparison(operator, [(code & ~1,)], [Fraction(1)], value)

    def _comparison(
        self, operator: str, products: Sequence[tuple[int, ...]], weights: Sequence[Fraction], bound: Fraction
    ) -> str:
        names = [[self._words.name_of(code) for code in codes] for codes in products]
        return comparison(operator, list(zip(names, weights, strict=True)), bound, self._words.whole(products[0][0]))


Term = tuple[Sequence[str], Fraction]
"""Names that are multiplied, and their weight."""

_TURNED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "==": "=="}


def comparison(operator: str, terms: Sequence[Term], bound: Fraction, whole: bool = False) -> str:
    """`sum of terms operator bound` in the simplest form that says it exactly; `whole` numbers have no point.

    Weights are kept, up to a common factor that makes all numbers finite decimals.
    """
    if all(weight < 0 for _, weight in terms):
        operator, bound = _TURNED[operator], -bound
        terms = [(names, -weight) for names, weight in terms]
    if len(terms) == 2 and not bound and sorted(weight for _, weight in terms) == [-1, 1]:
        operator = operator if terms[0][1] > 0 else _TURNED[operator]
        return f"({operator} {_product(terms[0][0])} {_product(terms[1][0])})"
    factor = _factor([*(weight for _, weight in terms), bound], whole)
    weighted = [
        _product(names if weight * factor == 1 else [decimal(weight * factor, whole), *names])
        for names, weight in terms
    ]
    left = weighted[0] if len(weighted) == 1 else f"(+ {' '.join(weighted)})"
    return f"({operator} {left} {decimal(bound * factor, whole)})"


def _product(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"(* {' '.join(words)})"


def _opposite(row: ExactRow) -> ExactRow:
    return ExactRow(row.codes, tuple(-w for w in row.weights), -row.bound, row.strict)


def _both(row: ExactRow) -> bool:
    """Whether a row adds two entries instead of comparing them, or compares their difference with a number."""
    return len(row.weights) == 2 and (row.weights[0] == row.weights[1] or row.bound != 0)


def _factor(numbers: Sequence[Fraction], whole: bool) -> int:
    """The least positive factor that makes all numbers finite decimals, or whole numbers."""
    factor = 1
    for number in numbers:
        rest = number.denominator
        if not whole:
            for prime in (2, 5):
                while rest % prime == 0:
                    rest //= prime
        factor = math.lcm(factor, rest)
    return factor


def decimal(value: Fraction, whole: bool = False) -> str:
    """A finite decimal in full, without an exponent: the grammar of VNN-LIB 2.0 knows none."""
    if whole:
        return str(value.numerator)
    places, denominator = 0, value.denominator
    while denominator > 1:
        # Each further place removes a factor 10 at most; 2s and 5s are all there is.
        denominator //= math.gcd(denominator, 10)
        places += 1
    digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
    point = len(digits) - places
    return f"{'-' if value < 0 else ''}{digits[:point]}.{digits[point:] or '0'}"
