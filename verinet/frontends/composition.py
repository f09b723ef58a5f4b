"""Elementwise parts of a graph that depend on one tensor become one function of one variable.

For every node the nearest tensor is found through which all of its inputs come, by elementwise operators alone. If what
lies between holds two or more nonlinear operators, one function replaces it: bounds of the parts one by one lose the
fact that they see the same variable. What is affine before and behind stays linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from verinet.errors import ModelError, UsageError
from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, OnnxNode, handles
from verinet.frontends.folding import evaluate
from verinet.frontends.outline import Outline
from verinet.frontends.tensors import Array
from verinet.ops.expression.lowering import CONDITIONS, can_lower, is_linear, lower
from verinet.ops.expression.tape import Tape, TapeBuilder

COMPOSED = "verinet.Composed"
"""The operator that stands for a collapsed part, with the attributes "tape", "parameters" and "shapes"."""
_LARGEST = 64  # nodes of a part
_STEPS = 48  # tensors that are tried as the variable of one function
_FLOATS = (1, 11)  # ONNX codes of float32 and float64
_ENTRIES = 1 << 20  # of a constant that may become a parameter


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes between `root` and the output of the last one, in order, as a function of the entries of `root`."""

    root: str
    nodes: tuple[OnnxNode, ...]
    tape: Tape
    parameters: tuple[Array, ...]
    shapes: tuple[tuple[int, ...], ...]
    nonlinear: int
    """Operators that are not affine in `root`: 0 where the tape, with equal steps joined, has less than two."""


def collapse(nodes: Sequence[OnnxNode], outline: Outline) -> dict[str, OnnxNode]:
    """Replacements, by output name, for the last nodes of parts that become one function."""
    finder = _Finder(nodes, outline)
    wanted = set(outline.outputs)
    found: dict[str, OnnxNode] = {}
    for node in reversed(nodes):
        if not wanted.intersection(node.outputs):
            continue
        part = finder.part(node)
        if part is None:
            wanted.update(node.inputs)
            continue
        attributes = {"tape": part.tape, "parameters": part.parameters, "shapes": part.shapes}
        found[node.outputs[0]] = OnnxNode(COMPOSED, node.name, (part.root,), node.outputs, attributes)
        wanted.add(part.root)
    return found


@dataclass
class _Finder:
    """For every tensor the nearest earlier tensor of which it is a function, entry by entry."""

    nodes: Sequence[OnnxNode]
    outline: Outline
    makers: dict[str, OnnxNode] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Array | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fixed = set(self.outline.constants)
        for node in self.nodes:
            self.makers.update(dict.fromkeys(node.outputs, node))
            if all(name in fixed for name in node.inputs if name):
                fixed.update(node.outputs)
        self.fixed = fixed
        for node in self.nodes:
            for output in node.outputs:
                self._place(output, self._root(node))

    def _place(self, name: str, parent: str | None) -> None:
        self.parents[name] = parent
        self.depths[name] = 0 if parent is None else self.depths.get(parent, 0) + 1

    def _variables(self, node: OnnxNode) -> list[str]:
        return list(dict.fromkeys(name for name in node.inputs if name and name not in self.fixed))

    def _root(self, node: OnnxNode) -> str | None:
        """The tensor of which the node's output is a function; None where it is none, or of several."""
        variables = self._variables(node)
        if not variables or not _elementwise(node):
            return None
        common: str | None = variables[0]
        for other in variables[1:]:
            common = self._meet(common, other)
        return common

    def _meet(self, left: str | None, right: str | None) -> str | None:
        """The nearest tensor of which both are functions (or which they are)."""
        while left is not None and right is not None and left != right:
            if self.depths.get(left, 0) >= self.depths.get(right, 0):
                left = self.parents.get(left)
            else:
                right = self.parents.get(right)
        return left if left == right else None

    def affine(self, node: OnnxNode) -> bool:
        """Sums, and products with constants (a constant divided by a variable is none)."""
        if node.op in ("Mul", "Div"):
            divisor = node.op == "Div" and node.inputs[1] not in self.fixed
            return len(self._variables(node)) < 2 and not divisor and node.inputs[0] != node.inputs[1]
        return is_linear(node.op)

    def part(self, last: OnnxNode) -> Part | None:
        """The part that ends in a node and is worth collapsing: with the most nonlinear operators, the shortest one."""
        if last.op in CONDITIONS or not _elementwise(last):
            return None
        if self.affine(last) and len(self._variables(last)) < 2:
            return None
        best: Part | None = None
        root = self.parents.get(last.outputs[0])
        for _ in range(_STEPS):
            if root is None:
                break
            found = self._between(root, last)
            if found is None:
                break
            if found.nonlinear > (1 if best is None else best.nonlinear):
                best = found
            root = self.parents.get(root)
        return best

    def _between(self, root: str, last: OnnxNode) -> Part | None:
        """The nodes from `root` to `last` as a tape; None where they are too many or cannot be one."""
        order: dict[str, OnnxNode] = {}
        if not self._gather(root, last, order):
            return None
        try:
            return _lowered(root, list(order.values()), self)
        except (UsageError, ValueError):
            return None

    def _gather(self, root: str, node: OnnxNode, order: dict[str, OnnxNode]) -> bool:
        """Depth first, so that inputs come before the nodes that read them."""
        for name in self._variables(node):
            if name == root or name in order:
                continue
            maker = self.makers.get(name)
            if maker is None or len(order) >= _LARGEST or not self._gather(root, maker, order):
                return False
        order[node.outputs[0]] = node
        return True

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the network's input."""
        if name not in self.constants:
            self.constants[name] = self._constant(name)
        return self.constants[name]

    def _constant(self, name: str) -> Array | None:
        if name in self.outline.constants:
            return self.outline.constants[name].array
        node = self.makers.get(name)
        if node is None or name not in self.fixed:
            return None
        inputs = [self.constant(i) if i else None for i in node.inputs]
        if any(array is None for array, i in zip(inputs, node.inputs, strict=True) if i):
            return None
        try:
            return evaluate(node, inputs, self.outline.opset, node.label)[list(node.outputs).index(name)]
        except ModelError:
            return None


