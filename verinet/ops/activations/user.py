"""Activations that users add from Python: by an expression, or by f, f' and breakpoints whose claims are tried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from verinet.errors import UsageError
from verinet.ops.activations.registry import constant, register, table
from verinet.ops.scalar_function import ScalarFunction

_POINTS = 4001
_REACH = 12.0


def register_activation(
    name: str,
    function: str | Callable[..., Any],
    slope: Callable[[Tensor], Tensor] | None = None,
    breakpoints: Sequence[float] | None = None,
    **claims: Any,
) -> ScalarFunction:
    """Make an activation known under an ONNX operator's name, and return its record.

    With `function` alone, a text ("x*exp(-exp(-x))") or a callable made of Python's operators and torch's elementwise
    functions (`lambda x: x * torch.sigmoid(x)`), derivatives, curvature and rounding errors are derived and proved.

    With `slope` (f', vectorised) and `breakpoints` (inflections and kinks, in order) the claims are yours: they are
    tried out on samples, and a false one that the samples show raises an error, but they are not proved. Further
    claims by keyword are fields of `ScalarFunction`: `curvature` (a sign per piece; by default read off the samples),
    `kinks`, `extrema`, `bounds`, `slope_range`, `domain`, `inverse_slope`, `error_ulps`, `slope_ulps` and the floors.

    Args:
        name: "Name", or "domain::Name" for an operator of another ONNX domain. Names that are taken are refused.
        function: f, of one tensor.
        slope: f', of one tensor.
        breakpoints: where the curvature changes or the slope jumps.

    Raises:
        UsageError: a name that is taken, an expression that cannot be read, or a claim that the samples refute.
    """
    if name in table():
        raise UsageError(f"an activation named '{name}' exists already", hint="choose another name")
    if slope is None:
        if breakpoints is not None or claims or not (isinstance(function, str) or callable(function)):
            raise UsageError(
                f"the activation '{name}' needs either an expression alone, or f, f' and breakpoints",
                hint="without f' everything is derived, so nothing may be claimed",
            )
        record = from_expression(name, function)
    elif isinstance(function, str):
        raise UsageError(f"the activation '{name}' is an expression, so its slope is derived", hint="leave f' out")
    else:
        record = from_claims(name, function, slope, tuple(float(p) for p in breakpoints or ()), claims)
    register(name, constant(record))
    return record


def from_expression(name: str, function: str | Callable[..., Any], **parameters: Any) -> ScalarFunction:
    """The record of an expression in x; `parameters` are numbers or tensors (one entry per channel, say) by name."""
    from verinet.ops.expression.composed import compose
    from verinet.ops.expression.symbol import parsed, traced

    if isinstance(function, str):
        tape = parsed(function, tuple(parameters))
    else:
        tape = traced(function, len(parameters))
    return compose(name, tape, [torch.as_tensor(p, dtype=torch.float64) for p in parameters.values()])


def from_claims(
    name: str,
    function: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    breakpoints: tuple[float, ...],
    claims: dict[str, Any],
) -> ScalarFunction:
    """A record of claims that samples do not refute; see `register_activation`."""
    known = set(ScalarFunction.__dataclass_fields__) - {"name", "value", "slope", "breakpoints", "chart"}
    if set(claims) - known:
        raise UsageError(f"unknown claims for '{name}': {', '.join(sorted(set(claims) - known))}")
    if list(breakpoints) != sorted(set(breakpoints)):
        raise UsageError(f"the breakpoints of '{name}' are not in order, or not different", where=str(breakpoints))
    tried = _Samples(name, function, slope, breakpoints, claims)
    if "curvature" not in claims:
        claims = {**claims, "curvature": tried.curvature()}
    if "extrema" not in claims:
        claims = {**claims, "extrema": tried.extrema()}
    record = ScalarFunction(name=name, value=function, slope=slope, breakpoints=breakpoints, **claims)
    tried.check(record)
    return record


class _Samples:
    """Values and slopes on a grid in the domain, and what they say about claims."""

    def __init__(
        self,
        name: str,
        function: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor],
        breakpoints: tuple[float, ...],
        claims: dict[str, Any],
    ) -> None:
        self.name, self.function, self.slope, self.breakpoints = name, function, slope, breakpoints
        self.kinks = tuple(float(k) for k in claims.get("kinks", ()))
        low, high = claims.get("domain", (-math.inf, math.inf))
        reach = max([_REACH, *(2 * abs(p) for p in breakpoints)])
        low, high = max(low, -reach), min(high, reach)
        inside = (high - low) * 1e-6
        grid = torch.linspace(low + inside, high - inside, _POINTS, dtype=torch.float64)
        # Close to breakpoints too: one in the wrong place shows there.
        steps = 10.0 ** torch.linspace(-5.5, -2, 36, dtype=torch.float64)
        near = [p + side * steps for p in breakpoints for side in (1, -1)]
        grid = torch.cat([grid, *near]).unique()
        grid = grid[(grid > low) & (grid < high)]
        poles = claims.get("poles", ())
        self.grid = grid[torch.stack([(grid - p).abs() > 1e-3 for p in (*poles, math.inf)]).all(0)]
        self.values, self.slopes = self._run(function, "f"), self._run(slope, "f'")

    def _run(self, function: Callable[[Tensor], Tensor], what: str) -> Tensor:
        try:
            found = function(self.grid)
        except Exception as error:
            raise UsageError(f"{what} of '{self.name}' fails on a float64 tensor: {error}") from error
        if not isinstance(found, Tensor) or found.shape != self.grid.shape:
            raise UsageError(f"{what} of '{self.name}' must return a tensor of its argument's shape")
        if not bool(torch.isfinite(found).all()):
            place = float(self.grid[~torch.isfinite(found)][0])
            raise UsageError(f"{what} of '{self.name}' is not finite at {place:g}", hint="state its domain or poles")
        return found

    def _pieces(self) -> list[Tensor]:
        """Places of the grid in every piece, clear of the breakpoints."""
        ends = (-math.inf, *self.breakpoints, math.inf)
        return [
            ((self.grid > a + 1e-6) & (self.grid < b - 1e-6)).nonzero().reshape(-1)
            for a, b in zip(ends, ends[1:], strict=False)
        ]

    def _turning(self, part: Tensor) -> tuple[bool, bool]:
        """Whether f' rises, and whether it falls, somewhere on a piece, beyond rounding."""
        slopes = self.slopes[part]
        change, noise = slopes.diff(), 1e-12 * (1 + slopes.abs().max()) if part.numel() else 0.0
        return bool((change > noise).any()), bool((change < -noise).any())

    def curvature(self) -> tuple[int, ...]:
        """A sign per piece, from how f' moves there."""
        signs = []
        for number, part in enumerate(self._pieces()):
            rises, falls = self._turning(part)
            if rises and falls:
                raise self._refuted(
                    f"piece {number} is neither convex nor concave: a breakpoint is missing in it", part
                )
            signs.append(1 if rises else -1 if falls else 0)
        return tuple(signs)

    def extrema(self) -> tuple[float, ...]:
        """Where f' changes its sign, by bisection; at kinks the kink."""
        found: list[float] = [k for k in self.kinks]
        sign = torch.sign(self.slopes)
        for place in (sign[:-1] * sign[1:] < 0).nonzero().reshape(-1).tolist():
            low, high = float(self.grid[place]), float(self.grid[place + 1])
            for _ in range(80):
                middle = 0.5 * (low + high)
                same = float(self.slope(torch.tensor([middle], dtype=torch.float64))[0]) * float(sign[place]) > 0
                low, high = (middle, high) if same else (low, middle)
            found.append(0.5 * (low + high))
        found += self.grid[self.slopes == 0][:1].tolist() if not found else []
        return tuple(sorted(set(found)))

    def check(self, record: ScalarFunction) -> None:
        """Try the claims of a record.

        Raises:
            UsageError: naming the first claim that a sample refutes.
        """
        pieces = self._pieces()
        if len(record.curvature) != len(pieces) and record.period is None:
            raise UsageError(f"'{self.name}' has {len(pieces)} pieces but {len(record.curvature)} signs of curvature")
        for number, (part, sign) in enumerate(zip(pieces, record.curvature, strict=False)):
            rises, falls = self._turning(part)
            if record.period is None and ((falls and sign >= 0) or (rises and sign <= 0)):
                word = {1: "convex", -1: "concave", 0: "affine"}[sign]
                raise self._refuted(f"piece {number} is not {word}", part)
        if not set(record.kinks) <= set(self.breakpoints):
            raise UsageError(f"every kink of '{self.name}' must be a breakpoint")
        self._derivative()
        self._range("bounds", self.values, record.bounds)
        self._range("slope_range", self.slopes, record.slope_range)
        if record.jumps is None:
            self._joined()
        self._accuracy(record)

    def _accuracy(self, record: ScalarFunction) -> None:
        """f in float32 against f in float64: what the promise about rounding says of the former can be seen."""
        x = self.grid.float()
        single, double = self.function(x).double(), self.function(x.double())
        eps = torch.finfo(torch.float32).eps
        allowed = record.error_ulps * eps * (record.error_floor + double.abs()) + 2 * eps * double.abs()
        clear = torch.stack([(x - p).abs() > 1e-5 * (1 + abs(p)) for p in (*self.breakpoints, 1e30)]).all(0)
        wrong = clear & ((single - double).abs() > allowed)
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            raise UsageError(
                f"f of '{self.name}' is less accurate than claimed (error_ulps={record.error_ulps})",
                where=f"x = {float(x[place]):.6g}: off by {float((single - double).abs()[place] / eps):.3g} units",
                hint="raise error_ulps or error_floor, or write f without cancellation",
            )

    def _derivative(self) -> None:
        """f' against difference quotients, away from breakpoints."""
        step = 1e-5
        clear = torch.ones_like(self.grid, dtype=torch.bool)
        for point in self.breakpoints:
            clear &= (self.grid - point).abs() > 3 * step
        x = self.grid[clear][1:-1]
        quotient = (self.function(x + step) - self.function(x - step)) / (2 * step)
        here = self.slope(x)
        wrong = (quotient - here).abs() > 1e-4 * (1 + here.abs() + self.function(x).abs())
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            raise UsageError(
                f"f' of '{self.name}' is not the derivative of f",
                where=f"x = {float(x[place]):.6g}: f' says {float(here[place]):.6g}, "
                f"a difference quotient {float(quotient[place]):.6g}",
            )

    def _range(self, claim: str, found: Tensor, limits: tuple[float, float]) -> None:
        wrong = (found < limits[0]) | (found > limits[1])
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            raise UsageError(
                f"the claim {claim}={limits} of '{self.name}' is false",
                where=f"x = {float(self.grid[place]):.6g}, where it is {float(found[place]):.6g}",
            )

    def _joined(self) -> None:
        """At breakpoints f must not jump, and f' must not unless that is declared a kink."""
        for point in self.breakpoints:
            gap = 1e-9 * (1 + abs(point))
            sides = torch.tensor([point - gap, point + gap], dtype=torch.float64)
            values, slopes = self.function(sides), self.slope(sides)
            scale = 1 + float(slopes.abs().max()) + float(values.abs().max())
            if abs(float(values.diff())) > 1e-6 * scale:
                raise UsageError(f"'{self.name}' jumps at {point:g}", hint="state `jumps`, or use an expression")
            if abs(float(slopes.diff())) > 1e-6 * scale and point not in self.kinks:
                raise UsageError(f"the slope of '{self.name}' jumps at {point:g}", hint="list the point in `kinks`")

    def _refuted(self, what: str, part: Tensor) -> UsageError:
        ends = float(self.grid[part[0]]), float(self.grid[part[-1]])
        return UsageError(
            f"a claim about '{self.name}' is false: {what}",
            where=f"between {ends[0]:.4g} and {ends[1]:.4g}",
            hint="give all inflections and kinks as breakpoints, or give an expression and no claims",
        )
