"""Which entries of the network are the same: every entry as a short exact combination of entries made elsewhere.

Max(a, b), Min(a, b), |a - b|, relu(a - b) and relu(b - a) all depend on one number, |a - b|. Entries are traced back
through operators that move, negate, add and subtract (and scale by powers of two) to *atoms*, entries of nodes where
real arithmetic happens. Two arguments are the same number exactly if their combinations agree; no value is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats, Ints

from verinet.ir.graph import Graph, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract

LIMIT = 8
"""Terms of the longest combination that is followed; a longer one becomes an atom itself."""
_NONE = np.int64(2**62)
_UNIT = 2.0**-53
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trace:
    """Entries as sums of atoms: `atoms` (entries, terms) ascending, _NONE where unused, with `factors` of that shape.

    `errors` bounds the rounding of each factor; it is 0 everywhere in combinations that count as exact.
    """

    atoms: Ints
    factors: Floats
    errors: Floats

    @classmethod
    def of_atoms(cls, first: int, count: int) -> Trace:
        atoms = np.arange(first, first + count, dtype=np.int64)[:, None]
        return cls(atoms, np.ones((count, 1)), np.zeros((count, 1)))

    @classmethod
    def joined(cls, parts: Sequence[Trace]) -> Trace:
        """Entries of several traces one after the other."""
        width = max(part.terms for part in parts)

        def wide(part: Trace) -> tuple[Ints, Floats, Floats]:
            missing = ((0, 0), (0, width - part.terms))
            atoms = np.pad(part.atoms, missing, constant_values=int(_NONE))
            return atoms, np.pad(part.factors, missing), np.pad(part.errors, missing)

        return cls(*(np.concatenate(arrays) for arrays in zip(*map(wide, parts), strict=True)))

    @property
    def terms(self) -> int:
        return int(self.atoms.shape[1])

    def pick(self, index: Ints) -> Trace:
        """Entries by position; -1 gives zero."""
        if not len(self.atoms):  # a region has fixed every pair: nothing is left to pick from
            zero = np.zeros((len(index), self.terms))
            return Trace(np.full((len(index), self.terms), int(_NONE), dtype=np.int64), zero.copy(), zero.copy())
        missing = (index < 0)[:, None]
        at = np.where(index < 0, 0, index)
        return Trace(
            np.where(missing, _NONE, self.atoms[at]),
            np.where(missing, 0.0, self.factors[at]),
            np.where(missing, 0.0, self.errors[at]),
        )

    def times(self, factor: Floats | float) -> Trace:
        """Every entry times a number: exact for powers of two, else with a few units of rounding charged."""
        scale = np.broadcast_to(np.asarray(factor, dtype=np.float64).reshape(-1, 1), (self.atoms.shape[0], 1))
        exact = (np.abs(np.frexp(scale)[0]) == 0.5) | (scale == 0)
        factors = self.factors * scale
        errors = self.errors * np.abs(scale) * (1 + 8 * _UNIT) + np.where(exact, 0.0, 12 * _UNIT * np.abs(factors))
        return Trace(self.atoms, factors, errors).tidied()

    def plus(self, other: Trace) -> Trace:
        """Sum, entry by entry."""
        return Trace(
            np.concatenate([self.atoms, other.atoms], 1),
            np.concatenate([self.factors, other.factors], 1),
            np.concatenate([self.errors, other.errors], 1),
        ).tidied()

    def tidied(self) -> Trace:
        """Atoms ascending, equal ones added up, terms that cancelled exactly removed."""
        order = np.argsort(self.atoms, axis=1, kind="stable")
        take = np.take_along_axis
        atoms, factors, errors = take(self.atoms, order, 1), take(self.factors, order, 1), take(self.errors, order, 1)
        for term in range(atoms.shape[1] - 1, 0, -1):
            same = (atoms[:, term] == atoms[:, term - 1]) & (atoms[:, term] != _NONE)
            summed = factors[:, term - 1] + factors[:, term]
            slack = errors[:, term - 1] + errors[:, term]
            short = np.rint(summed * 2.0**20) == summed * 2.0**20
            slack = slack + np.where(short & (slack == 0), 0.0, np.abs(summed) * 2 * _UNIT)
            factors[:, term - 1] = np.where(same, summed, factors[:, term - 1])
            errors[:, term - 1] = np.where(same, slack, errors[:, term - 1])
            atoms[:, term] = np.where(same, _NONE, atoms[:, term])
        gone = (factors == 0) & (errors == 0)
        atoms = np.where(gone, _NONE, atoms)
        unused = atoms == _NONE
        factors, errors = np.where(unused, 0.0, factors), np.where(unused, 0.0, errors)
        order = np.argsort(atoms, axis=1, kind="stable")
        order = order[:, : max(1, int((~unused).sum(1).max(initial=0)))]
        return Trace(take(atoms, order, 1), take(factors, order, 1), take(errors, order, 1))

    def exact(self) -> bool:
        """True if the factors are small multiples of 2**-20: then sums and differences of them rounded nothing."""
        scaled = self.factors * 2.0**20
        return not self.errors.any() and bool((scaled == np.rint(scaled)).all()) and bool((np.abs(scaled) < 2e9).all())

    def constant(self) -> Bools:
        """Entries that are zero whatever the input."""
        return np.asarray((self.atoms == _NONE).all(1), dtype=np.bool_)

    def normal(self) -> tuple[list[bytes], Floats]:
        """Per entry a key and a signed power of two: entries with one key are these multiples of one number."""
        first = self.factors[:, 0]
        exponent = np.where(first == 0, 0, np.frexp(first)[1] - 1)
        scale = np.where(first < 0, -1.0, 1.0) * np.ldexp(1.0, exponent)
        words = np.concatenate([self.atoms, (self.factors / scale[:, None]).view(np.int64)], 1)
        used = (self.atoms != _NONE).sum(1)
        keys = []
        for row, count in zip(words, used.tolist(), strict=True):
            keys.append(np.concatenate([row[:count], row[self.terms : self.terms + count]]).tobytes())
        return keys, np.asarray(scale, dtype=np.float64)


def positions(op: LinearOp, sizes: Iterable[tuple[int, ...]]) -> Ints:
    """For an operator that only moves: which entry of the joined inputs each output entry is, -1 for none."""
    numbers: list[Tensor] = []
    start = 1
    for shape in sizes:
        count = total(shape)
        numbers.append(torch.arange(start, start + count, dtype=torch.float64).reshape(1, *shape))
        start += count
    moved = op.linear(*numbers)
    return np.asarray(moved.reshape(-1).numpy(), dtype=np.int64) - 1


def spread(shape: tuple[int, ...], out: tuple[int, ...]) -> Ints:
    """Numpy broadcasting as positions: which entry of `shape` each entry of `out` reads."""
    numbers = np.arange(total(shape), dtype=np.int64).reshape(shape)
    return np.array(np.broadcast_to(numbers, out)).reshape(-1)


@dataclass
class Tracer:
    """Traces of nodes of one graph, computed when asked for. `stops` are nodes whose entries are atoms in any case.

    With `scaling`, factors other than powers of two are followed too, with their rounding in `errors`. With
    `increments`, traces are those of differences between two inputs: constants that are added do not matter.
    """

    graph: Graph
    stops: frozenset[int] = frozenset()
    scaling: bool = False
    increments: bool = False
    limit: int = LIMIT
    _known: dict[int, Trace] = field(default_factory=dict)
    _first: list[int] = field(default_factory=list)
    _virtual: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = 0
        for node in self.graph.nodes:
            self._first.append(start)
            start += total(node.shape)
        self._first.append(start)

    def first(self, position: int) -> int:
        """Number of the first atom of a node."""
        return self._first[position]

    def virtual(self, keys: list[bytes]) -> Trace:
        """Atoms for numbers that are no node's entries, one per distinct key."""
        base = self._first[-1]
        numbers = [self._virtual.setdefault(key, base + len(self._virtual)) for key in keys]
        atoms = np.asarray(numbers, dtype=np.int64).reshape(-1, 1)
        return Trace(atoms, np.ones(atoms.shape), np.zeros(atoms.shape))

    def of(self, position: int) -> Trace:
        """The trace of all entries of a node, flat."""
        for step in sorted(self._missing(position)):
            self._known[step] = self._trace(step)
        return self._known[position]

    def assign(self, position: int, trace: Trace) -> None:
        """Say what the entries of a node are, instead of following it."""
        self._known[position] = trace

    def _missing(self, position: int) -> set[int]:
        found: set[int] = set()
        stack = [position]
        while stack:
            step = stack.pop()
            if step in found or step in self._known:
                continue
            found.add(step)
            if self._follows(step):
                stack.extend(self.graph.nodes[step].inputs)
        return found

    def _follows(self, position: int) -> bool:
        op = self.graph.nodes[position].op
        if position in self.stops or not isinstance(op, LinearOp):
            return False
        return op.moves_only or isinstance(op, Negate | Add | Subtract | Scale | Shift)

    def _trace(self, position: int) -> Trace:
        own = Trace.of_atoms(self._first[position], total(self.graph.nodes[position].shape))
        if not self._follows(position):
            return own
        found = self._combined(position)
        op = self.graph.nodes[position].op
        unchanged = isinstance(op, Negate) or (isinstance(op, LinearOp) and op.moves_only)
        usable = found.terms <= self.limit and (self.scaling or unchanged or found.exact())
        return found if usable else own

    def _combined(self, position: int) -> Trace:
        node = self.graph.nodes[position]
        op, parts = node.op, [self._known[i] for i in node.inputs]
        shapes = self.graph.input_shapes(position)
        if isinstance(op, LinearOp) and op.moves_only:
            return Trace.joined(parts).pick(positions(op, shapes))
        spreads = [part.pick(spread(s, node.shape)) for part, s in zip(parts, shapes, strict=True)]
        if isinstance(op, Negate):
            return parts[0].times(-1.0)
        if isinstance(op, Scale):
            return spreads[0].times(op.factor.to(torch.float64).expand(node.shape).reshape(-1).numpy())
        if isinstance(op, Shift):
            return self._shifted(position, spreads[0])
        return spreads[0].plus(spreads[1].times(-1.0 if isinstance(op, Subtract) else 1.0))

    def _shifted(self, position: int, inner: Trace) -> Trace:
        """A constant makes another number: only entries that are shifted by 0 are followed."""
        if self.increments:
            return inner
        node = self.graph.nodes[position]
        offset = node.op.offset if isinstance(node.op, Shift) else torch.ones(())
        moved = (offset.expand(node.shape).reshape(-1) != 0).numpy()[:, None]
        own = Trace.of_atoms(self._first[position], moved.shape[0])
        empty = np.full((moved.shape[0], inner.terms), _NONE)
        empty[:, :1] = own.atoms
        return Trace(
            np.where(moved, empty, inner.atoms),
            np.where(moved, (empty != _NONE).astype(np.float64), inner.factors),
            np.where(moved, 0.0, inner.errors),
        ).tidied()
