"""Activations that exporters spell out in several nodes, recognised as the one function they are.

A pattern is a piece of the graph with elementwise operators, scalar constants and one variable going in. It counts as a
known function if both have the same normal form, up to the float32 rounding of constants; values on a grid only say how
much that rounding makes, and agree or the pattern is left alone. One function has far tighter bounds than the product
of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinet.errors import ModelError
from verinet.frontends.call import OnnxNode
from verinet.frontends.composition import collapse
from verinet.frontends.elementwise import scalar_function
from verinet.frontends.folding import evaluate
from verinet.frontends.outline import Outline
from verinet.frontends.pattern_algebra import VARIABLE, form_of
from verinet.frontends.pattern_forms import GRID, KNOWN, close
from verinet.frontends.pattern_values import can_compute, compute

_LARGEST = 16  # nodes of a pattern
_NOISE = 4e-15  # rounding of values on the grid, relative to 1 + |f|
_TELLING = frozenset(
    ("Abs", "Clip", "Erf", "Exp", "HardSigmoid", "Max", "Min", "Relu", "Sigmoid", "Softplus", "Tanh", "Where")
)
"""Operators of which a pattern has at least one."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """Nodes after the rewriting, remarks by output name, and the nodes that were absorbed."""

    nodes: tuple[OnnxNode, ...]
    notes: Mapping[str, str]
    absorbed: tuple[tuple[OnnxNode, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Nodes between one variable `root` and the output of the last node, in topological order."""

    root: str
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Tensor]

    @property
    def ops(self) -> frozenset[str]:
        return frozenset(node.op for node in self.nodes)

    def values(self) -> Mapping[str, Tensor]:
        """Every tensor of the piece on the grid."""
        found: dict[str, Tensor] = {self.root: GRID, **self.constants}
        for node in self.nodes:
            inputs = [found[name] if name else None for name in node.inputs]
            found[node.outputs[0]] = compute(node, inputs)
        return found


def recognise(outline: Outline) -> Recognised:
    """Replace patterns, last nodes first, so that the largest one wins; then what composition can join."""
    nodes, notes = _registered(outline.nodes)
    finder = _Finder(outline)
    replaced: dict[str, OnnxNode] = {}
    for node in reversed(outline.nodes):
        if not can_compute(node) or len(node.outputs) != 1:
            continue
        better = finder.match(node)
        if better is not None:
            replaced[node.outputs[0]] = better
            notes[node.outputs[0]] = f"recognised as {better.op}" if better.op != "Identity" else "has no effect"
    nodes = [replaced.get(node.outputs[0], node) for node in nodes]
    joined = collapse(nodes, outline)
    notes.update(dict.fromkeys(joined, "with the operators before it one function of one variable"))
    if not replaced and not joined and not notes:
        return Recognised(outline.nodes, {})
    return _cleaned([joined.get(node.outputs[0], node) for node in nodes], outline, notes)


def _registered(nodes: Sequence[OnnxNode]) -> tuple[list[OnnxNode], dict[str, str]]:
    """Operators of other domains that are registered as "domain::name" take that name."""
    from verinet.ops.activations.registry import table

    if not any(node.domain for node in nodes):
        return list(nodes), {}
    found: list[OnnxNode] = []
    notes: dict[str, str] = {}
    for node in nodes:
        name = f"{node.domain}::{node.op}"
        if node.domain and name in table():
            notes[node.outputs[0]] = f"registered as {name}"
            node = replace(node, op=name, domain="")
        found.append(node)
    return found, notes


def _cleaned(nodes: Sequence[OnnxNode], outline: Outline, notes: Mapping[str, str]) -> Recognised:
    wanted = set(outline.outputs)
    kept: list[OnnxNode] = []
    absorbed: list[tuple[OnnxNode, str]] = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
        else:
            absorbed.append((node, "part of a recognised function"))
    live = {node.outputs[0] for node in kept}
    return Recognised(tuple(kept[::-1]), {k: v for k, v in notes.items() if k in live}, tuple(absorbed[::-1]))


