"""The text of a property file: reading it, positions in it, and its tokens."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from verinet.errors import PropertyError, UsageError, VnnlibSyntaxError

_COMMENT = re.compile(r";[^\n]*")

# A word may carry an index, as in X[0,3]; VNN-LIB 2.0 lets blanks stand before the bracket.
WORD = r"[^\s()\[\]\"]++(?:\s*+\[[^\]()]*+\])?+"
_TOKEN = re.compile(rf"\s*+([()]|\"[^\"\n]*\"|{WORD}|\[[^\]()]*+\]|\S|\Z)")


def load_text(path: Path) -> str:
    """The text of `path`, unpacked when its name ends in `.gz`. Raises UsageError, PropertyError."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as problem:
        raise UsageError(
            f"cannot open the property file ({problem.strerror})", where=str(path), hint="check the path"
        ) from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise PropertyError(
            f"cannot unpack the property file: {problem}", where=str(path), hint="unpack it with gunzip, or fetch again"
        ) from problem
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise PropertyError(
            f"the property file is no text: byte {problem.start} is not UTF-8", where=str(path), hint="is it VNN-LIB?"
        ) from problem


def without_comments(text: str) -> str:
    """`text` with every comment blanked out, so that all positions stay as they were."""
    return _COMMENT.sub(lambda match: " " * len(match[0]), text) if ";" in text else text


@dataclass(frozen=True, slots=True)
class Source:
    """Text without comments, and the name that errors give it."""

    text: str
    name: str

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of a position, both from 1."""
        start = self.text.rfind("\n", 0, position) + 1
        return self.text.count("\n", 0, position) + 1, position - start + 1

    def syntax_error(self, position: int, message: str, hint: str = "") -> VnnlibSyntaxError:
        line, column = self.place(position)
        return VnnlibSyntaxError(message, file=self.name, line=line, column=column, hint=hint)

    def property_error(self, position: int, message: str, hint: str = "") -> PropertyError:
        """For text that is well formed but that cannot be verified."""
        line, column = self.place(position)
        return PropertyError(message, where=f"{self.name}, line {line}, column {column}", hint=hint)


class Cursor:
    """Reads one token after the other. The end of the file is the empty token."""

    def __init__(self, source: Source, position: int = 0) -> None:
        self.source = source
        self.position = position  # just behind the last token
        self.start = position  # of the last token
        self.token = ""

    def next(self) -> str:
        match = _TOKEN.match(self.source.text, self.position)
        if match is None:  # the pattern takes any character and the end, so this is the end
            self.start, self.token = len(self.source.text), ""
            return ""
        self.start, self.position, self.token = match.start(1), match.end(), match[1]
        return self.token

    def peek(self) -> str:
        """The next token, left in place."""
        match = _TOKEN.match(self.source.text, self.position)
        return match[1] if match is not None else ""

    def expect(self, wanted: str) -> None:
        if self.next() != wanted:
            raise self.wrong(f"'{wanted}'")

    def wrong(self, expected: str, hint: str = "") -> VnnlibSyntaxError:
        """The error for the last token."""
        found = f"found '{self.token[:60]}'" if self.token else "the file ends here"
        if not self.token and not hint:
            hint = "a parenthesis may be missing earlier on"
        return self.source.syntax_error(self.start, f"expected {expected}, but {found}", hint)
