"""Expressions from users: a text in Python's syntax, or a callable that is run once on a symbol."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from verinet.errors import UsageError
from verinet.ops.expression.lowering import lower
from verinet.ops.expression.tape import Tape, TapeBuilder

FUNCTIONS: dict[str, str] = {
    **{name.lower(): name for name in "Exp Log Sqrt Sin Cos Tan Tanh Sigmoid Erf Atan Asin Acos Sinh Cosh".split()},
    **{name.lower(): name for name in "Asinh Softplus Relu Abs Sign Reciprocal Neg Mish Softsign".split()},
    "silu": "Swish",
    "gelu": "Gelu",
    "maximum": "Max",
    "minimum": "Min",
    "max": "Max",
    "min": "Min",
    "where": "Where",
    "pow": "Pow",
    "clip": "Clip",
    "clamp": "Clip",
    "arctan": "Atan",
    "arcsin": "Asin",
    "arccos": "Acos",
    "arcsinh": "Asinh",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "true_divide": "Div",
    "square": "Square",
}
"""Names that expressions may call, and the ONNX operator (or "Square") each stands for."""

_TYPES: dict[type[ast.AST], str] = {
    ast.Add: "Add",
    ast.Sub: "Sub",
    ast.Mult: "Mul",
    ast.Div: "Div",
    ast.Pow: "Pow",
    ast.USub: "Neg",
    ast.Gt: "Greater",
    ast.GtE: "GreaterOrEqual",
    ast.Lt: "Less",
    ast.LtE: "LessOrEqual",
    ast.And: "And",
    ast.Or: "Or",
}
_EXACT: dict[str, Callable[[TapeBuilder], int]] = {
    "pi": lambda build: build.mul(build.const(4.0), build.put("Atan", build.const(1.0))),
    "e": lambda build: build.put("Exp", build.const(1.0)),
}
"""Numbers that no float holds: as steps they are enclosed like everything else."""


class Symbol:
    """A value that is still an expression. Python's operators, torch's elementwise functions and methods grow it."""

    def __init__(self, build: TapeBuilder, step: int) -> None:
        self._build, self._step = build, step

    def apply(self, op: str, *others: Any, swapped: bool = False) -> Symbol:
        """An ONNX operator on this value and numbers or symbols."""
        steps = [self._step, *(_step_of(self._build, other) for other in others)]
        if op == "Square":
            return Symbol(self._build, self._build.mul(self._step, self._step))
        found = lower(self._build, op, steps[::-1] if swapped else steps, {})
        if found is None:
            raise UsageError(
                f"'{op}' cannot be part of an expression", hint=f"known are {', '.join(sorted(FUNCTIONS))}"
            )
        return Symbol(self._build, found)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Symbol:
        """torch.exp(symbol) and the like."""
        return _called(getattr(function, "__name__", str(function)).strip("_"), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in FUNCTIONS:
            raise AttributeError(f"an expression has no '{name}'")
        return lambda *args, **kwargs: _called(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Symbol:
        return self.apply("Add", other)

    def __radd__(self, other: Any) -> Symbol:
        return self.apply("Add", other)

    def __sub__(self, other: Any) -> Symbol:
        return self.apply("Sub", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self.apply("Sub", other, swapped=True)

    def __mul__(self, other: Any) -> Symbol:
        return self.apply("Mul", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.apply("Mul", other)

    def __truediv__(self, other: Any) -> Symbol:
        return self.apply("Div", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.apply("Div", other, swapped=True)

    def __pow__(self, other: Any) -> Symbol:
        return self.apply("Pow", other)

    def __rpow__(self, other: Any) -> Symbol:
        return self.apply("Pow", other, swapped=True)

    def __neg__(self) -> Symbol:
        return self.apply("Neg")

    def __abs__(self) -> Symbol:
        return self.apply("Abs")

    def __gt__(self, other: Any) -> Symbol:
        return self.apply("Greater", other)

    def __ge__(self, other: Any) -> Symbol:
        return self.apply("GreaterOrEqual", other)

    def __lt__(self, other: Any) -> Symbol:
        return self.apply("Less", other)

    def __le__(self, other: Any) -> Symbol:
        return self.apply("LessOrEqual", other)

    def __bool__(self) -> bool:
        raise UsageError(
            "an expression has no truth value, so 'if' and 'and' cannot depend on it",
            hint="write torch.where(x > 0, a, b), or where(x > 0, a, b) in a text",
        )


def _unknown(name: str) -> UsageError:
    return UsageError(f"'{name}' cannot be part of an expression", hint=f"known are {', '.join(sorted(FUNCTIONS))}")


def _step_of(build: TapeBuilder, value: Any) -> int:
    if isinstance(value, Symbol):
        return value._step
    try:
        return build.const(float(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{value!r} cannot be part of an expression of one variable") from error


def _called(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Symbol:
    """A function by its name; keywords min and max belong to clamp."""
    name = {"absolute": "abs", "negative": "neg"}.get(name, name)
    symbols = [a for a in (*args, *kwargs.values()) if isinstance(a, Symbol)]
    if not symbols:
        raise UsageError(f"'{name}' was called without the variable")
    build = symbols[0]._build
    if name in ("clamp", "clip"):
        ends = [*args[1:], *([None] * 2)][:2]
        ends = [kwargs.get(key, end) for key, end in zip(("min", "max"), ends, strict=True)]
        steps = [None if end is None else _step_of(build, end) for end in ends]
        return Symbol(build, lower(build, "Clip", [_step_of(build, args[0]), *steps], {}) or 0)
    if name not in FUNCTIONS:
        raise _unknown(name)
    first = args[0] if isinstance(args[0], Symbol) else Symbol(build, _step_of(build, args[0]))
    return first.apply(FUNCTIONS[name], *args[1:])


def traced(function: Callable[..., Any], parameters: int = 0) -> Tape:
    """The tape of a callable f(x, *parameters), found by running it once on symbols.

    Raises:
        UsageError: it does something that is no expression of x, such as branching on its value.
    """
    build = TapeBuilder()
    given = [Symbol(build, 0), *(Symbol(build, build.new_parameter()) for _ in range(parameters))]
    found = function(*given)
    if not isinstance(found, Symbol):
        raise UsageError("the function does not return an expression of its argument")
    return build.finish(found._step)


def parsed(text: str, parameters: Sequence[str] = ()) -> Tape:
    """The tape of a text such as "x*exp(-exp(-x))" in the variable x and named parameters.

    Raises:
        UsageError: text that is no such expression; the message shows the place.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"the expression '{text}' cannot be read: {error}") from error

    build = TapeBuilder()
    names = {"x": Symbol(build, 0), **{name: Symbol(build, build.new_parameter()) for name in parameters}}
    return build.finish(_Reader(text, build, names).read(tree.body)._step)


