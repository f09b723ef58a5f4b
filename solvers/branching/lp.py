"""The linear program of one domain: multipliers and a candidate for leaves where slope optimisation has stalled.

With the bounds of a domain fixed, its best final row is the dual of a linear program: unknowns are the input and the
outputs of undecided nonlinear entries, constraints are their lines and the bounds of the layers. HiGHS (inside SciPy)
solves it. Nothing it says is trusted: its dual values become slopes and split multipliers, and the float64 engine
evaluates those like any others (weak duality: any values are sound); its primal point is only a candidate input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from verinet.ir.graph import Graph, total
from verinet.ops.base import LinearOp, NonlinearOp
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import SplitRows
from verinet.propagation.ends import seen
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Multipliers
from verinet.propagation.sweep import Layers

LIMIT = {"time_limit": 5.0}  # seconds of one program
BOUNDS = ("at least", "at most")  # constraints that stand for bounds of layers
PRICE = 1e3  # of breaking bounds, where no point satisfies them, in units of the goal
Floats = npt.NDArray[np.float64]
MOST_SYMBOLS = 2000  # unknowns
MOST_NUMBERS = 1 << 21  # coefficients of all constraints, and of the widest node


def available() -> bool:
    """SciPy is optional."""
    return find_spec("scipy") is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the solver said about one domain: only hints."""

    value: float  # least value of the row over the relaxation
    point: Tensor  # (1, inputs)
    multipliers: Multipliers  # one row
    splits: dict[int, SplitRows]  # of one row
    worst: tuple[int, int, float] | None  # node, entry and value of the input whose relaxation is used most


@dataclass(slots=True)
class _Rows:
    """Constraints: expression >= 0, each with what it stands for."""

    expressions: list[Tensor] = field(default_factory=list)  # (rows, 1 + symbols)
    owners: list[tuple[str, int, Tensor]] = field(default_factory=list)  # kind, node, entries

    def add(self, kind: str, node: int, entries: Tensor, expressions: Tensor) -> None:
        """`expressions` is (1 + symbols, entries)."""
        if entries.numel():
            self.expressions.append(expressions.T)
            self.owners.append((kind, node, entries))

    @property
    def numbers(self) -> int:
        return sum(e.numel() for e in self.expressions)


