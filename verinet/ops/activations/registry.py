"""The table from ONNX operator names to scalar functions. One module per activation fills it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verinet.errors import InternalError
from verinet.ops.scalar_function import ScalarFunction

Attributes = Mapping[str, Any]
Builder = Callable[[Attributes], ScalarFunction | None]


@dataclass(frozen=True)
class Activation:
    """How to build one operator's function, and attribute sets that the tests must cover."""

    build: Builder
    examples: tuple[Attributes, ...]


_TABLE: dict[str, Activation] = {}


def register(onnx_op: str, build: Builder, examples: Sequence[Attributes] = ({},)) -> None:
    """Make an operator known. `build` gets the ONNX attributes and returns None for a use it does not cover.

    `examples` are attribute sets for the registry-driven tests. A second registration of a name is an error.
    """
    if onnx_op in _TABLE:
        raise InternalError(f"the activation '{onnx_op}' is registered twice", hint="remove one of the two modules")
    _TABLE[onnx_op] = Activation(build, tuple(examples))


def constant(function: ScalarFunction) -> Builder:
    """Builder of a function without attributes: always the same object, so that its tables are built once."""
    return lambda attributes: function


def table() -> Mapping[str, Activation]:
    """All registered operators."""
    return dict(_TABLE)


def lookup(onnx_op: str, attributes: Attributes) -> ScalarFunction | None:
    """The function for an operator with these attributes, or None if there is none."""
    entry = _TABLE.get(onnx_op)
    return None if entry is None else entry.build(attributes)


def number(attributes: Attributes, name: str, default: float) -> float:
    """A numeric attribute; None counts as missing."""
    value = attributes.get(name)
    return default if value is None else float(value)
