"""Inputs that a property ties to one another share one free input.

`(assert (== X_g[0] X_f[0]))` at the top level makes X_g[0] a name for X_f[0]: the search then has one dimension less,
and the equation holds by construction. The witness check never uses this: it evaluates the formula as written.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verinet.spec.formula import Atoms, Conjunction, Equation, Ints, walk
from verinet.spec.property import Tie
from verinet.spec.tables import Numbers, RowTable
from verinet.spec.terms import Linear, product_of, sum_of


def resolve(equations: list[Equation], inputs: int) -> tuple[Tie, ...]:
    """One tie per declared input, over free inputs numbered in order; () when nothing is tied.

    An equation that closes a cycle is left alone: as a row it is checked like any other.
    """
    classes = _Classes()
    for equation in equations:
        classes.join(equation)
    if not classes.parent:
        return ()
    free = [i for i in range(inputs) if i not in classes.parent]
    position = {i: k for k, i in enumerate(free)}
    ties = []
    for i in range(inputs):
        root, scale, offset = classes.root(i)
        ties.append(Tie(position[root], scale, offset))
    return tuple(ties)


class _Classes:
    """Union-find where every member is an affine function of its parent; the least index of a class is its root."""

    def __init__(self) -> None:
        self.parent: dict[int, tuple[int, Fraction, Fraction]] = {}

    def root(self, i: int) -> tuple[int, Fraction, Fraction]:
        """(r, scale, offset) with x_i = scale * x_r + offset."""
        scale, offset = Fraction(1), Fraction(0)
        while i in self.parent:
            i, factor, shift = self.parent[i]
            scale, offset = scale * factor, scale * shift + offset
        return i, scale, offset

    def join(self, equation: Equation) -> None:
        left, s, o = self.root(equation.left)
        right, t, p = self.root(equation.right)
        if left == right:
            return
        # s * l + o = scale * (t * r + p) + offset
        scale = equation.scale * t / s
        offset = (equation.scale * p + equation.offset - o) / s
        if left > right:
            self.parent[left] = (right, scale, offset)
        else:
            self.parent[right] = (left, 1 / scale, -offset / scale)


class Substitution:
    """A formula over declared inputs, rewritten over free inputs into a table of its own."""

    def __init__(self, ties: tuple[Tie, ...], numbers: Numbers, table: RowTable) -> None:
        self._ties, self._numbers, self._old = ties, numbers, table
        self._sources = np.array([tie.source for tie in ties], dtype=np.int32)
        self._copies = np.array([tie.is_copy for tie in ties], dtype=np.bool_)
        self._atoms = Atoms(numbers, RowTable())
        self._rows: dict[int, Conjunction] = {}

    @property
    def table(self) -> RowTable:
        return self._atoms.table

    def apply(self, root: Conjunction) -> Conjunction:
        """The rewritten formula. Raises NotSupportedError, OverflowError."""
        made: dict[int, Conjunction] = {}
        for node in reversed(list(walk(root))):
            result = Conjunction(false=node.false)
            for row in node.rows:
                result.absorb(self._row(row))
            for block in node.bounds():
                self._bounds(block, result)
            result.choices += [[made[id(part)] for part in choice] for choice in node.choices]
            made[id(node)] = result
        return made[id(root)]

    def _row(self, number: int) -> Conjunction:
        if number not in self._rows:
            row = self._old.exact[number]
            terms = [self._code(code).scaled(weight) for code, weight in zip(row.codes, row.weights, strict=True)]
            self._rows[number] = self._atoms.at_most_zero(sum_of([Linear(-row.bound), *terms]), row.strict)
        return self._rows[number]

    def _code(self, code: int) -> Linear:
        factors = self._old.products.of(code)
        return product_of([self._variable(factor) for factor in factors], self.table.products)

    def _variable(self, code: int) -> Linear:
        if code % 2:
            return Linear(weights={code: Fraction(1)})
        tie = self._ties[code >> 1]
        return Linear(tie.offset, {2 * tie.source: tie.scale})

    def _bounds(self, block: Ints, result: Conjunction) -> None:
        """Bounds of tied inputs are bounds of what they are tied to."""
        inputs, upper = block[:, 0] >> 1, block[:, 0] & 1
        copies = self._copies[inputs]
        if copies.any():
            renamed = block[copies].copy()
            renamed[:, 0] = 2 * self._sources[inputs[copies]] + upper[copies]
            result.blocks.append(renamed)
        for code, number in block[~copies].tolist():
            tie, (value, strict) = self._ties[code >> 1], self._numbers.written(number)
            is_upper = bool(code & 1) == (tie.scale > 0)
            moved = self._numbers.add((value - tie.offset) / tie.scale, upper=is_upper, strict=strict)
            result.single.append((2 * tie.source + is_upper, moved))
