"""What a VNN-LIB 2.0 file says in a way that its meaning is clear, but that the standard does not allow.

Such files are read, with a note: other tools may reject them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from verinet.spec.decimals import exact
from verinet.spec.source import Cursor

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WARNING = "other tools may reject the file"

FLOAT, POSITIVE, NEGATIVE = "constant 1.0", "constant 1", "constant -1"
"""Kinds of constants, as they stand among element types in `Lint.types`."""


def kind_of(token: str) -> str:
    """The kind of a written number."""
    if "." in token or "e" in token.lower():
        return FLOAT
    return NEGATIVE if token.startswith("-") else POSITIVE


class Lint:
    """Collects notes, each fact once with the first place."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._facts: set[str] = set()

    def note(self, fact: str, cursor: Cursor | None = None, example: str = "") -> None:
        """Remember a fact; `cursor` stands at the place."""
        if fact in self._facts:
            return
        self._facts.add(fact)
        place = f" (line {cursor.source.place(cursor.start)[0]})" if cursor is not None else ""
        seen = f", for instance '{example}'" if example else ""
        self.notes.append(f"{fact}{place}{seen}; {_WARNING}")

    def name(self, cursor: Cursor) -> None:
        """A name of a network or variable."""
        if not _NAME.fullmatch(cursor.token):
            self.note("names are made of letters, digits and underscores", cursor, cursor.token)

    def number(self, token: str, cursor: Cursor | None = None) -> None:
        """A written number: the standard knows no exponent, no plus and no bare point."""
        if not _NUMBER.fullmatch(token):
            self.note("numbers are written like 1.0 or -2", cursor, token)

    def types(self, kinds: Collection[str], cursor: Cursor | None = None) -> None:
        """Element types of variables and kinds of constants that one comparison holds."""
        types = sorted({kind for kind in kinds if kind not in (FLOAT, POSITIVE, NEGATIVE)})
        if len(types) > 1:
            self.note(f"a comparison mixes the element types {' and '.join(types)}", cursor)
        for constant in (FLOAT, POSITIVE, NEGATIVE):
            if constant in kinds and any(not fits(constant, kind) for kind in types):
                self.note(f"a {types[0]} variable is compared with a {constant}", cursor)
        if not types and FLOAT in kinds and len(kinds) > 1:
            self.note("a comparison mixes whole and decimal constants", cursor)

    def numbers(self, tokens: Iterable[str], dtype: str) -> None:
        """All constants of a file whose variables have one element type."""
        for token in tokens:
            if exact(token) is not None:
                self.number(token)
                if not fits(kind_of(token), dtype):
                    self.note(f"a {dtype} variable is compared with a {kind_of(token)}", example=token)


def fits(constant: str, dtype: str) -> bool:
    """Whether a constant of this kind has the element type."""
    if dtype.startswith("uint"):
        return constant == POSITIVE
    if dtype.startswith("int"):
        return constant != FLOAT
    return constant == FLOAT
