"""One step of an LSTM, GRU or RNN as graph nodes, by the formulas of the ONNX operator specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from verinet.frontends.builder import Variable, parameter
from verinet.frontends.call import Call
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, multiply
from verinet.frontends.tensors import Array

Activated = Callable[[Variable], Variable]

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_NAMES = {
    name.lower(): name
    for name in (
        *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"),
        *("Softsign", "Softplus"),
    )
}
_ALPHA = {"Affine": None, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": None, "HardSigmoid": 0.2, "Elu": 1.0}
_BETA = {"Affine": None, "ScaledTanh": None, "HardSigmoid": 0.5}
"""Functions with parameters and their defaults; None: ONNX names no default, so it must be given."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights of one direction: w (gates * hidden, inputs), r (gates * hidden, hidden), biases (gates * hidden,)."""

    w: Array
    r: Array
    w_bias: Array
    r_bias: Array
    peephole: Array | None  # (3 * hidden,), in the order input, output, forget


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One direction of a recurrent operator."""

    op: str
    hidden: int
    weights: Weights
    functions: Sequence[Activated]
    coupled: bool = False  # LSTM: the forget gate is 1 - input gate
    late_reset: bool = False  # GRU: the reset gate acts behind the recurrent product


def activations(call: Call, direction: int, directions: int) -> Sequence[Activated]:
    """The activation functions f, g, h of one direction."""
    default = _DEFAULTS[call.node.op]
    names = list(call.attribute("activations", ())) or list(default) * directions
    if len(names) != len(default) * directions:
        raise call.unsupported(f"with {len(names)} activations")
    alphas, betas = (list(call.attribute(f"activation_{name}", ())) for name in ("alpha", "beta"))
    found: list[Activated] = []
    for name in names:
        known = _NAMES.get(str(name).lower())
        if known is None:
            raise call.unsupported(f"with the activation {name}")
        alpha, beta = _next(call, known, alphas, _ALPHA), _next(call, known, betas, _BETA)
        found.append(_activation(call, known, alpha, beta))
    return found[direction * len(default) : (direction + 1) * len(default)]


def _next(call: Call, name: str, given: list[float], defaults: dict[str, float | None]) -> float:
    """The next parameter of the list, which functions without that parameter do not use up."""
    if name not in defaults:
        return 0.0
    value = given.pop(0) if given else defaults[name]
    if value is None:
        raise call.unsupported(f"with the activation {name} but without its parameters")
    return float(value)


def _activation(call: Call, name: str, alpha: float, beta: float) -> Activated:
    if name == "Affine":
        return lambda x: call.builder.shift(call.builder.scale(x, np.asarray(alpha)), np.asarray(beta))
    if name == "ScaledTanh":
        tanh = _table(call, "Tanh", {})
        return lambda x: call.builder.scale(tanh(call.builder.scale(x, np.asarray(beta))), np.asarray(alpha))
    attributes = {"alpha": alpha} if name in _ALPHA else {}
    return _table(call, name, attributes | ({"beta": beta} if name in _BETA else {}))


def _table(call: Call, name: str, attributes: dict[str, float]) -> Activated:
    function = scalar_function(name, attributes)
    if function is None:
        raise call.unsupported(f"with the activation {name}")
    return lambda x: apply(call, function, x)


class Step:
    """Builds one step after the other. States are (items, hidden); None stands for zero and saves its products."""

    def __init__(self, call: Call, cell: Cell) -> None:
        self.call, self.cell, self.builder = call, cell, call.builder

    def input_part(self, x: Variable) -> Variable:
        """x W^T + biases for all steps at once: (steps, items, inputs) to (steps, items, gates * hidden)."""
        weights = self.cell.weights
        bias = weights.w_bias.copy()
        kept = slice(None) if not self.cell.late_reset else slice(0, 2 * self.cell.hidden)
        bias[kept] = bias[kept] + weights.r_bias[kept]
        return self._dense(x, weights.w, bias)

    def next(self, fed: Variable, state: Sequence[Variable | None]) -> Sequence[Variable]:
        """The state behind a step: (hidden,), or (hidden, cell) for an LSTM."""
        if self.cell.op == "LSTM":
            return self._lstm(fed, state[0], state[1])
        if self.cell.op == "GRU":
            return (self._gru(fed, state[0]),)
        (function,) = self.cell.functions
        return (function(self._plus(fed, self._recurrent(state[0], 0, 1))),)

    def _lstm(self, fed: Variable, hidden: Variable | None, memory: Variable | None) -> Sequence[Variable]:
        f, g, h = self.cell.functions
        gates = self._plus(fed, self._recurrent(hidden, 0, 4))
        if self.cell.weights.peephole is None:
            # One node per gate, so that each product can be seen as that of a gate.
            entering, leaving, kept = (f(self._gate(gates, place, place + 1)) for place in range(3))
        else:
            entering = f(self._peeped(self._gate(gates, 0, 1), memory, 0))
            kept = f(self._peeped(self._gate(gates, 2, 3), memory, 2))
        if self.cell.coupled:
            kept = self._complement(entering)
        fresh = multiply(self.call, entering, g(self._gate(gates, 3, 4)))
        memory = fresh if memory is None else add(self.call, multiply(self.call, kept, memory), fresh)
        if self.cell.weights.peephole is not None:
            leaving = f(self._peeped(self._gate(gates, 1, 2), memory, 1))
        return multiply(self.call, leaving, h(memory)), memory

    def _peeped(self, gate: Variable, memory: Variable | None, place: int) -> Variable:
        if memory is None or self.cell.weights.peephole is None:
            return gate
        size = self.cell.hidden
        factor = self.cell.weights.peephole[place * size : (place + 1) * size]
        return add(self.call, gate, self.builder.scale(memory, factor))

    def _gru(self, fed: Variable, hidden: Variable | None) -> Variable:
        f, g = self.cell.functions
        size, bias = self.cell.hidden, self.cell.weights.r_bias
        both = self._plus(self._gate(fed, 0, 2), self._recurrent(hidden, 0, 2))
        update, reset = f(self._gate(both, 0, 1)), f(self._gate(both, 1, 2))
        fresh = self._gate(fed, 2, 3)
        if self.cell.late_reset:
            inner = self._recurrent(hidden, 2, 3, bias[2 * size :])
            if inner is not None:
                fresh = add(self.call, fresh, multiply(self.call, reset, inner))
            elif np.any(bias[2 * size :]):
                fresh = add(self.call, fresh, self.builder.scale(reset, bias[2 * size :]))
        elif hidden is not None:
            fresh = self._plus(fresh, self._recurrent(multiply(self.call, reset, hidden), 2, 3))
        new = g(fresh)
        if hidden is None:
            return multiply(self.call, self._complement(update), new)
        # (1 - z) h~ + z h = h~ + z (h - h~): one product of variables instead of two.
        change = add(self.call, hidden, self.builder.negate(new))
        return add(self.call, new, multiply(self.call, update, change))

    def _complement(self, x: Variable) -> Variable:
        return self.builder.shift(self.builder.negate(x), np.asarray(1.0))

    def _plus(self, left: Variable, right: Variable | None) -> Variable:
        return left if right is None else add(self.call, left, right)

    def _gate(self, x: Variable, first: int, last: int) -> Variable:
        size = self.cell.hidden
        return self.builder.index(x, self.builder.positions(x)[..., first * size : last * size])

    def _recurrent(self, hidden: Variable | None, first: int, last: int, bias: Array | None = None) -> Variable | None:
        """Gates first..last of h R^T; None if h is zero."""
        if hidden is None:
            return None
        size = self.cell.hidden
        return self._dense(hidden, self.cell.weights.r[first * size : last * size], bias)

    def _dense(self, x: Variable, matrix: Array, bias: Array | None) -> Variable:
        from verinet.ops.linear.dense import Dense

        offset = None if bias is None or not np.any(bias) else parameter(bias)
        op = Dense(torch.tensor(np.ascontiguousarray(matrix.T)), offset)
        return self.builder.emit(op, [x], (*x.shape[:-1], matrix.shape[0]))