class Program:
    """Minimises a row of the output over the relaxation of one domain."""

    def __init__(self, graph: Graph, order: tuple[int, ...], layers: Layers, bounds: Mapping[int, Interval]) -> None:
        """`layers` of one domain in float64; `bounds` are those to be used as constraints where they are finite."""
        self.graph, self.layers = graph, layers
        self._order = order[::-1]
        self._free = {v: self._undecided(v) for v in self._order if isinstance(graph.nodes[v].op, NonlinearOp)}
        self.inputs = graph.input_size
        self.symbols = self.inputs + sum(int(m.sum()) for m in self._free.values())
        self.values: dict[int, Tensor] = {}  # (1 + symbols, entries) of every node: its value as an expression
        self._rows = _Rows()
        if self.supported:
            self._trace()
            self._bound(bounds)

    @property
    def supported(self) -> bool:
        """Every nonlinear node has lines in single inputs or is a maximum, and the program is small."""
        kinds = all(isinstance(self.graph.nodes[v].op, Elementwise | MaxLast) for v in self._free)
        widest = max(total(self.graph.nodes[v].shape) for v in self._order)
        small = self.symbols <= MOST_SYMBOLS and (1 + self.symbols) * widest <= MOST_NUMBERS
        return kinds and small and self._rows.numbers <= MOST_NUMBERS

    def _undecided(self, position: int) -> Tensor:
        """Entries (entries,) of a nonlinear node's output that need an unknown of their own."""
        node = self.graph.nodes[position]
        if isinstance(node.op, Elementwise):
            low, low_at, high, high_at = (t.reshape(-1) for t in self.layers.lines[position][:4])
            return (low != high) | (low_at != high_at)
        return torch.ones(total(node.shape), dtype=torch.bool)

    def _trace(self) -> None:
        """Every node as an expression of the unknowns, and the lines of undecided entries as constraints."""
        like = self.layers.lower
        first = like.new_zeros(1 + self.symbols, self.inputs)
        first[1 : 1 + self.inputs] = torch.eye(self.inputs, dtype=like.dtype)
        self.values[0], fresh = first, 1 + self.inputs
        for position in self._order:
            node = self.graph.nodes[position]
            if position == 0:
                continue
            shapes = self.graph.input_shapes(position)
            inputs = [self.values[i].reshape(-1, *s) for i, s in zip(node.inputs, shapes, strict=True)]
            if isinstance(node.op, LinearOp):
                # Joined, not written into: what `linear` returns may be its input, or one entry seen many times.
                parts = node.op.forward(*(t[:1] for t in inputs)), node.op.linear(*(t[1:] for t in inputs))
                self.values[position] = torch.cat(parts).reshape(1 + self.symbols, -1)
                continue
            mask = self._free[position]
            value = like.new_zeros(1 + self.symbols, mask.numel())
            chosen = mask.nonzero().squeeze(1)
            value[fresh + torch.arange(chosen.numel()), chosen] = 1.0
            fresh += chosen.numel()
            if isinstance(node.op, MaxLast):
                self._maximum(position, value)
            else:
                self._lines(position, value, chosen)
            self.values[position] = value

    def _lines(self, position: int, value: Tensor, chosen: Tensor) -> None:
        """An entrywise node: decided entries follow their line, the others lie between lines."""
        op, source = self.graph.nodes[position].op, self.values[self.graph.nodes[position].inputs[0]]
        low, low_at, high, high_at = (t.reshape(-1) for t in self.layers.lines[position][:4])
        decided = ~self._free[position]
        value[:, decided] = source[:, decided] * low[decided]
        value[0, decided] += low_at[decided]
        mine, z = value[:, chosen], source[:, chosen]
        above = z * high[chosen] - mine
        above[0] += high_at[chosen]
        self._rows.add("upper", position, chosen, above)
        hinge = op.function.hinge if isinstance(op, Elementwise) else None
        if hinge is None:
            under = mine - z * low[chosen]
            under[0] -= low_at[chosen]
            self._rows.add("lower", position, chosen, under)
            return
        for kind, slope in zip(("negative", "positive"), hinge, strict=True):
            self._rows.add(kind, position, chosen, mine - z * slope)

    def _maximum(self, position: int, value: Tensor) -> None:
        """A maximum is at least each candidate, and at most its upper line."""
        node = self.graph.nodes[position]
        candidates = self.values[node.inputs[0]].reshape(1 + self.symbols, value.shape[1], -1)
        entries = torch.arange(value.shape[1])
        for k in range(candidates.shape[2]):
            self._rows.add(f"candidate {k}", position, entries, value - candidates[:, :, k])
        slopes, offset = self.layers.lines[position][2], self.layers.lines[position][3]
        above = (candidates * slopes.reshape(1, value.shape[1], -1)).sum(2) - value
        above[0] += offset.reshape(-1)
        self._rows.add("upper", position, entries, above)

    def _bound(self, bounds: Mapping[int, Interval]) -> None:
        for position, pair in bounds.items():
            if position not in self.values:
                continue
            low, high = (t.reshape(-1) for t in pair)
            for kind, end, sign in zip(BOUNDS, (low, high), (1.0, -1.0), strict=True):
                chosen = torch.isfinite(end).nonzero().squeeze(1)
                if self._rows.numbers + chosen.numel() * (1 + self.symbols) > MOST_NUMBERS:
                    continue  # a weaker program is a program too
                expression = sign * self.values[position][:, chosen]
                expression[0] -= sign * end[chosen]
                self._rows.add(kind, position, chosen, expression)

    def minimise(self, row: Tensor) -> Answer | None:
        """Solve for a row (outputs,) of the last node; None where the solver has no answer."""
        if not self.supported:
            return None
        goal = (self.values[self._order[-1]] @ row.reshape(-1)).numpy()
        found = self._solve(goal, None)
        if found is None:
            # Nothing satisfies the bounds. With a price on breaking them the duals say so in finite numbers.
            found = self._solve(goal, PRICE * (1.0 + float(np.abs(goal).sum())))
        if found is None:
            return None
        duals, unknowns, value = found
        multipliers, splits = self._multipliers(duals)
        return Answer(value, unknowns[None, 1 : 1 + self.inputs], multipliers, splits, self._worst(unknowns))

    def _solve(self, goal: Floats, price: float | None) -> tuple[Tensor, Tensor, float] | None:
        """Duals, unknowns and value; bounds may be broken at this price per unit of the worst. None: no solution."""
        from scipy.optimize import linprog

        whole = torch.cat(self._rows.expressions).numpy() if self._rows.expressions else np.zeros((0, len(goal)))
        box = np.stack([self.layers.lower[0].numpy(), self.layers.upper[0].numpy()], 1)
        limits = np.concatenate([box, np.tile([-np.inf, np.inf], (self.symbols - self.inputs, 1))])
        matrix, costs = -whole[:, 1:], goal[1:]
        if price is not None:
            soft = [np.full(len(e), float(kind in BOUNDS)) for kind, _, e in self._rows.owners]
            matrix = np.column_stack([matrix, -np.concatenate([*soft, np.zeros(0)])])
            costs, limits = np.append(costs, price), np.vstack([limits, [[0.0, np.inf]]])
        if not (np.isfinite(matrix).all() and np.isfinite(costs).all() and np.isfinite(whole[:, 0]).all()):
            return None  # an overflow: nothing that could be solved
        found = linprog(costs, A_ub=matrix, b_ub=whole[:, 0], bounds=limits, method="highs", options=LIMIT)
        if found.status != 0:
            return None
        duals = torch.from_numpy(np.maximum(0.0, -np.asarray(found.ineqlin.marginals, dtype=np.float64)))
        unknowns = torch.from_numpy(np.concatenate([[1.0], found.x[: self.symbols]]))
        return duals, unknowns, float(found.fun + goal[0])

    def _multipliers(self, duals: Tensor) -> tuple[Multipliers, dict[int, SplitRows]]:
        """Slopes from the duals of lines, split multipliers from those of bounds."""
        shares: dict[int, dict[str, Tensor]] = {v: {} for v in self._free}
        betas: dict[int, list[tuple[Tensor, Tensor, float]]] = {}
        begin = 0
        for kind, position, entries in self._rows.owners:
            part = duals[begin : begin + entries.numel()]
            begin += entries.numel()
            if kind in BOUNDS:
                used = part > 0
                betas.setdefault(position, []).append((entries[used], part[used], 1.0 if kind == BOUNDS[0] else -1.0))
            else:
                whole = duals.new_zeros(self._free[position].numel())
                whole[entries] = part
                shares[position][kind] = whole
        for position, own in shares.items():
            if "negative" in own:
                betas.setdefault(self.graph.nodes[position].inputs[0], []).extend(self._crossed(position, own))
        multipliers = {v: self._own(v, shares[v]) for v in self._free}
        return multipliers, {v: self._splits(v, parts) for v, parts in betas.items()}

    def _crossed(self, position: int, shares: dict[str, Tensor]) -> list[tuple[Tensor, Tensor, float]]:
        """Where a lower and the upper line of a hinge both have duals, what they say together is a bound of its input.

        With the chord s z + o through both ends, (s z + o) - p z = (p - s)(u - z) and (s z + o) - n z = (s - n)(z - l).
        """
        op, slope = self.graph.nodes[position].op, self.layers.lines[position][2].reshape(-1)
        if not isinstance(op, Elementwise) or op.function.hinge is None:
            return []
        negative, positive = op.function.hinge
        below = shares["negative"] + shares["positive"]
        share = torch.minimum(shares["upper"], below) / below.clamp(min=1e-300)
        entries = (share > 0).nonzero().squeeze(1)
        at_low = (share * shares["negative"] * (slope - negative))[entries].clamp(min=0)
        at_high = (share * shares["positive"] * (positive - slope))[entries].clamp(min=0)
        return [(entries, at_low, 1.0), (entries, at_high, -1.0)]

    def _own(self, position: int, shares: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Multipliers of one node: its defaults, where the duals say nothing."""
        node = self.graph.nodes[position]
        pairs = [self.layers.known[i] for i in node.inputs]
        if not isinstance(node.op, NonlinearOp):
            raise TypeError(node.name)
        values = node.op.multipliers(*seen(node.op, pairs))
        values = tuple(v.expand(1, *v.shape[1:]).clone() for v in values)
        if isinstance(node.op, MaxLast):
            stacked = torch.stack([shares[f"candidate {k}"] for k in range(values[0].shape[-1])], 1)
            mass = stacked.sum(1, keepdim=True)
            old = values[0].reshape(stacked.shape)
            weights = torch.where(mass > 0, stacked / mass.clamp(min=1e-300), old).reshape(values[0].shape)
            return (weights, *values[1:])
        hinge = node.op.function.hinge if isinstance(node.op, Elementwise) else None
        if hinge is None or "negative" not in shares:
            return values
        mass = shares["negative"] + shares["positive"]
        slope = (hinge[0] * shares["negative"] + hinge[1] * shares["positive"]) / mass.clamp(min=1e-300)
        known = pairs[0][0].shape
        return (torch.where(mass > 0, slope, values[0].expand(known).reshape(-1)).reshape(known),)

    def _splits(self, position: int, parts: list[tuple[Tensor, Tensor, float]]) -> SplitRows:
        low, high = (t.reshape(-1) for t in self.layers.known[position])
        index = torch.cat([e for e, _, _ in parts])
        sign = torch.cat([torch.full_like(b, s) for _, b, s in parts])
        point = torch.where(sign > 0, low[index], high[index])
        return SplitRows(torch.zeros_like(index), index, sign, point, torch.cat([b for _, b, _ in parts]))

    def _worst(self, unknowns: Tensor) -> tuple[int, int, float] | None:
        """The undecided entry whose unknown is furthest from the function's value at the solution."""
        best, found = 1e-9, None
        for position, mask in self._free.items():
            node = self.graph.nodes[position]
            if not isinstance(node.op, Elementwise) or not bool(mask.any()):
                continue
            source = node.inputs[0]
            z = unknowns @ self.values[source]
            gap = (unknowns @ self.values[position] - node.op.forward(z.reshape(1, *node.shape)).reshape(-1)).abs()
            gap = torch.where(mask, gap, torch.zeros_like(gap))
            entry = int(gap.argmax())
            if float(gap[entry]) > best:
                best, found = float(gap[entry]), (source, entry, float(z[entry]))
        return found
