"""Values and slopes of a tape on tensors, step by step in the order that the error analysis assumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from verinet.ops.expression.ranges import function_of
from verinet.ops.expression.tape import Step, Tape

Number = Tensor | float

_COMPARE: dict[str, Callable[[Number, Number], Number]] = {"gt": lambda a, b: a > b, "ge": lambda a, b: a >= b}


def value(tape: Tape, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """f(x), of the shape that x and the parameters broadcast to."""
    found: list[Number] = []
    for step in tape.steps:
        found.append(_value(step, [found[i] for i in step.inputs], (x, parameters)))
    return _tensor(found[-1], x)


def slope(tape: Tape, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """f'(x) by forward differentiation; at a kink the slope of either side, or something in between."""
    found: list[Number] = []
    slopes: list[Number] = []
    for step in tape.steps:
        given, rates = [found[i] for i in step.inputs], [slopes[i] for i in step.inputs]
        found.append(_value(step, given, (x, parameters)))
        slopes.append(_slope(step, given, rates, x))
    shape = torch.broadcast_shapes(x.shape, *(p.shape for p in parameters))
    return _tensor(slopes[-1], x).expand(shape)


def _tensor(found: Number, like: Tensor) -> Tensor:
    return found if isinstance(found, Tensor) else torch.full_like(like, found)


def _as(number: Number, like: Tensor) -> Tensor:
    return number if isinstance(number, Tensor) else torch.full((), number, dtype=like.dtype, device=like.device)


def _value(step: Step, given: Sequence[Number], leaves: tuple[Tensor, Sequence[Tensor]]) -> Number:
    kind = step.kind
    if not given:
        return leaves[0] if kind == "x" else step.number if kind == "const" else leaves[1][int(step.number)]
    if len(given) == 1:
        return _unary(step, given[0], leaves[0])
    if kind == "add":
        return given[0] + given[1]
    if kind == "mul":
        return given[0] * given[1]
    if kind in ("max", "min"):
        a, b = _as(given[0], leaves[0]), _as(given[1], leaves[0])
        return torch.maximum(a, b) if kind == "max" else torch.minimum(a, b)
    if kind in _COMPARE:
        return _COMPARE[kind](given[0], given[1])
    return _choice(kind, given, leaves[0])


def _choice(kind: str, given: Sequence[Number], x: Tensor) -> Tensor:
    if kind == "where":
        return torch.where(_as(given[0], x).bool(), _as(given[1], x), _as(given[2], x))
    a, b = _as(given[0], x).bool(), _as(given[1], x).bool()
    return a & b if kind == "and" else a | b


def _unary(step: Step, a: Number, x: Tensor) -> Number:
    if step.kind == "neg":
        return -a
    if step.kind == "not":
        return ~_as(a, x).bool()
    return _function(step.kind, step.number)[0](_as(a, x))


@lru_cache(maxsize=512)
def _function(kind: str, number: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    function = function_of(kind, number)
    return function.value, function.slope


def _slope(step: Step, given: Sequence[Number], rates: Sequence[Number], x: Tensor) -> Number:
    kind = step.kind
    if not given:
        return 1.0 if kind == "x" else 0.0
    if kind in ("gt", "ge", "and", "or", "not", "Sign"):
        return 0.0
    if kind == "neg":
        return -rates[0]
    if kind == "add":
        return rates[0] + rates[1]
    if kind == "mul":
        return _plus(_times(rates[0], given[1]), _times(given[0], rates[1]))
    if kind == "where":
        return torch.where(_as(given[0], x).bool(), _as(rates[1], x), _as(rates[2], x))
    if kind in ("max", "min"):
        first = given[0] >= given[1] if kind == "max" else given[0] <= given[1]
        return torch.where(_as(first, x).bool(), _as(rates[0], x), _as(rates[1], x))
    return _times(_function(kind, step.number)[1](_as(given[0], x)), rates[0])


def _times(a: Number, b: Number) -> Number:
    """A product in which a number 0 or 1 is not multiplied out: 0 times infinity must not spoil a slope."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, float):
            if one == 0.0:
                return 0.0
            if one == 1.0:
                return other
    return a * b


def _plus(a: Number, b: Number) -> Number:
    if isinstance(a, float) and a == 0.0:
        return b
    return a if isinstance(b, float) and b == 0.0 else a + b
