"""Normal forms of elementwise expressions in one variable: equal forms are equal functions, everywhere.

A form is a polynomial over atoms; an atom is the variable, or a function of a form. Values on a grid cannot show that
two functions are the same, since a threshold may lie between two points of the grid or beyond its ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from verinet.frontends.call import OnnxNode

_MOST = 24  # terms of a form
_HIGHEST = 4  # power


@dataclass(frozen=True, slots=True)
class Atom:
    """The variable (without `inner`), or `name` of a form; a Clip has limits."""

    name: str
    inner: Form = ()
    low: float = -math.inf
    high: float = math.inf


Monomial = tuple[Atom, ...]
Form = tuple[tuple[Monomial, float], ...]
"""Terms in a fixed order; no factor is 0."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a comparison asks: whether `positive` is above 0. At 0 itself it may say either."""

    positive: Form


X = Atom("x")
VARIABLE: Form = (((X,), 1.0),)
ONE: Form = (((), 1.0),)


class _NoForm(Exception):  # noqa: N818 - never leaves this module
    """The expression is outside of what can be brought into normal form."""


def form_of(nodes: Sequence[OnnxNode], root: str, constants: Mapping[str, float]) -> Form | None:
    """Normal form of the last node's output as a function of `root`; None where it has none."""
    known: dict[str, Form | Condition] = {root: VARIABLE, **{k: constant(c) for k, c in constants.items()}}
    try:
        for node in nodes:
            known[node.outputs[0]] = _value(node, [known[name] if name else None for name in node.inputs])
    except (_NoForm, OverflowError, ZeroDivisionError):
        return None
    found = known[nodes[-1].outputs[0]]
    return None if isinstance(found, Condition) else found


def constant(value: float) -> Form:
    if not math.isfinite(value):
        raise _NoForm
    return (((), value),) if value else ()


def _ordered(terms: Mapping[Monomial, float]) -> Form:
    if len(terms) > _MOST or not all(math.isfinite(c) for c in terms.values()):
        raise _NoForm
    return tuple(sorted(((m, c) for m, c in terms.items() if c), key=repr))


def add(left: Form, right: Form) -> Form:
    terms = dict(left)
    for monomial, factor in right:
        terms[monomial] = terms.get(monomial, 0.0) + factor
    return _ordered(terms)


def scale(form: Form, factor: float) -> Form:
    return _ordered({m: c * factor for m, c in form})


def multiply(left: Form, right: Form) -> Form:
    terms: dict[Monomial, float] = {}
    for m, c in left:
        for n, d in right:
            key = _product(m + n)
            terms[key] = terms.get(key, 0.0) + c * d
    return _ordered(terms)


def _product(atoms: Monomial) -> Monomial:
    """Atoms in order, with all exponentials joined: e^p e^q = e^(p + q)."""
    powers = [a for a in atoms if a.name == "Exp"]
    rest = [a for a in atoms if a.name != "Exp"]
    if len(rest) > 2 * _HIGHEST:
        raise _NoForm
    if powers:
        exponent: Form = ()
        for atom in powers:
            exponent = add(exponent, atom.inner)
        rest += [Atom("Exp", exponent)] if exponent else []
    return tuple(sorted(rest, key=repr))


def number(form: Form) -> float | None:
    """The value of a constant form."""
    if not form:
        return 0.0
    return form[0][1] if len(form) == 1 and not form[0][0] else None


def _one_plus_exp(form: Form) -> Form | None:
    """p where the form is 1 + e^p."""
    terms = dict(form)
    if len(terms) != 2 or terms.pop((), 0.0) != 1.0:
        return None
    ((monomial, factor),) = terms.items()
    return monomial[0].inner if factor == 1.0 and len(monomial) == 1 and monomial[0].name == "Exp" else None


def function(name: str, inner: Form) -> Form:
    """`name` of a form that is no constant."""
    if number(inner) is not None:
        raise _NoForm
    exponent = _one_plus_exp(inner) if name == "Log" else None
    return (((Atom(name, inner) if exponent is None else Atom("Softplus", exponent),), 1.0),)


def reciprocal(form: Form) -> Form:
    value = number(form)
    if value is not None:
        return constant(1.0 / value)
    exponent = _one_plus_exp(form)
    if exponent is not None:
        return function("Sigmoid", scale(exponent, -1.0))
    leading = form[-1][1]
    return scale(function("Reciprocal", scale(form, 1.0 / leading)), 1.0 / leading)


def clip(form: Form, low: float, high: float) -> Form:
    """min(max(form, low), high) as c + s clip(q, ., .), where q has no constant and its last factor is 1."""
    if low > high or math.isnan(low) or math.isnan(high):
        raise _NoForm
    if low == -math.inf and high == math.inf:
        return form
    value = number(form)
    if value is not None:
        return constant(min(max(value, low), high))
    terms = dict(form)
    offset = terms.pop((), 0.0)
    inner = _ordered(terms)
    factor = inner[-1][1]
    inner = scale(inner, 1.0 / factor)
    ends = sorted(((low - offset) / factor, (high - offset) / factor))
    atom = Atom("Clip", inner, *ends)
    if len(inner) == 1 and len(inner[0][0]) == 1 and inner[0][0][0].name == "Clip":
        nested = inner[0][0][0]
        atom = replace(nested, low=max(nested.low, ends[0]), high=min(nested.high, ends[1]))
        if atom.low > atom.high:
            raise _NoForm
    return add(constant(offset), (((atom,), factor),))


