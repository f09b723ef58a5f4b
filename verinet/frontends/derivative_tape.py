"""What the rules of differentiation write to: ONNX nodes beside those of the network.

A tangent is the derivative of one tensor in D directions of the input, of shape (D, *shape of the tensor): forward mode
(Griewank and Walther, Evaluating Derivatives, 2008, chapter 3). No tangent means that the derivative is zero.

The reader computes nodes whose inputs are all constant in the number type of the file, with its rounding. So that the
written file means exactly the derivative, a constant tangent may enter only operations that are exact on it; before
any other one 0 * X_0 is added to it, and what follows is bounded like everything else, with rounding charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.call import OnnxNode
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape


class Kind(Enum):
    """How much is known about a tangent."""

    UNIT = "a constant with at most one entry per direction, which is 1"
    CONSTANT = "a constant that the file's number type holds exactly"
    VARIABLE = "depends on the network's input"


@dataclass(frozen=True, slots=True)
class Tangent:
    """The name of an ONNX tensor of shape (D, *shape)."""

    name: str
    kind: Kind


@dataclass
class Tape:
    """Nodes and constants of the derivative, and what is known about the network's tensors.

    `shapes` and `known` cover all tensors of the network; `known` holds those that do not depend on its input.
    """

    directions: int
    dtype: np.dtype[Any]
    opset: int
    model: str
    shapes: Mapping[str, Shape]
    known: Mapping[str, Array]
    zero: str  # a tensor of shape (1,) that is 0 and depends on the network's input
    tangents: dict[str, Tangent] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)  # an ordered set

    def emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        from onnx import helper

        name = f"derivative/{len(self.nodes)}/{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Array) -> str:
        name = f"derivative/constant/{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def number(self, value: float) -> str:
        """A number that the file's type has to hold exactly; a rounded one is noted for the user."""
        rounded = self.dtype.type(value)
        if float(rounded) != value:
            self.notes[f"the constant {value:.17g} is rounded to {self.dtype.name}"] = None
        return self.constant(np.asarray(rounded, dtype=self.dtype))

    def integers(self, values: Sequence[int]) -> str:
        return self.constant(np.asarray(values, dtype=np.int64))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.emit("Reshape", [name, self.integers(shape)])

    def varying(self, tangent: Tangent) -> Tangent:
        """The same tangent as something that depends on the input, so that nothing is rounded while reading."""
        if tangent.kind is Kind.VARIABLE:
            return tangent
        return Tangent(self.emit("Add", [tangent.name, self.zero]), Kind.VARIABLE)


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the network that at least one tangent reaches, as its rule sees it."""

    node: OnnxNode
    tape: Tape

    def given(self, position: int) -> bool:
        return position < len(self.node.inputs) and self.node.inputs[position] != ""

    def value(self, position: int) -> str:
        """Name of an input tensor."""
        return self.node.inputs[position]

    def shape(self, position: int) -> Shape:
        return self.tape.shapes[self.node.inputs[position]]

    @property
    def out_shape(self) -> Shape:
        return self.tape.shapes[self.node.outputs[0]]

    def tangent(self, position: int) -> Tangent | None:
        return self.tape.tangents.get(self.node.inputs[position]) if self.given(position) else None

    def only(self, position: int = 0) -> Tangent:
        """The tangent of an input when no other input may have one."""
        others = [i for i in range(len(self.node.inputs)) if i != position and self.tangent(i) is not None]
        found = self.tangent(position)
        if found is None or others:
            raise self.refused("with these inputs depending on the network's input")
        return found

    def known(self, position: int) -> Array:
        """Value of an input that does not depend on the network's input."""
        name = self.node.inputs[position]
        if name not in self.tape.known:
            raise self.refused(f"with a variable input {position}")
        return self.tape.known[name]

    def attribute(self, name: str, default: Any = None) -> Any:
        value = self.node.attributes.get(name)
        return default if value is None else value

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = len(self.shape(0)) if rank is None else rank
        axis = int(self.attribute("axis", default))
        if not -rank <= axis < rank:
            raise self.refused(f"along axis {axis} of a tensor of rank {rank}")
        return axis % rank

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.tape.emit(op, inputs, **attributes)

    def variable(self, op: str, *inputs: str, **attributes: Any) -> Tangent:
        """A node whose result depends on the network's input."""
        return Tangent(self.emit(op, *inputs, **attributes), Kind.VARIABLE)

    def linear(self, tangent: Tangent) -> Tangent:
        """What a linear operator with coefficients may be applied to: each entry of the result is one product."""
        return tangent if tangent.kind is Kind.UNIT else self.tape.varying(tangent)

    def linear_kind(self, tangent: Tangent) -> Kind:
        """The kind of a linear operator's result."""
        return Kind.CONSTANT if tangent.kind is Kind.UNIT else Kind.VARIABLE

    def aligned(self, tangent: Tangent, rank: int, to: int) -> str:
        """(D, *shape) of a tensor of rank `rank` to (D, 1, .., 1, *shape), which fits tensors of rank `to`."""
        if rank >= to:
            return tangent.name
        axes = list(range(1, 1 + to - rank))
        if self.tape.opset < 13:
            return self.emit("Unsqueeze", tangent.name, axes=axes)
        return self.emit("Unsqueeze", tangent.name, self.tape.integers(axes))

    def stretched(self, tangent: Tangent, shape: Shape) -> Tangent:
        """Broadcast to (D, *out shape)."""
        if shape == self.out_shape:
            return tangent
        name = self.aligned(tangent, len(shape), len(self.out_shape))
        full = self.tape.integers((self.tape.directions, *self.out_shape))
        kind = tangent.kind if tangent.kind is Kind.VARIABLE else Kind.CONSTANT
        return Tangent(self.emit("Expand", name, full), kind)

    def moved(self, tangent: Tangent, op: str, *inputs: str, copies: bool = False, **attributes: Any) -> Tangent:
        """A node that only moves entries of the tangent; `copies` where one entry may become several."""
        name = self.emit(op, tangent.name, *inputs, **attributes)
        kind = Kind.CONSTANT if copies and tangent.kind is Kind.UNIT else tangent.kind
        return replace(tangent, name=name, kind=kind)

    def refused(self, why: str = "") -> ModelError:
        op = f"{self.node.op} ({why})" if why else self.node.op
        return ModelError(
            f"cannot differentiate the ONNX operator '{op}'",
            where=f"node '{self.node.label}' of {self.tape.model}",
            hint="docs/howto_jacobian.md lists the operators; export this one as smaller operators",
        )


Rule = Callable[[Step], Sequence[Tangent | None]]

_Specific = TypeVar("_Specific", bound=Rule)

RULES: dict[str, Rule] = {}
"""ONNX operator name to the rule that gives a tangent for each output. Filled by the `derivative_*` modules."""


def differentiates(*ops: str) -> Callable[[_Specific], _Specific]:
    """Register the rule of operators of the default ONNX domain."""

    def register(rule: _Specific) -> _Specific:
        for op in ops:
            RULES[op] = rule
        return rule

    return register
