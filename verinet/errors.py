"""Typed errors. Each names the place, says what is wrong, and what to try next.

`exit_code` is what the command line returns for the error: 1 tool error, 2 usage, 3 unsupported model or query.
"""

from __future__ import annotations

from collections.abc import Sequence


class VerinetError(Exception):
    """Base of every error that a user can meet.

    The text has up to three parts: the fact, where it is, and what to try.
    """

    exit_code = 1

    def __init__(self, fact: str, *, where: str = "", hint: str = "") -> None:
        lines = [fact]
        if where:
            lines.append(f"  where   {where}")
        if hint:
            lines.append(f"  try     {hint}")
        super().__init__("\n".join(lines))
        self.fact, self.where, self.hint = fact, where, hint


class UsageError(VerinetError):
    """The call itself is wrong: a missing file, an impossible option."""

    exit_code = 2


class ModelError(VerinetError):
    """The network file cannot be read, or is no network we can reason about (NaN weights, float16, truncated)."""

    exit_code = 3


class UnsupportedOperatorError(ModelError):
    """An ONNX operator (or a use of one) that has no bounds yet."""

    def __init__(self, op: str, node: str, model: str, producers: Sequence[str] = (), hint: str = "") -> None:
        fed = f", fed by {', '.join(producers)}" if producers else ""
        super().__init__(
            f"cannot bound the ONNX operator '{op}'",
            where=f"node '{node}' of {model}{fed}",
            hint=hint or "`verinet inspect MODEL` lists every operator; fold or replace this one before export",
        )
        self.op, self.node, self.model = op, node, model


class PropertyError(VerinetError):
    """A property file that cannot be read, or that does not fit the network."""

    exit_code = 3


class VnnlibSyntaxError(PropertyError):
    """Malformed VNN-LIB text: carries file, line and column (both from 1) and what was expected."""

    def __init__(self, message: str, *, file: str, line: int, column: int, hint: str = "") -> None:
        super().__init__(message, where=f"{file}, line {line}, column {column}", hint=hint)
        self.file, self.line, self.column = file, line, column


class CertificationError(VerinetError):
    """Multipliers prove no bound: the matrix they have to make positive semidefinite is not, or not verifiably."""

    exit_code = 1


class InternalError(VerinetError):
    """An invariant of verinet itself broke (crossing bounds, a graph pass that changed the function)."""

    exit_code = 1
