"""The general reader of VNN-LIB: one command at a time, any nesting, errors with line and column.

Assertions are reduced while they are read (a stack of open parentheses, no recursion), so nesting depth is not limited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from verinet.spec.decimals import exact
from verinet.spec.declare import declare_network, version
from verinet.spec.formula import Atoms, Conjunction, all_of, any_of
from verinet.spec.lint import Lint, kind_of
from verinet.spec.source import Cursor, Source
from verinet.spec.symbols import Symbols1, Symbols2, UnknownVariableError
from verinet.spec.terms import Linear, NotSupportedError, product_of, sum_of

_CONNECTIVES = frozenset({"and", "or"})
_COMPARISONS = frozenset({"<=", ">=", "<", ">", "=", "==", "!="})
_ARITHMETIC = frozenset({"+", "-", "*"})
_COMMANDS = "assert, declare-const, declare-fun, vnnlib-version or declare-network"
_SMALLER_HINT = "simplify the constraint, or split it"


@dataclass(slots=True)
class _Frame:
    """One open parenthesis: its operator, where it starts, and what it holds so far."""

    operator: str
    start: int
    terms: list[Linear] = field(default_factory=list)
    formulas: list[Conjunction] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)  # of the constants and variables in it, see `lint`


class Parser:
    """Reads commands into `root`, the conjunction of all assertions."""

    def __init__(self, source: Source, atoms: Atoms) -> None:
        self.source, self.atoms = source, atoms
        self.root = Conjunction()
        self.symbols: Symbols1 | Symbols2 = Symbols1()
        self.version = ""
        self.asserted = False
        self.lint = Lint()

    def command(self, position: int) -> int:
        """Read the command at `position` and return the position behind it."""
        cursor = Cursor(self.source, position)
        if cursor.next() != "(":
            hint = "one closing parenthesis too many?" if cursor.token == ")" else ""
            raise cursor.wrong("a command such as '(assert ...)'", hint)
        name = cursor.next()
        if name == "assert":
            self.root.absorb(self.formula(cursor))
            self.asserted = True
        elif name in ("declare-const", "declare-fun"):
            self._declare(cursor, function=name == "declare-fun")
        elif name == "vnnlib-version":
            self.version = version(cursor, self.lint)
        elif name == "declare-network":
            self._declare_network(cursor)
        else:
            raise cursor.wrong(f"a command ({_COMMANDS})")
        cursor.expect(")")
        return cursor.position

    def _declare(self, cursor: Cursor, *, function: bool) -> None:
        if isinstance(self.symbols, Symbols2) or self.version:
            raise cursor.wrong("declare-network or assert, since the file is VNN-LIB 2.0")
        parts = self.symbols.parse(cursor.next())
        if parts is None:
            raise cursor.wrong("a variable X_i or Y_j")
        if not self.symbols.declare(*parts):
            raise self.source.syntax_error(cursor.start, f"{cursor.token} is declared twice")
        if function:
            cursor.expect("(")
            cursor.expect(")")
        if cursor.next() != "Real":
            raise cursor.wrong("the type 'Real'")

    def _declare_network(self, cursor: Cursor) -> None:
        if isinstance(self.symbols, Symbols1):
            if self.symbols.declared:
                raise self.source.syntax_error(
                    cursor.start, "a file declares either X_i and Y_j, or networks, not both"
                )
            self.symbols = Symbols2()
            if not self.version:
                self.lint.note("a file begins with (vnnlib-version <2.0>)", cursor)
        if self.asserted:
            self.lint.note("networks are declared before the first assertion", cursor)
        self.symbols.declare(declare_network(cursor, self.symbols.networks, self.lint))

    def formula(self, cursor: Cursor) -> Conjunction:
        """Read one constraint."""
        stack: list[_Frame] = []
        while True:
            token = cursor.next()
            if token == "(":
                stack.append(self._open(cursor, stack[-1] if stack else None))
            elif token == ")" and stack:
                frame = stack.pop()
                value = self._close(cursor, frame)
                if isinstance(value, Linear):
                    stack[-1].kinds |= frame.kinds
                    stack[-1].terms.append(value)  # an arithmetic frame is never the outermost one
                elif stack:
                    stack[-1].formulas.append(value)
                else:
                    return value
            elif token in ("", ")") or not stack or stack[-1].operator in _CONNECTIVES:
                raise cursor.wrong("a constraint in parentheses" if token else "')'")
            else:
                stack[-1].terms.append(self._term(cursor, stack[-1]))

    def _open(self, cursor: Cursor, parent: _Frame | None) -> _Frame:
        start, operator = cursor.start, cursor.next()
        if parent is None or parent.operator in _CONNECTIVES:
            allowed, words = _CONNECTIVES | _COMPARISONS, "an operator (and, or, <=, >=, <, >, =)"
        else:
            allowed, words = _ARITHMETIC, "an operator (+, -, *)"
        if operator in allowed:
            return _Frame(operator, start)
        hint = "doubled parentheses are not allowed" if operator == "(" else ""
        if operator in _COMPARISONS or operator in _CONNECTIVES:
            hint = f"'{parent.operator if parent else ''}' holds numbers and variables"
        if operator in _ARITHMETIC:
            hint = "arithmetic stands inside a comparison, as in (<= (+ Y_0 Y_1) 1.0)"
        if exact(operator) is not None:
            hint = "the operator comes first, as in (<= X_0 1.0)"
        raise cursor.wrong(words, hint)

    def _term(self, cursor: Cursor, frame: _Frame) -> Linear:
        number = exact(cursor.token)
        if number is not None:
            frame.kinds.add(kind_of(cursor.token))
            if isinstance(self.symbols, Symbols2):
                self.lint.number(cursor.token, cursor)
            return Linear(number)
        try:
            if isinstance(self.symbols, Symbols2):
                frame.kinds.add(self.symbols.dtype(cursor.token))
            return Linear(weights={self.symbols.resolve(cursor.token): Fraction(1)})
        except UnknownVariableError as problem:
            raise self.source.syntax_error(cursor.start, problem.fact, problem.hint) from problem

    def _close(self, cursor: Cursor, frame: _Frame) -> Linear | Conjunction:
        count = len(frame.terms) + len(frame.formulas)
        if frame.operator in _COMPARISONS and count != 2:
            raise self.source.syntax_error(
                frame.start, f"expected two sides in '{frame.operator}', but found {count}", "(<= X_0 1.0)"
            )
        if not count:
            what = "constraint" if frame.operator in _CONNECTIVES else "number or variable"
            raise cursor.wrong(f"at least one {what} in '{frame.operator}'")
        if frame.operator in _COMPARISONS and isinstance(self.symbols, Symbols2):
            self.lint.types(frame.kinds, cursor)
            if frame.operator == "=":
                self.lint.note("equality is written ==", cursor)
        try:
            return self._reduce(frame)
        except NotSupportedError as problem:
            raise self.source.property_error(frame.start, str(problem), _SMALLER_HINT) from problem
        except OverflowError as problem:
            raise self.source.property_error(
                frame.start, "a number here lies outside the range of float64", "scale the constraint"
            ) from problem

    def _reduce(self, frame: _Frame) -> Linear | Conjunction:
        operator, terms = frame.operator, frame.terms
        if operator == "and":
            return all_of(frame.formulas)
        if operator == "or":
            return any_of(frame.formulas)
        if operator == "+":
            return sum_of(terms)
        if operator == "*":
            return product_of(terms, self.atoms.table.products)
        if operator == "-":
            negated = [term.scaled(Fraction(-1)) for term in terms]
            return sum_of([terms[0], *negated[1:]]) if len(terms) > 1 else negated[0]
        return self.atoms.compare(operator, terms[0], terms[1])
