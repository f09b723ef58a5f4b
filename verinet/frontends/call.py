"""One ONNX node as its handler sees it, and the table of handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.builder import Constant, GraphBuilder, Value, Variable
from verinet.frontends.tensors import Array, require_finite


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A node of the file, with attributes as Python values. Missing optional inputs and outputs are ""."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""

    @property
    def label(self) -> str:
        """The node's name, or its first output where exporters left the name out."""
        return self.name or next((o for o in self.outputs if o), self.op)


@dataclass(frozen=True, slots=True)
class Call:
    """A node with the values of its inputs. Handlers read it, grow `builder`, and return the node's outputs."""

    node: OnnxNode
    inputs: tuple[Value | None, ...]
    builder: GraphBuilder
    opset: int
    model: str
    producers: tuple[str, ...] = ()

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute as written; a value of None counts as missing."""
        value = self.node.attributes.get(name)
        return default if value is None else value

    def given(self, position: int) -> Value | None:
        """Input number `position`, or None if it was left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def value(self, position: int) -> Value:
        """An input that the operator cannot do without."""
        found = self.given(position)
        if found is None:
            raise ModelError(f"the operator {self.node.op} lacks input {position}", where=self.where)
        return found

    def variable(self, position: int) -> Variable:
        """Input as a graph value; a constant becomes a constant node."""
        found = self.value(position)
        return found if isinstance(found, Variable) else self.builder.constant(self.finite(position))

    def is_constant(self, position: int) -> bool:
        return isinstance(self.given(position), Constant)

    def constant(self, position: int, what: str) -> Array:
        """Input that must be known before any network input is.

        Raises:
            UnsupportedOperatorError: it depends on the network's input; `what` names it in words.
        """
        found = self.value(position)
        if isinstance(found, Variable):
            raise self.unsupported(f"its {what} depends on the network's input")
        return found.array

    def optional(self, position: int, what: str) -> Array | None:
        """Like `constant`, or None if the input was left out."""
        return None if self.given(position) is None else self.constant(position, what)

    def finite(self, position: int, what: str = "input") -> Array:
        """A constant input that will be a coefficient: no NaN, no infinity.

        Raises:
            ModelError: naming the initialiser and its first bad entry.
        """
        array = self.constant(position, what)
        found = self.value(position)
        name = found.name if isinstance(found, Constant) and found.name else self.node.label
        require_finite(array, name, self.model)
        return array

    def integers(self, name: str, position: int) -> list[int] | None:
        """A list of integers that older opsets give as attribute `name` and newer ones as an input."""
        if name in self.node.attributes:
            found = self.node.attributes[name]
            return [int(n) for n in np.atleast_1d(found)]
        array = self.optional(position, name)
        return None if array is None else [int(n) for n in array.reshape(-1)]

    def unsupported(self, why: str = "") -> UnsupportedOperatorError:
        """The error to raise for an operator, or a use of one, without bounds."""
        op = f"{self.node.op} ({why})" if why else self.node.op
        return UnsupportedOperatorError(op, self.node.label, self.model, self.producers)

    @property
    def where(self) -> str:
        return f"node '{self.node.label}' of {self.model}"


Handler = Callable[[Call], Value | Sequence[Value]]

_Specific = TypeVar("_Specific", bound=Handler)

HANDLERS: dict[str, Handler] = {}
"""ONNX operator name to what builds it. Filled by the `handlers_*` modules."""


def handles(*ops: str) -> Callable[[_Specific], _Specific]:
    """Register a handler for operators of the default ONNX domain."""

    def register(handler: _Specific) -> _Specific:
        for op in ops:
            HANDLERS[op] = handler
        return handler

    return register


def axis_of(axis: int, rank: int, call: Call) -> int:
    """A possibly negative axis, checked."""
    if not -rank <= axis < rank:
        raise ModelError(f"axis {axis} does not exist in a tensor of rank {rank}", where=call.where)
    return axis % rank
