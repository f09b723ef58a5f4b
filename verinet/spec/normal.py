"""Formula to normal form: an OR of (box, AND of rows). Disjunctions are multiplied out under a cap."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from verinet.errors import PropertyError
from verinet.spec.formula import Conjunction, Ints, walk
from verinet.spec.property import Box, Clause, Floats
from verinet.spec.tables import Numbers, RowTable

NO_ROWS = "a disjunct does not constrain the outputs: any output satisfies it"
EMPTY = "the input region is empty: no input satisfies the property (it is vacuous)"
FALSE = "the constraints contradict each other whatever the network does (the property is vacuous)"


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


def normal_form(root: Conjunction, tables: tuple[Numbers, RowTable], inputs: int, place: tuple[str, int]) -> NormalForm:
    """The clauses of `root`. `place` is the file's name and the cap on clauses. Raises PropertyError.

    Disjuncts with an empty box are dropped: no input satisfies them.
    """
    numbers, table = tables
    name, cap = place
    terms = [] if root.false else _disjuncts(root, name, cap)
    if not terms:
        return NormalForm((), (), (FALSE,))
    boxes = _Boxes(root.bounds(), numbers, inputs, name)
    clauses: dict[tuple[int, tuple[int, ...]], Clause] = {}
    for term in terms:
        box = boxes.index(term.blocks)
        if box >= 0:
            rows = tuple(dict.fromkeys((*root.rows, *term.rows)))
            if (box, rows) not in clauses:
                clauses[box, rows] = Clause(box, table.rows(rows))
    free = {box for box, rows in clauses if not rows}
    # where any output will do, further clauses on the same box say nothing
    kept = tuple(clause for (box, rows), clause in clauses.items() if not rows or box not in free)
    notes = (NO_ROWS,) if free else ()
    return NormalForm(tuple(boxes.made), kept, notes if kept else (EMPTY,))


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

    def __init__(self, base: list[Ints], numbers: Numbers, inputs: int, name: str) -> None:
        self.made: list[Box] = []
        self._inputs, self._name = inputs, name
        self._down, self._up = numbers.arrays()
        self._by_text: dict[bytes, int] = {}
        self._by_content: dict[bytes, int] = {}
        infinite = np.full(inputs, np.inf)
        self._base = (-infinite, infinite.copy(), -infinite, infinite.copy())
        for block in base:
            self._apply(block, self._base)

    def index(self, blocks: tuple[Ints, ...]) -> int:
        """The number of the box with these bounds besides the base, or -1 when it is empty. Raises PropertyError."""
        key = b"|".join(block.tobytes() for block in blocks)
        if key not in self._by_text:
            self._by_text[key] = self._make(blocks)
        return self._by_text[key]

    def _make(self, blocks: tuple[Ints, ...]) -> int:
        lower, upper, inner_lower, inner_upper = arrays = tuple(side.copy() for side in self._base)
        for block in blocks:
            self._apply(block, arrays)
        if (lower > upper).any():
            return -1
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
                raise PropertyError(
                    f"the input X_{free[0]}{more} has no {word} bound in some disjunct",
                    where=self._name,
                    hint="every input needs a lower and an upper bound",
                )


def _shared(side: Floats, original: Floats) -> Floats:
    return original if np.array_equal(side, original) else side
