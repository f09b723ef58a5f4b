"""TopK, as a sort of the last axis of which some entries are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, largest, smallest, subtract
from verinet.frontends.handlers_selection import weighted, wins
from verinet.ir.graph import total
from verinet.ops.sorting.steps import HAT

_MOST_POSITIONS = 64  # of more entries the positions are not built: exporters name this output and use it rarely


@handles("TopK")
def top_k(call: Call) -> Sequence[Variable]:
    """The k largest or smallest entries along an axis, in order, and their positions."""
    x = call.variable(0)
    axis = axis_of(int(call.attribute("axis", -1)), len(x.shape), call)
    k, extent = _count(call), x.shape[axis]
    if not 1 <= k <= extent:
        raise ModelError(f"TopK asks for {k} of {extent} entries", where=call.where)
    if not bool(call.attribute("sorted", 1)) and k < extent:
        raise call.unsupported("without sorting its values: their order is not defined")
    numbers = np.ascontiguousarray(np.moveaxis(call.builder.positions(x), axis, -1))
    rows, downward = call.builder.index(x, numbers), bool(call.attribute("largest", 1))
    found = [_kept(call, rows, k, largest_first=downward)]
    if len(call.node.outputs) > 1 and call.node.outputs[1] and extent <= _MOST_POSITIONS:
        found.append(_positions(call, rows, k, largest_first=downward))
    back = np.moveaxis(np.arange(total(found[0].shape)).reshape(found[0].shape), -1, axis)
    return [call.builder.index(part, np.ascontiguousarray(back)) for part in found]


def _positions(call: Call, x: Variable, k: int, *, largest_first: bool) -> Variable:
    """(..., n) to (..., k): where the first k entries of the order are; of equal ones the lower position first."""
    builder, count = call.builder, x.shape[-1]
    if count == 1:
        return builder.constant(np.zeros(x.shape, dtype=np.int64))
    rank = wins(call, x if largest_first else builder.negate(x), last=False, less=count - 1)  # 0, -1, -2, ..
    wide = builder.broadcast(builder.reshape(rank, (*x.shape[:-1], 1, count)), (*x.shape[:-1], k, count))
    chosen = apply(call, HAT, builder.shift(wide, np.arange(k, dtype=np.float64).reshape(-1, 1)))
    return dataclasses.replace(weighted(call, chosen, np.arange(count)), dtype=np.dtype(np.int64))


def _count(call: Call) -> int:
    return int(call.attribute("k", 0)) if call.given(1) is None else int(call.constant(1, "k").reshape(-1)[0])


def _kept(call: Call, x: Variable, k: int, *, largest_first: bool) -> Variable:
    """The k greatest entries of the last axis downward, or the k smallest upward."""
    if k == 1 < x.shape[-1]:
        found = (largest if largest_first else smallest)(call, x)
        return call.builder.reshape(found, (*found.shape, 1))
    ordered = sorted_last(call, x)
    picked = np.arange(x.shape[-1])[::-1][:k] if largest_first else np.arange(x.shape[-1])[:k]
    return call.builder.index(ordered, call.builder.positions(ordered)[..., picked])


def sorted_last(call: Call, x: Variable) -> Variable:
    """x sorted upward along its last axis."""
    from verinet.ops.sorting.sort import SortLast

    count = x.shape[-1]
    if count <= 1:
        return x
    return _pair(call, x) if count == 2 else call.builder.emit(SortLast(len(x.shape)), [x], x.shape)


def _pair(call: Call, x: Variable) -> Variable:
    """min and max of two entries a, b as (a + b -+ |a - b|) / 2: both share one |.|, which can be split on."""
    builder = call.builder
    numbers = builder.positions(x)
    first, second = builder.index(x, numbers[..., :1]), builder.index(x, numbers[..., 1:])
    distance = scalar_function("Abs", {})
    if distance is None:
        raise call.unsupported()
    apart = apply(call, distance, subtract(call, first, second))
    both = add(call, first, second)
    half = np.asarray(0.5)
    ends = [builder.scale(end, half) for end in (subtract(call, both, apart), add(call, both, apart))]
    return builder.concat(ends, len(x.shape) - 1)