@dataclass
class _Finder:
    """Pieces that end in a given node, and what they compute."""

    outline: Outline
    makers: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, node in enumerate(self.outline.nodes):
            self.makers.update(dict.fromkeys(node.outputs, position))

    def match(self, last: OnnxNode) -> OnnxNode | None:
        """The one node that computes what the piece ending in `last` does, or None."""
        for piece in self._pieces(last):
            if len(piece.nodes) < 2:
                continue
            found = _known(piece)
            if found is not None:
                op, attributes = found
                return OnnxNode(op, last.name, (piece.root,), last.outputs, attributes)
        return None

    def _pieces(self, last: OnnxNode) -> Iterator[Piece]:
        """Pieces with ever earlier roots."""
        inside: set[int] = {self.makers[last.outputs[0]]}
        frontier: set[str] = set()
        constants: dict[str, Tensor] = {}
        if not self._open(last, frontier, constants):
            return
        while frontier and len(inside) <= _LARGEST:
            if len(frontier) == 1:
                nodes = tuple(self.outline.nodes[position] for position in sorted(inside))
                yield Piece(next(iter(frontier)), nodes, dict(constants))
            latest = max(frontier, key=lambda name: self.makers.get(name, -1))
            position = self.makers.get(latest, -1)
            if position < 0 or not can_compute(self.outline.nodes[position]):
                return
            frontier.discard(latest)
            inside.add(position)
            if not self._open(self.outline.nodes[position], frontier, constants):
                return

    def _open(self, node: OnnxNode, frontier: set[str], constants: dict[str, Tensor]) -> bool:
        """Put the variable inputs of `node` on the frontier; False if it has a constant that is no scalar."""
        if len(node.outputs) != 1:
            return False
        for name in node.inputs:
            if not name:
                continue
            if self._is_constant(name):
                scalar = self._scalar(name)
                if scalar is None:
                    return False
                constants[name] = scalar
            else:
                frontier.add(name)
        return True

    def _is_constant(self, name: str) -> bool:
        return name in self.outline.constants or self._scalar(name) is not None

    def _scalar(self, name: str) -> Tensor | None:
        """Value of a tensor that is a known scalar; simple arithmetic of scalars included."""
        if name not in self.scalars:
            self.scalars[name] = self._find_scalar(name)
        return self.scalars[name]

    def _find_scalar(self, name: str) -> Tensor | None:
        array = self._array(name, depth=4)
        # More axes than one could change the shape of the result, which one function of one variable does not.
        if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind not in "fiu":
            return None
        return torch.tensor(float(array.reshape(())), dtype=torch.float64)

    def _array(self, name: str, depth: int) -> np.ndarray[Any, Any] | None:
        if name in self.outline.constants:
            return self.outline.constants[name].array
        position = self.makers.get(name)
        if position is None or depth == 0:
            return None
        node = self.outline.nodes[position]
        inputs = [self._array(i, depth - 1) for i in node.inputs]
        if not inputs or any(a is None or a.size != 1 for a in inputs):
            return None
        try:
            return evaluate(node, inputs, self.outline.opset, node.label)[0]
        except ModelError:
            return None


def _known(piece: Piece) -> tuple[str, dict[str, Any]] | None:
    """Operator and attributes of the function that a piece computes, by their normal forms."""
    if not piece.ops & _TELLING:
        return None
    form = form_of(piece.nodes, piece.root, {name: float(value) for name, value in piece.constants.items()})
    if form is None:
        return None
    if form == VARIABLE:
        return "Identity", {}
    for known in KNOWN:
        attributes = known.fit(form) if piece.ops <= known.parts or not known.parts else None
        function = None if attributes is None else scalar_function(known.op, attributes)
        if function is not None and attributes is not None:
            found = piece.values()[piece.nodes[-1].outputs[0]]
            if found.shape == GRID.shape and close(found, function.at(GRID), known.tolerance):
                return known.op, {**attributes, **_deviation(found, function.at(GRID), known.is_exact(form))}
    return None


def _deviation(found: Tensor, function: Tensor, exact: bool) -> dict[str, Any]:
    """How far the parts are from the function, relative to 1 + |f|, four times what the grid shows; charged in bounds.

    Constants such as sqrt(2) are float32 numbers in the file. On the grid, less than a few roundings cannot be told
    from the rounding of the values themselves: then only equal constants say that there is no difference.
    """
    worst = float(((found - function).abs() / (1 + function.abs())).max())
    return {} if exact and worst <= _NOISE else {"deviation": 4 * max(worst, _NOISE)}
