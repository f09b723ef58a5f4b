"""Derivatives of elementwise functions, written as ONNX nodes.

At a kink the derivative is taken from one side, as a step function does: step(0) = 0. That value differs from the
derivative only on a null set, so bounds of it over a box are bounds of Clarke's generalised Jacobian inside the box
(Lee, Yu, Rival and Yang, On Correctness of Automatic Differentiation for Non-Differentiable Functions, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from verinet.frontends.derivative_tape import Step, Tangent, differentiates

Slope = Callable[[Step], str]
"""From a step to the name of f'(x), in the shape of x. `step.value(0)` is x and `step.node.outputs[0]` f(x)."""


def _onnx_type(step: Step) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(step.tape.dtype))


def above(step: Step, x: str, limit: float) -> str:
    """1 where x > limit, else 0."""
    return step.emit("Cast", step.emit("Greater", x, step.tape.number(limit)), to=_onnx_type(step))


def _relu(step: Step) -> str:
    return above(step, step.value(0), 0.0)


def _between(step: Step, x: str, low: float, high: float) -> str:
    """1 where low < x <= high, as a difference of two steps."""
    parts = [above(step, x, limit) for limit in (low, high) if math.isfinite(limit)]
    if len(parts) == 2:
        return step.emit("Sub", *parts)
    if not parts:
        raise step.refused("without limits")
    one = step.tape.number(1.0)
    return parts[0] if math.isfinite(low) else step.emit("Sub", one, parts[0])


def _clip(step: Step) -> str:
    limits = [-math.inf, math.inf]
    for place, name in enumerate(("min", "max")):
        if name in step.node.attributes:
            limits[place] = float(step.attribute(name))
        elif step.given(place + 1):
            limits[place] = float(step.known(place + 1).reshape(()))
    return _between(step, step.value(0), *limits)


def _leaky(step: Step) -> str:
    where = step.emit("Greater", step.value(0), step.tape.number(0.0))
    one = step.tape.number(1.0)
    if step.node.op == "PRelu":
        step.known(1)
        return step.emit("Where", where, one, step.value(1))
    slope = step.tape.number(_attribute(step, "alpha", 0.01))
    return step.emit("Where", where, one, slope)


def _attribute(step: Step, name: str, default: float) -> float:
    """A float attribute: the file holds float32 numbers, and so does the standard's default."""
    import numpy as np

    return float(np.float32(step.attribute(name, default)))


def _elu(step: Step) -> str:
    """exp(min(x, 0)) times alpha below 0; one function without a jump for alpha = 1."""
    x, alpha = step.value(0), _attribute(step, "alpha", 1.0)
    zero = step.tape.number(0.0)
    falling = step.emit("Exp", step.emit("Min", x, zero))
    if alpha == 1.0:
        return falling
    scaled = step.emit("Mul", falling, step.tape.number(alpha))
    return step.emit("Where", step.emit("Greater", x, zero), step.tape.number(1.0), scaled)


def _hard_sigmoid(step: Step) -> str:
    """alpha where 0 < alpha x + beta <= 1, else 0."""
    alpha, beta = (step.tape.number(_attribute(step, n, d)) for n, d in (("alpha", 0.2), ("beta", 0.5)))
    inner = step.emit("Add", step.emit("Mul", step.value(0), alpha), beta)
    return step.emit("Mul", _between(step, inner, 0.0, 1.0), alpha)


def _sigmoid(step: Step) -> str:
    """s (1 - s)."""
    s = step.node.outputs[0]
    return step.emit("Mul", s, step.emit("Sub", step.tape.number(1.0), s))


def _one_minus_square(step: Step) -> str:
    """tanh' = 1 - tanh^2."""
    y = step.node.outputs[0]
    return step.emit("Sub", step.tape.number(1.0), step.emit("Mul", y, y))


def _tan(step: Step) -> str:
    y = step.node.outputs[0]
    return step.emit("Add", step.tape.number(1.0), step.emit("Mul", y, y))


def _atan(step: Step) -> str:
    x = step.value(0)
    return step.emit("Reciprocal", step.emit("Add", step.tape.number(1.0), step.emit("Mul", x, x)))


def _softsign(step: Step) -> str:
    """1 / (1 + |x|)^2."""
    size = step.emit("Add", step.tape.number(1.0), step.emit("Abs", step.value(0)))
    return step.emit("Reciprocal", step.emit("Mul", size, size))