def _slope(form: Form) -> float:
    """a where the form is a x."""
    if not form:
        return 0.0
    if len(form) != 1 or form[0][0] != (X,):
        raise _NoForm
    return form[0][1]


def kinked(right: float, left: float) -> Form:
    """right x where x > 0, left x elsewhere."""
    return add(scale(VARIABLE, left), scale(clip(VARIABLE, 0.0, math.inf), right - left))


def _extreme(name: str, left: Form, right: Form) -> Form:
    """Of a form and a constant, or of two multiples of x."""
    for one, other in ((left, right), (right, left)):
        limit = number(other)
        if limit is not None:
            return clip(one, limit, math.inf) if name == "Max" else clip(one, -math.inf, limit)
    ends = sorted((_slope(left), _slope(right)))
    return kinked(ends[1], ends[0]) if name == "Max" else kinked(ends[0], ends[1])


def _choice(condition: Condition, yes: Form, no: Form) -> Form:
    if yes == no:
        return yes
    sense = _slope(condition.positive)
    if sense == 0.0:
        raise _NoForm
    right, left = (yes, no) if sense > 0 else (no, yes)
    return kinked(_slope(right), _slope(left))


def _power(base: Form, exponent: Form) -> Form:
    degree = number(exponent)
    if degree is None or not degree.is_integer() or not 1 <= degree <= _HIGHEST:
        raise _NoForm
    result = base
    for _ in range(int(degree) - 1):
        result = multiply(result, base)
    return result


_UNARY = frozenset(("Abs", "Erf", "Exp", "Log", "Sigmoid", "Softplus", "Sqrt", "Tanh"))
_BINARY: Mapping[str, Callable[[Form, Form], Form]] = {
    "Add": add,
    "Sub": lambda p, q: add(p, scale(q, -1.0)),
    "Mul": multiply,
    "Div": lambda p, q: multiply(p, reciprocal(q)),
    "Pow": _power,
    "Max": lambda p, q: _extreme("Max", p, q),
    "Min": lambda p, q: _extreme("Min", p, q),
}


def _value(node: OnnxNode, inputs: Sequence[Form | Condition | None]) -> Form | Condition:
    if node.op == "Where" and isinstance(inputs[0], Condition):
        return _choice(inputs[0], _form(inputs[1]), _form(inputs[2]))
    first = _form(inputs[0])
    if node.op in ("Identity", "Cast"):
        return first
    if node.op in _UNARY:
        return function(node.op, first)
    if node.op in _BINARY:
        return _BINARY[node.op](first, _form(inputs[1]))
    if node.op in ("Greater", "GreaterOrEqual"):
        return Condition(add(first, scale(_form(inputs[1]), -1.0)))
    if node.op in ("Less", "LessOrEqual"):
        return Condition(add(_form(inputs[1]), scale(first, -1.0)))
    return _one_input(node, first, inputs)


def _one_input(node: OnnxNode, first: Form, inputs: Sequence[Form | Condition | None]) -> Form:
    if node.op == "Neg":
        return scale(first, -1.0)
    if node.op == "Reciprocal":
        return reciprocal(first)
    if node.op == "Relu":
        return clip(first, 0.0, math.inf)
    if node.op == "HardSigmoid":
        slope, offset = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
        return clip(add(scale(first, slope), constant(offset)), 0.0, 1.0)
    if node.op == "Clip":
        return clip(first, _end(node, inputs, 1, "min", -math.inf), _end(node, inputs, 2, "max", math.inf))
    raise _NoForm


def _end(node: OnnxNode, inputs: Sequence[Form | Condition | None], position: int, name: str, default: float) -> float:
    given = inputs[position] if position < len(inputs) else None
    if given is None:
        return float(node.attributes.get(name, default))
    found = number(_form(given))
    if found is None:
        raise _NoForm
    return found


def _form(value: Form | Condition | None) -> Form:
    if value is None or isinstance(value, Condition):
        raise _NoForm
    return value


def alike(left: Form, right: Form, tolerance: float) -> bool:
    """The same up to a relative `tolerance` in each number: one function with slightly different constants."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for monomial, factor in left:
        at = next(
            (i for i, (m, c) in enumerate(rest) if _near(factor, c, tolerance) and _same(monomial, m, tolerance)), -1
        )
        if at < 0:
            return False
        del rest[at]
    return True


def _near(left: float, right: float, tolerance: float) -> bool:
    return left == right or abs(left - right) <= tolerance * abs(right)


def _same(left: Monomial, right: Monomial, tolerance: float) -> bool:
    return len(left) == len(right) and all(
        a.name == b.name
        and _near(a.low, b.low, tolerance)
        and _near(a.high, b.high, tolerance)
        and alike(a.inner, b.inner, tolerance)
        for a, b in zip(left, right, strict=True)
    )
