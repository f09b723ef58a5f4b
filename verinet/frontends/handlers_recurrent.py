"""LSTM, GRU and RNN, unrolled over time into products with constant matrices, activations and products of variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Constant, Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.recurrent_cells import Cell, Step, Weights, activations
from verinet.frontends.tensors import Array

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True)
class _Track:
    """One direction of the network over batch items of one length."""

    items: Array  # batch positions
    length: int
    direction: int  # number among the directions
    reverse: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """States of one track, (items, hidden) each: `states[t]` for time t of the input; `last` holds hidden and cell."""

    track: _Track
    states: list[Variable]
    last: Sequence[Variable]


@handles("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> Sequence[Variable]:
    """Outputs Y, Y_h and, for LSTM, Y_c; a state that no step changes is the initial one."""
    if call.attribute("clip") is not None:
        raise call.unsupported("with clipping")
    x = _time_first(call, call.variable(0))
    kinds = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    directions = kinds.get(str(call.attribute("direction", "forward")))
    if directions is None or len(x.shape) != 3:
        raise ModelError(f"a {call.node.op} with direction {call.attribute('direction')}", where=call.where)
    lengths = _lengths(call, x)
    runs: list[_Run] = []
    for number, reverse in enumerate(directions):
        cell = _cell(call, number, len(directions))
        for length in np.unique(lengths):
            track = _Track(np.flatnonzero(lengths == length), int(length), number, reverse)
            runs.append(_unrolled(call, cell, x, track))
    return _Outputs(call, x.shape[0], len(lengths), len(directions)).all(runs)


def _time_first(call: Call, x: Variable) -> Variable:
    return x if not call.attribute("layout", 0) else _transposed(call, x, (1, 0, 2))


def _transposed(call: Call, x: Variable, order: Sequence[int]) -> Variable:
    return call.builder.index(x, np.ascontiguousarray(call.builder.positions(x).transpose(order)))


def _lengths(call: Call, x: Variable) -> Array:
    given = call.optional(4, "sequence lengths")
    lengths = np.full(x.shape[1], x.shape[0]) if given is None else given.astype(np.int64).reshape(-1)
    if lengths.size != x.shape[1] or lengths.min(initial=0) < 0 or lengths.max(initial=0) > x.shape[0]:
        raise ModelError(f"sequence lengths {lengths.tolist()} do not fit an input {x.shape}", where=call.where)
    return lengths


def _cell(call: Call, direction: int, directions: int) -> Cell:
    """Weights and activations of one direction."""
    op = call.node.op
    w, r = call.finite(1, "weights")[direction], call.finite(2, "recurrent weights")[direction]
    hidden, gates = r.shape[1], _GATES[op]
    b = np.zeros(2 * gates * hidden) if call.given(3) is None else call.finite(3, "bias")[direction].astype(np.float64)
    if w.shape[0] != gates * hidden or r.shape[0] != gates * hidden or b.size != 2 * gates * hidden:
        raise ModelError(f"the weights of this {op} do not have {gates} gates of {hidden} units", where=call.where)
    peephole = None if op != "LSTM" or call.given(7) is None else call.finite(7, "peepholes")[direction]
    found = activations(call, direction, directions)
    coupled = bool(call.attribute("input_forget", 0)) if op == "LSTM" else False
    late = bool(call.attribute("linear_before_reset", 0)) if op == "GRU" else False
    weights = Weights(w, r, b[: gates * hidden], b[gates * hidden :], peephole)
    return Cell(op, hidden, weights, found, coupled=coupled, late_reset=late)


def _unrolled(call: Call, cell: Cell, x: Variable, track: _Track) -> _Run:
    builder = call.builder
    step = Step(call, cell)
    state = [_initial(call, place, track, cell) for place in ((5, 6) if cell.op == "LSTM" else (5,))]
    fed = step.input_part(builder.index(x, builder.positions(x)[: track.length, track.items]))
    numbers = builder.positions(fed)
    order = range(track.length)[:: -1 if track.reverse else 1]
    states: dict[int, Variable] = {}
    for time in order:
        state = list(step.next(builder.index(fed, numbers[time]), state))
        states[time] = _known(call, state[0], track, cell)
    last = [_known(call, value, track, cell) for value in state]
    return _Run(track, [states[time] for time in range(track.length)], last)


def _known(call: Call, value: Variable | None, track: _Track, cell: Cell) -> Variable:
    return call.builder.constant(np.zeros((track.items.size, cell.hidden))) if value is None else value


def _initial(call: Call, place: int, track: _Track, cell: Cell) -> Variable | None:
    """The state before the first step, (items, hidden); None for zero."""
    given = call.given(place)
    if given is None or (isinstance(given, Constant) and not np.any(call.finite(place))):
        return None
    value = call.variable(place)
    numbers = call.builder.positions(value)
    numbers = numbers.transpose(1, 0, 2) if call.attribute("layout", 0) else numbers
    return call.builder.index(value, np.ascontiguousarray(numbers[track.direction][track.items]))


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Puts the states of all runs where ONNX wants them."""

    call: Call
    steps: int
    items: int
    directions: int

    def all(self, runs: Sequence[_Run]) -> Sequence[Variable]:
        flipped = bool(self.call.attribute("layout", 0))
        y = self._every(runs, (2, 0, 1, 3) if flipped else None)
        ends = [self._last(runs, place, (1, 0, 2) if flipped else None) for place in range(len(runs[0].last))]
        return [y, *ends]

    def _joined(self, parts: Sequence[Variable]) -> tuple[Variable, list[int]]:
        """All parts flat, one after the other, and where each begins."""
        flat = [self.call.builder.reshape(p, (int(np.prod(p.shape)),)) for p in parts]
        begins = np.cumsum([0, *(p.shape[0] for p in flat)]).tolist()
        return self.call.builder.concat(flat, 0), begins[:-1]

    def _every(self, runs: Sequence[_Run], order: Sequence[int] | None) -> Variable:
        """(steps, directions, items, hidden); 0 behind the end of a shorter sequence."""
        parts = [state for run in runs for state in run.states]
        hidden = runs[0].last[0].shape[-1]
        numbers = np.full((self.steps, self.directions, self.items, hidden), -1, dtype=np.int64)
        if not parts:
            return self.call.builder.constant(
                np.zeros(numbers.shape if order is None else numbers.transpose(order).shape)
            )
        joined, begins = self._joined(parts)
        starts = iter(begins)
        for run in runs:
            for time, state in enumerate(run.states):
                own = np.arange(int(np.prod(state.shape))).reshape(state.shape)
                numbers[time, run.track.direction, run.track.items] = next(starts) + own
        return self._placed(joined, numbers, order)

    def _last(self, runs: Sequence[_Run], place: int, order: Sequence[int] | None) -> Variable:
        """(directions, items, hidden): the states behind the last step of every sequence."""
        joined, begins = self._joined([run.last[place] for run in runs])
        hidden = runs[0].last[0].shape[-1]
        numbers = np.zeros((self.directions, self.items, hidden), dtype=np.int64)
        for run, begin in zip(runs, begins, strict=True):
            own = np.arange(run.track.items.size * hidden).reshape(-1, hidden)
            numbers[run.track.direction, run.track.items] = begin + own
        return self._placed(joined, numbers, order)

    def _placed(self, joined: Variable, numbers: Array, order: Sequence[int] | None) -> Variable:
        return self.call.builder.index(
            joined, np.ascontiguousarray(numbers if order is None else numbers.transpose(order))
        )