def _reciprocal(step: Step) -> str:
    y = step.node.outputs[0]
    return step.emit("Neg", step.emit("Mul", y, y))


def _sqrt(step: Step) -> str:
    return step.emit("Mul", step.emit("Reciprocal", step.node.outputs[0]), step.tape.number(0.5))


def _bell(step: Step, x: str) -> str:
    """exp(-x^2)."""
    return step.emit("Exp", step.emit("Neg", step.emit("Mul", x, x)))


def _erf(step: Step) -> str:
    return step.emit("Mul", _bell(step, step.value(0)), step.tape.number(2 / math.sqrt(math.pi)))


def _gelu(step: Step) -> str:
    """Phi(x) + x phi(x), with the normal distribution's Phi and phi; Hendrycks and Gimpel 2016, equation 1."""
    if step.attribute("approximate", "none") != "none":
        raise step.refused("the approximation by tanh")
    x, half = step.value(0), step.tape.number(0.5)
    u = step.emit("Mul", x, step.tape.number(math.sqrt(0.5)))
    share = step.emit("Mul", step.emit("Add", step.emit("Erf", u), step.tape.number(1.0)), half)
    density = step.emit("Mul", _bell(step, u), step.tape.number(1 / math.sqrt(2 * math.pi)))
    return step.emit("Add", share, step.emit("Mul", x, density))


def _of_input(op: str) -> Slope:
    """The derivative is another ONNX operator of x."""
    return lambda step: step.emit(op, step.value(0))


def _minus_sine(step: Step) -> str:
    return step.emit("Neg", step.emit("Sin", step.value(0)))


SLOPES: dict[str, Slope] = {
    "Abs": _of_input("Sign"),
    "Atan": _atan,
    "Clip": _clip,
    "Cos": _minus_sine,
    "Cosh": _of_input("Sinh"),
    "Elu": _elu,
    "Erf": _erf,
    "Exp": lambda step: step.node.outputs[0],
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Log": _of_input("Reciprocal"),
    "PRelu": _leaky,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Sin": _of_input("Cos"),
    "Sinh": _of_input("Cosh"),
    "Softplus": _of_input("Sigmoid"),
    "Softsign": _softsign,
    "Sqrt": _sqrt,
    "Tan": _tan,
    "Tanh": _one_minus_square,
}


@differentiates(*SLOPES)
def elementwise(step: Step) -> Sequence[Tangent | None]:
    """The chain rule: f'(x) times the tangent of x."""
    return [step.variable("Mul", step.only().name, SLOPES[step.node.op](step))]


@differentiates("Pow")
def power(step: Step) -> Sequence[Tangent | None]:
    """p x^(p - 1) for a constant p."""
    tangent, exponent = step.only(), step.known(1)
    if exponent.size != 1:
        raise step.refused("with several exponents")
    p = float(exponent.reshape(()))
    if (p - 1.0) + 1.0 != p:
        raise step.refused(f"with the exponent {p:g}")
    if p == 1.0:
        return [step.stretched(tangent, step.shape(0))]
    x = step.value(0)
    lower = x if p == 2.0 else step.emit("Pow", x, step.tape.number(p - 1.0))
    slope = step.emit("Mul", lower, step.tape.number(p))
    return [step.stretched(step.variable("Mul", tangent.name, slope), step.shape(0))]


@differentiates("Max", "Min")
def extreme(step: Step) -> Sequence[Tangent | None]:
    """The tangent of the larger (smaller) one of two inputs: t_b + [a > b] (t_a - t_b)."""
    if len(step.node.inputs) != 2:
        raise step.refused("of more than two inputs")
    order = (0, 1) if step.node.op == "Max" else (1, 0)
    first = step.emit("Greater", *(step.value(i) for i in order))  # true where input 0 is the result
    chosen = step.emit("Cast", first, to=_onnx_type(step))
    parts = [step.tangent(i) for i in (0, 1)]
    full = [None if t is None else step.stretched(t, step.shape(i)) for i, t in enumerate(parts)]
    if full[1] is None:
        return [None if full[0] is None else step.variable("Mul", full[0].name, chosen)]
    if full[0] is None:
        other = step.emit("Sub", step.tape.number(1.0), chosen)
        return [step.variable("Mul", full[1].name, other)]
    gap = step.emit("Sub", *(step.tape.varying(t).name for t in full if t is not None))
    return [step.variable("Add", full[1].name, step.emit("Mul", gap, chosen))]
