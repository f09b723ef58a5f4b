"""Bulk reading of the shapes that make files large; everything else goes to the general parser, command by command.

A shape is taken only if one regular expression matches all of its text, so nothing can be skipped by accident. When a
name or number in it turns out to be odd, the same text is given to the general parser, which reports the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from verinet.spec.decimals import exact
from verinet.spec.formula import Atoms, Conjunction, any_of
from verinet.spec.source import WORD
from verinet.spec.symbols import Symbols1, Symbols2, UnknownVariableError
from verinet.spec.syntax import Parser
from verinet.spec.terms import Linear

_BLANK = re.compile(r"\s*+")
_DECLARE = r"\(\s*+declare-(?:const\s++[XY]_[0-9]++|fun\s++[XY]_[0-9]++\s*+\(\s*+\))\s++Real\s*+\)\s*+"
_DECLARES = re.compile(rf"(?:{_DECLARE}){{1,4096}}+")
_DECLARED = re.compile(r"[XY]_[0-9]++")
_PAIR = re.compile(rf"\(\s*+([<>]=?+\s++{WORD})\s++({WORD})\s*+\)")
_ATOM = rf"\(\s*+[<>]=?+\s++{WORD}\s++{WORD}\s*+\)"
# Runs are limited, so that one odd command costs the general parser's time for one run only.
_ASSERTS = re.compile(rf"(?:\(\s*+assert\s*+{_ATOM}\s*+\)\s*+){{1,4096}}+")
_ASSERT_AND = re.compile(rf"\(\s*+assert\s*+\(\s*+and(?:\s*+{_ATOM})++\s*+\)\s*+\)")
_ASSERT_OR = re.compile(r"\(\s*+assert\s*+\(\s*+or(?=[\s(])")
_AND = re.compile(rf"\s*+\(\s*+and(?:\s*+{_ATOM})++\s*+\)")
_ATOMS = re.compile(rf"(?:\s*+{_ATOM}){{1,4096}}+")
_CLOSE = re.compile(r"\s*+\)\s*+\)")
_FEW = 12  # below this many comparisons, arrays cost more than a loop
_ONE = Fraction(1)


class _OddError(Exception):
    """The general parser has to read this, or to report it."""


class _Heads(dict[str, int]):
    """The start of a comparison, as in `<= X_3`, to its bound code `2*i + is_upper`; -1 when it is no input bound."""

    def __init__(self, symbols: Symbols1 | Symbols2) -> None:
        super().__init__()
        self._symbols = symbols

    def __missing__(self, head: str) -> int:
        operator, name = head.split(None, 1)
        code = -1
        if operator in ("<=", ">="):
            try:
                variable = self._symbols.resolve(name)
                code = -1 if variable & 1 else variable + (operator == "<=")
            except UnknownVariableError:
                return -1  # a number, or a name that may be declared later on: not remembered
        self[head] = code
        return code


class Scanner:
    """Reads a whole file through `parser`, in bulk where it can."""

    def __init__(self, parser: Parser) -> None:
        self.parser, self.text = parser, parser.source.text
        self._heads = _Heads(parser.symbols)
        self._others: dict[tuple[str, str], Conjunction] = {}

    def read(self) -> None:
        """Raises VnnlibSyntaxError, PropertyError."""
        position = self._skip(0)
        while position < len(self.text):
            position = self._skip(self._step(position))
        self._check_constants()

    def _check_constants(self) -> None:
        """Note constants that do not fit VNN-LIB 2.0: the bulk passes look at each distinct word once."""
        symbols = self.parser.symbols
        if isinstance(symbols, Symbols2) and len(symbols.dtypes()) == 1:
            words = [word for pair in self._others for word in (*pair[0].split(None, 1)[1:], pair[1])]
            self.parser.lint.numbers([*self.parser.atoms.numbers, *words], *symbols.dtypes())

    def _skip(self, position: int) -> int:
        match = _BLANK.match(self.text, position)
        return match.end() if match else position

    def _step(self, position: int) -> int:
        """Read at least one command and return the position behind what was read."""
        for bulk in self._bulk():
            try:
                end = bulk(position)
            except _OddError:
                end = 0
            if end:
                return end
        end = self.parser.command(position)
        if self.parser.symbols is not self._heads._symbols:
            self._heads = _Heads(self.parser.symbols)
        return end

    def _bulk(self) -> tuple[Callable[[int], int], ...]:
        """The passes to try. Where element types differ, each comparison has to be looked at by itself."""
        symbols = self.parser.symbols
        if isinstance(symbols, Symbols2) and len(symbols.dtypes()) > 1:
            return ()
        return self._asserts, self._declares, self._assert_or

    def _declares(self, position: int) -> int:
        match, symbols = _DECLARES.match(self.text, position), self.parser.symbols
        if match is None or not isinstance(symbols, Symbols1) or self.parser.version:
            return 0
        names = _DECLARED.findall(match[0])
        parts = [symbols.parse(name) for name in names]
        wanted = {2 * part[1] + (part[0] == "Y") for part in parts if part is not None}
        if len(wanted) < len(names) or wanted & symbols.declared:
            return 0
        symbols.declared |= wanted
        return match.end()

    def _asserts(self, position: int) -> int:
        match = _ASSERTS.match(self.text, position) or _ASSERT_AND.match(self.text, position)
        if match is None:
            return 0
        try:
            self.parser.root.absorb(self._conjunction(match.start(), match.end()))
            self.parser.asserted = True
        except _OddError:
            while position < match.end():
                position = self._skip(self.parser.command(position))
        return match.end()

    def _assert_or(self, position: int) -> int:
        match = _ASSERT_OR.match(self.text, position)
        if match is None:
            return 0
        parts: list[Conjunction] = []
        while True:
            position = match.end()
            close = _CLOSE.match(self.text, position)
            if close is not None and parts:
                self.parser.root.absorb(any_of(parts))
                self.parser.asserted = True
                return close.end()
            match = _AND.match(self.text, position)
            if match is not None:
                parts.append(self._conjunction(position, match.end()))
                continue
            match = _ATOMS.match(self.text, position)
            if match is None:
                return 0
            pairs = _PAIR.findall(self.text, position, match.end())
            parts += [self._from_few([pair]) for pair in pairs]

    def _conjunction(self, start: int, end: int) -> Conjunction:
        """AND of all comparisons in a part of the text that holds nothing else. Raises _OddError."""
        pairs: list[tuple[str, str]] = _PAIR.findall(self.text, start, end)
        if len(pairs) <= _FEW:
            return self._from_few(pairs)
        heads, others = zip(*pairs, strict=True)
        block = np.empty((len(pairs), 2), dtype=np.int32)
        block[:, 0] = np.fromiter(map(self._heads.__getitem__, heads), np.int32, len(pairs))
        block[:, 1] = np.fromiter(map(self.parser.atoms.numbers.__getitem__, others), np.int32, len(pairs))
        simple = (block >= 0).all(axis=1)
        if simple.all():
            return Conjunction(blocks=[block])
        rest = self._from_few([pairs[i] for i in np.flatnonzero(~simple)])
        rest.blocks.append(block[simple])
        return rest

    def _from_few(self, pairs: list[tuple[str, str]]) -> Conjunction:
        result, heads, numbers = Conjunction(), self._heads, self.parser.atoms.numbers
        for pair in pairs:
            code, number = heads[pair[0]], numbers[pair[1]]
            if code >= 0 and number >= 0:
                result.single.append((code, number))
            else:
                result.absorb(self._other(pair))
        return result

    def _other(self, pair: tuple[str, str]) -> Conjunction:
        """Any other comparison of two words. `absorb` only reads it, so it may be kept."""
        if pair not in self._others:
            operator, left = pair[0].split(None, 1)
            atoms: Atoms = self.parser.atoms
            try:
                self._others[pair] = atoms.compare(operator, self._word(left), self._word(pair[1]))
            except (UnknownVariableError, OverflowError) as problem:
                raise _OddError from problem
        return self._others[pair]

    def _word(self, word: str) -> Linear:
        number = exact(word)
        return Linear(number) if number is not None else Linear(weights={self.parser.symbols.resolve(word): _ONE})
