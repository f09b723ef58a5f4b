"""ONNX operators of one element as steps of a tape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verinet.errors import UsageError
from verinet.ops.expression.ranges import known
from verinet.ops.expression.tape import COMPARE, LOGIC, TapeBuilder

Attributes = Mapping[str, Any]
Rule = Callable[[TapeBuilder, Sequence[int | None], Attributes], int]


def lower(build: TapeBuilder, op: str, inputs: Sequence[int | None], attributes: Attributes) -> int | None:
    """The step that computes an operator on earlier steps (None: an input left out), or None where none does."""
    inputs = [_typed(build, op, place, i) for place, i in enumerate(inputs)]
    given = [i for i in inputs if i is not None]
    if op in RULES:
        return RULES[op](build, inputs, attributes)
    if op in _FOLDED and len(given) >= 1:
        return _fold(build, _FOLDED[op], given)
    if op in _PLAIN and len(given) == 1:
        return build.put(op, given[0])
    return None


def _typed(build: TapeBuilder, op: str, place: int, step: int | None) -> int | None:
    """A condition where a number is wanted becomes 1 or 0; a number where a condition is wanted is an error."""
    if step is None:
        return None
    wanted = op in ("And", "Or", "Not") or (op == "Where" and place == 0)
    given = build.steps[step].kind in (*COMPARE, *LOGIC)
    if wanted and not given:
        raise UsageError(f"'{op}' needs a condition, such as a comparison")
    return build.put("where", step, build.const(1.0), build.const(0.0)) if given and not wanted else step


def can_lower(op: str) -> bool:
    """True for operators that `lower` knows."""
    return op in RULES or op in _FOLDED or op in _PLAIN


def is_linear(op: str) -> bool:
    """True for operators that are affine in one variable when their other inputs are constant."""
    return op in ("Add", "Sub", "Neg", "Sum", "Mean", "Identity", "Cast", "Mul", "Div")


_PLAIN = frozenset(
    name
    for name in (
        "Exp Log Sqrt Sin Cos Tan Tanh Sigmoid Erf Softplus Atan Asin Acos "
        "Sinh Cosh Asinh Reciprocal Gelu Relu Abs Sign"
    ).split()
    if known(name) or name in ("Relu", "Abs", "Sign")
)
_FOLDED = {"Add": "add", "Sum": "add", "Mul": "mul", "Max": "max", "Min": "min"}


def _fold(build: TapeBuilder, kind: str, given: Sequence[int]) -> int:
    result = given[0]
    for other in given[1:]:
        result = build.mul(result, other) if kind == "mul" else build.put(kind, result, other)
    return result


def _need(inputs: Sequence[int | None], position: int = 0) -> int:
    found = inputs[position]
    if found is None:
        raise ValueError("an operator lacks an input")
    return found


def _number(attributes: Attributes, name: str, default: float) -> float:
    value = attributes.get(name)
    return default if value is None else float(value)


def _sub(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return build.sub(_need(inputs), _need(inputs, 1))


def _div(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return build.div(_need(inputs), _need(inputs, 1))


def _neg(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return build.neg(_need(inputs))


def _same(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return _need(inputs)


def _mean(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    given = [i for i in inputs if i is not None]
    return build.div(_fold(build, "add", given), build.const(len(given)))


def _pow(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    """A constant exponent, or exp(exponent log base), which is defined for a positive base."""
    base, exponent = _need(inputs), _need(inputs, 1)
    number = build.steps[exponent]
    if number.kind == "const":
        return build.power(base, number.number)
    if number.kind == "param":
        raise UsageError("a power whose exponent differs by channel cannot be part of an expression")
    return build.put("Exp", build.mul(exponent, build.put("Log", base)))


def _clip(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    result = _need(inputs)
    ends = [*inputs[1:3], None, None][:2]
    for end, name, kind in zip(ends, ("min", "max"), ("max", "min"), strict=True):
        if end is None and attributes.get(name) is not None and math.isfinite(float(attributes[name])):
            end = build.const(float(attributes[name]))
        if end is not None:
            result = build.put(kind, result, end)
    return result


def _leaky(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return build.put("LeakyRelu", _need(inputs), number=_number(attributes, "alpha", 0.009999999776482582))


def _prelu(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x, slope = _need(inputs), _need(inputs, 1)
    left = build.neg(build.mul(slope, build.put("Relu", build.neg(x))))
    return build.put("add", build.put("Relu", x), left)


def _exponential(build: TapeBuilder, x: int, scale: float, rate: float, positive: float) -> int:
    """scale (exp(rate x) - 1) left of 0 and positive * x right of it."""
    left = build.neg(build.put("Relu", build.neg(x)))
    curve = build.put("add", build.put("Exp", build.mul(left, build.const(rate))), build.const(-1.0))
    straight = build.mul(build.put("Relu", x), build.const(positive))
    return build.put("add", build.mul(curve, build.const(scale)), straight)


def _elu(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return _exponential(build, _need(inputs), _number(attributes, "alpha", 1.0), 1.0, 1.0)


def _selu(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    alpha = _number(attributes, "alpha", 1.67326319217681884765625)
    gamma = _number(attributes, "gamma", 1.05070102214813232421875)
    return _exponential(build, _need(inputs), alpha * gamma, 1.0, gamma)


def _hard_sigmoid(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    slope = build.const(_number(attributes, "alpha", 0.20000000298023224))
    line = build.put("add", build.mul(_need(inputs), slope), build.const(_number(attributes, "beta", 0.5)))
    return build.clip(line, 0.0, 1.0)


def _hard_swish(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x = _need(inputs)
    gate = build.clip(build.put("add", x, build.const(3.0)), 0.0, 6.0)
    return build.div(build.mul(x, gate), build.const(6.0))


def _softsign(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x = _need(inputs)
    return build.div(x, build.put("add", build.put("Abs", x), build.const(1.0)))


def _mish(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x = _need(inputs)
    return build.mul(x, build.put("Tanh", build.put("Softplus", x)))


def _swish(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x = _need(inputs)
    return build.mul(x, build.put("Sigmoid", build.mul(x, build.const(_number(attributes, "alpha", 1.0)))))


def _thresholded(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    x = _need(inputs)
    above = build.put("gt", x, build.const(_number(attributes, "alpha", 1.0)))
    return build.put("where", above, x, build.const(0.0))


def _where(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
    return build.put("where", _need(inputs), _need(inputs, 1), _need(inputs, 2))


def _comparison(kind: str, swapped: bool) -> Rule:
    def rule(build: TapeBuilder, inputs: Sequence[int | None], attributes: Attributes) -> int:
        pair = (_need(inputs), _need(inputs, 1))
        return build.put(kind, *(pair[::-1] if swapped else pair))

    return rule


def _logic(kind: str) -> Rule:
    return lambda build, inputs, attributes: build.put(kind, *(i for i in inputs if i is not None))


RULES: dict[str, Rule] = {
    "Sub": _sub,
    "Div": _div,
    "Neg": _neg,
    "Identity": _same,
    "Cast": _same,
    "Mean": _mean,
    "Pow": _pow,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Elu": _elu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Softsign": _softsign,
    "Mish": _mish,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Greater": _comparison("gt", False),
    "GreaterOrEqual": _comparison("ge", False),
    "Less": _comparison("gt", True),
    "LessOrEqual": _comparison("ge", True),
    "And": _logic("and"),
    "Or": _logic("or"),
    "Not": _logic("not"),
}
CONDITIONS = frozenset("Greater GreaterOrEqual Less LessOrEqual And Or Not".split())