class _Reader:
    """Walks a syntax tree; only numbers, known names, operators and calls of known functions are understood."""

    def __init__(self, text: str, build: TapeBuilder, names: dict[str, Symbol]) -> None:
        self.text, self.build, self.names = text, build, names

    def read(self, node: ast.expr) -> Symbol:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return Symbol(self.build, self.build.const(float(node.value)))
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = self.read(node.operand)
            return inner if isinstance(node.op, ast.UAdd) else -inner
        if isinstance(node, ast.BinOp):
            return self._joined(node, _TYPES.get(type(node.op)), [node.left, node.right])
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self._joined(node, _TYPES.get(type(node.ops[0])), [node.left, node.comparators[0]])
        if isinstance(node, ast.BoolOp):
            return self._joined(node, _TYPES.get(type(node.op)), node.values[:2])
        if isinstance(node, ast.IfExp):
            return _called("where", [self.read(part) for part in (node.test, node.body, node.orelse)], {})
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return _called(node.func.id, [self.read(part) for part in node.args], {})
        raise self._wrong(node)

    def _name(self, node: ast.Name) -> Symbol:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in _EXACT:
            return Symbol(self.build, _EXACT[node.id](self.build))
        raise self._wrong(node)

    def _joined(self, node: ast.expr, op: str | None, parts: Sequence[ast.expr]) -> Symbol:
        left, right = (self.read(part) for part in parts)
        if op is None:
            raise self._wrong(node)
        return left.apply(op, right)

    def _wrong(self, node: ast.expr) -> UsageError:
        part = ast.get_source_segment(self.text.strip(), node) or self.text
        return UsageError(
            f"'{part}' is not understood in the expression '{self.text}'",
            where=f"column {node.col_offset + 1}",
            hint=f"numbers, x, + - * / **, comparisons, and {', '.join(sorted(FUNCTIONS))}",
        )
