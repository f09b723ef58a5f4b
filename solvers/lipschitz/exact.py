"""The largest norm over all slopes: the exact value of the relaxation that every semidefinite bound relaxes further.

FGL = max over delta in {-1, 1}^m of ||dy + cy Delta (I - c Delta)^-1 d|| for scalar blocks ("formal global Lipschitz
constant" of SeqLip and LipBaB; equal to the true constant for most small ReLU networks). Up to about 20 blocks all
vertices are taken; beyond, branch and bound: fix w_b = v_b or w_b = -v_b (the maximum is at a vertex, so nothing
between has to be looked at), bound the rest by a semidefinite program, take all vertices where few blocks remain. Every
closed leaf is closed by a certificate, so the upper end of the result is proved at any time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from verinet.solvers.lipschitz.certify import certify
from verinet.solvers.lipschitz.form import Floats, Form, Matrix
from verinet.solvers.lipschitz.gram import form_gram
from verinet.solvers.lipschitz.vertices import Vertices, fixed, ordered

from verinet.errors import CertificationError, UsageError

BoundFunction = Callable[[Form], Floats]
"""Multipliers (blocks,) for a form with fewer blocks: any solver; certified here."""

_CLOSE = 1 + 1e-10
_LEAF = 9
_SMALLEST = 1e-100
"""Bounds are not proved below this: squares of smaller numbers drown in what underflow is charged with."""
_STARTS = 12
_STRICT = 1 - 1e-8


@dataclass(frozen=True, slots=True)
class ExactBound:
    """`value`: the norm attained at `vertex` (blocks,), computed; `upper`: proved to be at least the largest norm.

    `complete` is True when the two agree up to the tolerance; else the search stopped at its deadline. `leaves` counts
    enumerated or bounded parts.
    """

    value: float
    upper: float
    vertex: Floats
    complete: bool
    leaves: int
    seconds: float


@dataclass(frozen=True)
class Search:
    """When to stop. `enumerate_up_to` blocks are enumerated whole; `deadline` is on the clock of time.perf_counter."""

    tolerance: float = 1e-6
    enumerate_up_to: int = 16
    deadline: float | None = None

    def expired(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline


_SEARCH = Search()


def exact_fgl(
    form: Form,
    *,
    bound: BoundFunction | None = None,
    start: Floats | None = None,
    norm: float = 2.0,
    search: Search = _SEARCH,
) -> ExactBound:
    """The largest norm of the Jacobian over all slopes of a form with scalar blocks.

    `bound` gives multipliers for the parts of a branch and bound (needed beyond `search.enumerate_up_to` blocks, l2
    only); `start` (blocks,) are feasible multipliers: needed for implicit forms, whose well-posedness they prove, and
    for branch and bound. `norm` is 2, or infinity for the norm from l_inf to l_inf.
    Raises UsageError for blocks that are not scalar or a missing argument, CertificationError when `start` fails.
    """
    begin = time.perf_counter()
    if norm not in (2, math.inf):
        raise UsageError(f"no exact value for the {norm:g}-norm", hint="norm 2 or infinity")
    form = ordered(form)
    if form.implicit:
        _check_well_posed(form, start)
    if form.blocks <= search.enumerate_up_to:
        result = _Enumeration(form, norm).run(0.0, search)
    elif bound is None or start is None or norm != 2:
        raise UsageError(
            f"{form.blocks} blocks are too many to enumerate",
            hint="branch and bound needs the 2-norm, a bound function and feasible multipliers",
        )
    else:
        result = _BranchAndBound(form, bound, search).run(start)
    return replace(result, seconds=time.perf_counter() - begin)


def _check_well_posed(form: Form, start: Floats | None) -> None:
    """Lambda - c^T Lambda c > 0 makes I - c Delta invertible for all |delta| <= 1."""
    if start is None:
        raise UsageError(
            "an implicit form needs feasible multipliers", hint="pass the multipliers of its semidefinite bound"
        )
    blocks = form.blocks
    loop = Form(
        form.c,
        Matrix(np.zeros((blocks, 0))),
        Matrix(np.zeros((0, blocks))),
        Matrix(np.zeros((0, 0))),
        form.v_block,
        form.w_block,
        form.layer,
    )
    if start.shape == (blocks,) and (start > 0).all() and np.isfinite(start).all():
        gram = form_gram(loop, start, np.zeros(0), np.zeros(0))
        if gram.dominated_by(np.ldexp(start * _STRICT, 2 * gram.exponents)):
            return
    raise CertificationError(
        "the multipliers do not prove that the implicit network is well-posed: Lambda - c^T Lambda c > 0 fails",
        hint="pass the multipliers of a certified semidefinite bound",
    )


class _Enumeration:
    """All vertices of a form: every one is proved to lie below the bound returned."""

    def __init__(self, form: Form, norm: float) -> None:
        self.vertices = Vertices(form, norm)
        self.best, self.vertex = 0.0, np.ones(form.blocks)

    def run(self, known: float, search: Search) -> ExactBound:
        """`known` is a norm attained elsewhere: nothing below it is of interest."""
        target = max(known, self._climb()) * _CLOSE
        upper = 0.0
        for signs in self.vertices.signs():
            if search.expired():
                return ExactBound(self.best, math.inf, self.vertex, False, 1, 0.0)
            target, now = self._batch(signs, target)
            upper = max(upper, now)
        return ExactBound(self.best, max(upper, target), self.vertex, True, 1, 0.0)

    def _batch(self, signs: Floats, target: float) -> tuple[float, float]:
        """Raise the target until the whole batch is below it; (target, proved bound of this batch)."""
        batch = self.vertices.jacobians(signs)
        fine = self.vertices.below(batch, target)
        if fine.all():
            return target, target
        norms = self.vertices.norms(batch)
        top = int(norms.argmax())
        if norms[top] > self.best:
            self.best, self.vertex = float(norms[top]), signs[top]
        # The charges of a proof, relative to the norm, are far below this; errors of J come on top.
        step, wanted = 1e-12, float((norms + batch.error).max())
        for _ in range(40):
            trial = wanted * (1 + step) + _SMALLEST
            if self.vertices.below(batch, trial).all():
                return max(target, trial), trial
            step *= 4
        return math.inf, math.inf

    def _climb(self) -> float:
        """A good vertex by flipping one sign at a time from random ones."""
        draw, blocks = np.random.default_rng(0), self.vertices.blocks
        for _ in range(_STARTS if blocks else 1):
            signs = np.where(draw.random(blocks) < 0.5, -1.0, 1.0)
            value = float(self.vertices.norms(self.vertices.jacobians(signs[None]))[0])
            for _ in range(4 * blocks):
                flips = signs * (1 - 2 * np.eye(blocks))
                norms = self.vertices.norms(self.vertices.jacobians(flips))
                top = int(norms.argmax())
                if not norms[top] > value * (1 + 1e-12):
                    break
                signs, value = flips[top], float(norms[top])
            if value > self.best:
                self.best, self.vertex = value, signs
        return self.best


@dataclass(order=True)
class _Node:
    """A part: `fixed_signs` maps blocks of the whole form to signs. Ordered by falling bound."""

    key: float
    number: int
    form: Form = field(compare=False)
    free: tuple[int, ...] = field(compare=False)
    signs: dict[int, float] = field(compare=False)
    multipliers: Floats = field(compare=False)


class _BranchAndBound:
    """Best-first; `closed` is the largest bound among the parts that are done."""

    def __init__(self, form: Form, bound: BoundFunction, search: Search) -> None:
        self.form, self.bound, self.search = form, bound, search
        self.numbers, self.leaves = itertools.count(), 0
        climb = _Enumeration(form, 2.0)
        climb._climb()
        self.value, self.vertex = climb.best, climb.vertex
        self.closed = 0.0
        self.heap: list[_Node] = []

    def run(self, start: Floats) -> ExactBound:
        """Split the part with the largest bound until it is within the tolerance of the best vertex."""
        self._push(self.form, tuple(range(self.form.blocks)), {}, start)
        while self.heap and -self.heap[0].key > self.value * (1 + self.search.tolerance) and not self.search.expired():
            node = heapq.heappop(self.heap)
            block = _largest_energy(node.form, node.multipliers)
            rest = np.delete(node.multipliers, block)
            free = node.free[:block] + node.free[block + 1 :]
            for sign in (1.0, -1.0):
                signs = {**node.signs, node.free[block]: sign}
                self._push(fixed(node.form, block, sign), free, signs, rest, -node.key)
        upper = max(self.closed, -self.heap[0].key if self.heap else 0.0, self.value * _CLOSE)
        complete = upper <= self.value * (1 + 2 * self.search.tolerance)
        return ExactBound(self.value, upper, self.vertex, complete, self.leaves, 0.0)

    def _push(
        self, form: Form, free: tuple[int, ...], signs: dict[int, float], start: Floats, known: float = math.inf
    ) -> None:
        """Bound one part. The parent's bound holds for it as well."""
        self.leaves += 1
        if form.blocks <= _LEAF:
            found = _Enumeration(form, 2.0).run(self.value, Search())
            self._offer(found, free, signs)
            self.closed = max(self.closed, min(found.upper, known))
            return
        upper, multipliers = known, start
        try:
            certified = certify(form, self.bound(form), start=start)
            upper, multipliers = min(certified.upper, known), certified.multipliers
        except CertificationError:
            if math.isinf(known):
                raise
        heapq.heappush(self.heap, _Node(-upper, next(self.numbers), form, free, signs, multipliers))

    def _offer(self, found: ExactBound, free: tuple[int, ...], signs: dict[int, float]) -> None:
        if found.value > self.value:
            vertex = np.ones(self.form.blocks)
            for block, sign in {**signs, **dict(zip(free, found.vertex, strict=True))}.items():
                vertex[block] = sign
            self.value, self.vertex = found.value, vertex


def _largest_energy(form: Form, multipliers: Floats) -> int:
    """The block with the largest lambda v^2 at the worst direction of the relaxation: a guess at where it is loose."""
    root = np.sqrt(multipliers)
    c = root[:, None] * form.c.value / root
    cy, d = form.cy.value / root, root[:, None] * form.d.value
    inner = np.eye(form.blocks) - c.T @ c - cy.T @ cy
    cross = c.T @ d + cy.T @ form.dy.value
    reach = np.linalg.lstsq(inner, cross, rcond=None)[0]
    total = d.T @ d + form.dy.value.T @ form.dy.value + cross.T @ reach
    worst = np.linalg.eigh(0.5 * (total + total.T))[1][:, -1]
    energy = (c @ (reach @ worst) + d @ worst) ** 2
    return int(energy.argmax())
