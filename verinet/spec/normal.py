"""Formula to normal form: an OR of (box, AND of rows). Disjunctions are multiplied out under a cap."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt

from verinet.errors import PropertyError
from verinet.spec.formula import Conjunction, Ints, walk
from verinet.spec.implied import fill, relations
from verinet.spec.property import Box, Clause, Floats, Rows
from verinet.spec.tables import Numbers, RowTable

NO_ROWS = "a disjunct does not constrain the outputs: any output satisfies it"
EMPTY = "the input region is empty: no input satisfies the property (it is vacuous)"
FALSE = "the constraints contradict each other whatever the network does (the property is vacuous)"


class UnboundedInputError(PropertyError):
    """An input has no lower or no upper bound in some disjunct."""


@dataclass(frozen=True, slots=True)
class _Term:
    """One disjunct below the root: bound blocks and row numbers."""

    blocks: tuple[Ints, ...] = ()
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NormalForm:
    """The parts of a `Property` that come from its formula."""

    boxes: tuple[Box, ...]
    clauses: tuple[Clause, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InputNames:
    """Names of the free inputs: `declared` holds, for each, an input that the file declares."""

    declared: Sequence[int]
    name_of: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.declared)

    def __getitem__(self, free: int) -> str:
        return self.name_of(2 * self.declared[free])


@dataclass(frozen=True, slots=True)
class Region:
    """What a normal form is about: inputs, the number of hidden and output entries, the file, the cap on clauses."""

    names: InputNames
    values: int
    file: str
    cap: int
    cut: float | None = None  # stands in for bounds that inputs lack; None: such inputs are an error


def normal_form(root: Conjunction, tables: tuple[Numbers, RowTable], region: Region) -> NormalForm:
    """The clauses of `root`. Raises PropertyError.

    Disjuncts with an empty box are dropped: no input satisfies them.
    """
    numbers, table = tables
    terms = [] if root.false else _disjuncts(root, region.file, region.cap)
    if not terms:
        return NormalForm((), (), (FALSE,))
    boxes = _Boxes(root.bounds(), (numbers, table), region)
    clauses: dict[tuple[int, tuple[int, ...]], Clause] = {}
    for term in terms:
        rows = tuple(dict.fromkeys((*root.rows, *term.rows)))
        box = boxes.index(term.blocks, rows)
        if box >= 0:
            if (box, rows) not in clauses:
                clauses[box, rows] = Clause(box, table.rows(rows, region.values))
    free = {box for box, rows in clauses if not rows}
    # where any output will do, further clauses on the same box say nothing
    kept = tuple(clause for (box, rows), clause in clauses.items() if not rows or box not in free)
    notes = (NO_ROWS,) if free else ()
    return NormalForm(tuple(boxes.made), kept, notes if kept else (EMPTY,))


def used_extras(
    clauses: tuple[Clause, ...], values: int, products: Sequence[tuple[int, ...]]
) -> tuple[tuple[Clause, ...], tuple[tuple[int, ...], ...]]:
    """Clauses that number only the products they use behind the `values` columns, and those products."""
    columns = [c.rows.columns for c in clauses]
    used = np.unique(np.concatenate(columns)) if columns else np.zeros(0, dtype=np.int64)
    used = used[used >= values]
    if len(used) == len(products):
        return clauses, tuple(products)
    made: dict[int, Rows] = {}
    for clause in clauses:
        rows = clause.rows
        if id(rows) not in made:
            moved = np.where(rows.columns < values, rows.columns, values + np.searchsorted(used, rows.columns))
            made[id(rows)] = replace(rows, columns=moved)
    kept = tuple(products[int(column) - values] for column in used)
    return tuple(Clause(c.box, made[id(c.rows)]) for c in clauses), kept


def _disjuncts(root: Conjunction, name: str, cap: int) -> list[_Term]:
    """The disjuncts of the root's choices; the root's own bounds and rows are left out of them."""
    known: dict[int, list[_Term]] = {}
    for node in reversed(list(walk(root))):
        if node.false:
            known[id(node)] = []
            continue
        own = _Term() if node is root else _Term(tuple(node.bounds()), tuple(node.rows))
        factors = [[term for part in choice for term in known.pop(id(part))] for choice in node.choices]
        known[id(node)] = _multiply(own, factors, name, cap)
    return known[id(root)]


def _multiply(own: _Term, factors: list[list[_Term]], name: str, cap: int) -> list[_Term]:
    if not factors:
        return [own]
    count = math.prod(len(factor) for factor in factors)
    if count > cap and sum(len(factor) > 1 for factor in factors) > 1:
        sizes = " x ".join(str(len(factor)) for factor in factors if len(factor) > 1)
        raise PropertyError(
            f"the disjunctions multiply to {count} clauses ({sizes}), more than the cap of {cap}",
            where=name,
            hint="split the property into several files, or raise `cap`",
        )
    if len(factors) == 1 and not (own.blocks or own.rows):
        return factors[0]
    return _products(own, factors)


def _products(own: _Term, factors: list[list[_Term]]) -> list[_Term]:
    """All combinations, each once: nested files repeat themselves."""
    seen: dict[tuple[tuple[int, ...], tuple[int, ...]], _Term] = {}
    for chosen in product(*factors):
        parts = (own, *chosen)
        blocks = tuple(block for part in parts for block in part.blocks)
        rows = tuple(dict.fromkeys(row for part in parts for row in part.rows))
        seen.setdefault((tuple(map(id, blocks)), rows), _Term(blocks, rows))
    return list(seen.values())


class _Boxes:
    """Makes boxes, one per distinct content."""

    def __init__(self, base: list[Ints], tables: tuple[Numbers, RowTable], region: Region) -> None:
        self._numbers, self._table = tables
        self.made: list[Box] = []
        self._region, self._root = region, base
        self._down, self._up = self._numbers.arrays()
        self._by_text: dict[bytes, int] = {}
        self._by_content: dict[bytes, int] = {}
        infinite = np.full(len(region.names), np.inf)
        self._base = (-infinite, infinite.copy(), -infinite, infinite.copy())
        for block in base:
            self._apply(block, self._base)

    def index(self, blocks: tuple[Ints, ...], rows: tuple[int, ...]) -> int:
        """The number of the box with these bounds besides the base, or -1 when it is empty. Raises PropertyError.

        Where bounds are missing, linear relations of inputs among `rows` are asked for them.
        """
        key = b"|".join(block.tobytes() for block in blocks)
        if key not in self._by_text:
            arrays = tuple(side.copy() for side in self._base)
            for block in blocks:
                self._apply(block, arrays)
            if self._contradict(np.flatnonzero(arrays[2] > arrays[3]), blocks):
                self._by_text[key] = -1
                return -1
            if any(np.isinf(side).any() for side in arrays):
                fill(arrays, relations((self._table.exact[row] for row in rows), self._table.products))
                return self._make(arrays)  # not kept: the box is due to the rows as well
            self._by_text[key] = self._make(arrays)
        return self._by_text[key]

    def _contradict(self, narrow: npt.NDArray[np.intp], blocks: tuple[Ints, ...]) -> bool:
        """Whether the written bounds of some input leave no real number.

        `narrow` are the inputs between whose bounds there is no float64: rounded outward, 0.5 < x < 0.5 still has one.
        """
        if not len(narrow):
            return False
        bounds = np.concatenate([*self._root, *blocks])
        inputs, numbers = bounds[:, 0] >> 1, bounds[:, 1]
        first, last = np.full(len(self._base[0]), len(self._down)), np.full(len(self._base[0]), -1)
        np.minimum.at(first, inputs, numbers)
        np.maximum.at(last, inputs, numbers)
        narrow = narrow[first[narrow] != last[narrow]]  # one number for both sides is never a strict one
        lows: dict[int, tuple[Fraction, bool]] = {}
        highs: dict[int, tuple[Fraction, bool]] = {}
        for code, number in bounds[np.isin(inputs, narrow)].tolist():
            value, strict = self._numbers.written(number)
            if code & 1:  # of equal bounds the strict one is the tighter one, on either side
                highs[code >> 1] = min(highs.get(code >> 1, (value, not strict)), (value, not strict))
            else:
                lows[code >> 1] = max(lows.get(code >> 1, (value, strict)), (value, strict))
        both = ((*lows[v], *highs[v]) for v in lows.keys() & highs.keys())
        return any(low > high or (low == high and (above or not reached)) for low, above, high, reached in both)

    def _make(self, arrays: tuple[Floats, ...]) -> int:
        lower, upper, inner_lower, inner_upper = arrays
        if (lower > upper).any():
            return -1
        if self._region.cut is not None:
            _cut(arrays, self._region.cut)
        self._check_bounded(lower, upper)
        content = hashlib.blake2b(b"".join(side.tobytes() for side in arrays), digest_size=32).digest()
        if content not in self._by_content:
            self._by_content[content] = len(self.made)
            # equal arrays are shared: files with many boxes mostly hold exact numbers
            self.made.append(Box(lower, upper, _shared(inner_lower, lower), _shared(inner_upper, upper)))
        return self._by_content[content]

    def _apply(self, block: Ints, arrays: tuple[Floats, ...]) -> None:
        """Intersect with bounds. Rounding is monotone, so extremes of rounded numbers are rounded extremes."""
        lower, upper, inner_lower, inner_upper = arrays
        variables, is_upper, number = block[:, 0] >> 1, (block[:, 0] & 1) == 1, block[:, 1]
        above, below = variables[is_upper], variables[~is_upper]
        np.minimum.at(upper, above, self._up[number[is_upper]])
        np.minimum.at(inner_upper, above, self._down[number[is_upper]])
        np.maximum.at(lower, below, self._down[number[~is_upper]])
        np.maximum.at(inner_lower, below, self._up[number[~is_upper]])

    def _check_bounded(self, lower: Floats, upper: Floats) -> None:
        for side, word in ((lower, "lower"), (upper, "upper")):
            free = np.flatnonzero(np.isinf(side))
            if len(free):
                more = f" (and {len(free) - 1} more)" if len(free) > 1 else ""
                raise UnboundedInputError(
                    f"the input {self._region.names[int(free[0])]}{more} has no {word} bound in some disjunct",
                    where=self._region.file,
                    hint="every input needs a lower and an upper bound",
                )


def _cut(arrays: tuple[Floats, ...], by: float) -> None:
    """Give open sides a bound: `by` away from zero, or from the other side."""
    lower, upper, inner_lower, inner_upper = arrays
    below, above = np.isinf(lower), np.isinf(upper)
    lower[below] = inner_lower[below] = np.minimum(np.where(above, 0.0, upper), 0.0)[below] - by
    upper[above] = inner_upper[above] = np.maximum(np.where(below, 0.0, lower), 0.0)[above] + by


def _shared(side: Floats, original: Floats) -> Floats:
    return original if np.array_equal(side, original) else side