def _elementwise(node: OnnxNode) -> bool:
    """True for operators that a tape can hold; a function recognised only nearly (a deviation) is none."""
    if node.domain or len(node.outputs) != 1 or not can_lower(node.op) or "deviation" in node.attributes:
        return False
    if node.op == "Gelu":
        return node.attributes.get("approximate", "none") in (None, "none", b"none")
    return node.op != "Cast" or node.attributes.get("to") in _FLOATS


def _lowered(root: str, nodes: Sequence[OnnxNode], finder: _Finder) -> Part | None:
    build = TapeBuilder()
    steps: dict[str, int] = {root: 0}
    parameters: list[Array] = []
    shapes: list[tuple[int, ...]] = []

    def step_of(name: str) -> int | None:
        if not name or name in steps:
            return steps.get(name)
        array = finder.constant(name)
        if array is None or array.size == 0 or array.size > _ENTRIES or array.dtype.kind not in "fiu":
            raise UsageError(f"the constant '{name}' cannot be a parameter")
        shapes.append(tuple(array.shape))
        flat = array.reshape(-1)
        if bool((flat == flat[0]).all()):
            steps[name] = build.const(float(flat[0]))
        else:
            steps[name] = build.new_parameter()
            parameters.append(array.astype(np.float64))
        return steps[name]

    for node in nodes:
        if node.op == "Where" and node.inputs[0] in finder.fixed:
            return None
        if node.op == "Pow" and _no_logarithm(node, finder):
            return None
        made = lower(build, node.op, [step_of(name) for name in node.inputs], node.attributes)
        if made is None:
            return None
        steps[node.outputs[0]] = made
    if not _few(parameters):
        return None
    tape = build.finish(steps[nodes[-1].outputs[0]])
    count = sum(node.op not in CONDITIONS and not finder.affine(node) for node in nodes)
    return Part(root, tuple(nodes), tape, tuple(parameters), tuple(shapes), count if tape.nonlinear > 1 else 0)


def _no_logarithm(power: OnnxNode, finder: _Finder) -> bool:
    """Whether the base is a constant that is not positive, so that exp(y log b) says nothing."""
    base = finder.constant(power.inputs[0])
    return base is not None and not bool((base > 0).all())


def _few(parameters: Sequence[Array]) -> bool:
    """Whether the parameters have few enough distinct combinations."""
    from verinet.ops.expression.composed import CHANNELS, channels_of

    if not parameters:
        return True
    if sum(p.size for p in np.broadcast_arrays(*parameters)) > _ENTRIES:
        return False
    return channels_of([torch.from_numpy(np.ascontiguousarray(p)) for p in parameters]).count <= CHANNELS


@handles(COMPOSED)
def handle_composed(call: Call) -> Variable:
    """One elementwise node for a collapsed part; constants may widen the shape, as in ONNX."""
    from verinet.frontends.elementwise import apply
    from verinet.ops.expression.composed import compose

    shapes: tuple[tuple[int, ...], ...] = call.node.attributes["shapes"]
    given: Any = call.node.attributes["parameters"]
    x = call.variable(0)
    x = call.builder.broadcast(x, np.broadcast_shapes(x.shape, *shapes))
    parameters = [torch.from_numpy(np.ascontiguousarray(p)) for p in given]
    return apply(call, compose(_title(call.node), call.node.attributes["tape"], parameters), x)


def _title(node: OnnxNode) -> str:
    return f"composed at {node.label}"
