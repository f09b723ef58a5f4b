"""An expression of one variable as a list of steps, in order of evaluation; equal steps are kept once.

Division is multiplication by a reciprocal, and subtraction is addition of a negative, so few kinds of steps remain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from verinet.errors import UsageError

BINARY = ("add", "mul", "max", "min")
COMPARE = ("gt", "ge")
LOGIC = ("and", "or", "not")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on earlier steps.

    `kind` is "x", "const" (with `number`), "param" (`number` is its index), "neg", "where", a name in BINARY, COMPARE
    or LOGIC, or the ONNX name of a registered function of one variable (with `number` its exponent or slope, if any).
    """

    kind: str
    inputs: tuple[int, ...] = ()
    number: float = 0.0


@dataclass(frozen=True)
class Tape:
    """Steps in order; step 0 is the variable and the last one is the result. `parameters` tensors go in by index."""

    steps: tuple[Step, ...]
    parameters: int = 0

    @property
    def constants(self) -> tuple[float, ...]:
        """The numbers that occur as constants: likely places of kinks."""
        return tuple(step.number for step in self.steps if step.kind == "const")

    @property
    def nonlinear(self) -> int:
        """How many steps are not affine in the variable."""
        varying = self._varying()
        count = 0
        for step in self.steps:
            moving = [i for i in step.inputs if i in varying]
            affine = step.kind in ("x", "const", "param", "neg", "add", *COMPARE, *LOGIC)
            affine = affine or (step.kind == "mul" and len(moving) < 2)
            count += bool(moving) and not affine
        return count

    def _varying(self) -> set[int]:
        found: set[int] = set()
        for position, step in enumerate(self.steps):
            if step.kind == "x" or found.intersection(step.inputs):
                found.add(position)
        return found


@dataclass
class TapeBuilder:
    """Grows a tape; methods return the number of a step. Constants are folded where that is exact."""

    steps: list[Step] = field(default_factory=lambda: [Step("x")])
    parameters: int = 0
    _known: dict[Step, int] = field(default_factory=lambda: {Step("x"): 0})

    def put(self, kind: str, *inputs: int, number: float = 0.0) -> int:
        """Append a step, or find the equal one."""
        order = tuple(sorted(inputs)) if kind in BINARY else inputs
        step = Step(kind, order, number)
        if step not in self._known:
            self._known[step] = len(self.steps)
            self.steps.append(step)
        return self._known[step]

    def const(self, value: float) -> int:
        """A number.

        Raises:
            UsageError: it is not finite.
        """
        if not math.isfinite(value):
            raise UsageError(f"the number {value} cannot be part of an expression")
        return self.put("const", number=float(value))

    def new_parameter(self) -> int:
        """A step for a further parameter tensor."""
        self.parameters += 1
        return self.put("param", number=float(self.parameters - 1))

    def neg(self, a: int) -> int:
        step = self.steps[a]
        if step.kind == "const":
            return self.const(-step.number)
        return step.inputs[0] if step.kind == "neg" else self.put("neg", a)

    def sub(self, a: int, b: int) -> int:
        return self.put("add", a, self.neg(b))

    def div(self, a: int, b: int) -> int:
        return self.mul(a, self.put("Reciprocal", b))

    def mul(self, a: int, b: int) -> int:
        """The product; a square where both are the same step, which intervals know to be non-negative."""
        for one, other in ((a, b), (b, a)):
            if self.steps[one].kind == "const" and self.steps[one].number == 1.0:
                return other
        return self.put("Pow", a, number=2.0) if a == b else self.put("mul", a, b)

    def power(self, a: int, exponent: float) -> int:
        if exponent == 1.0:
            return a
        return self.const(1.0) if exponent == 0.0 else self.put("Pow", a, number=exponent)

    def clip(self, a: int, low: float | None, high: float | None) -> int:
        """min(max(a, low), high), as ONNX defines it."""
        lifted = a if low is None else self.put("max", a, self.const(low))
        return lifted if high is None else self.put("min", lifted, self.const(high))

    def finish(self, result: int) -> Tape:
        """The tape that ends with `result`, without the steps it does not need.

        Raises:
            UsageError: the result does not depend on the variable.
        """
        wanted = {result, 0}
        for position in range(result, -1, -1):
            if position in wanted:
                wanted.update(self.steps[position].inputs)
        order = sorted(wanted)
        if order[-1] == 0 or 0 not in {i for p in order for i in self.steps[p].inputs}:
            raise UsageError("the expression is no function of its variable, or only the variable itself")
        places = {old: new for new, old in enumerate(order)}
        steps = [self.steps[p] for p in order]
        moved = tuple(Step(s.kind, tuple(places[i] for i in s.inputs), s.number) for s in steps)
        return Tape(moved, self.parameters)
