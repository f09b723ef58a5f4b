"""Questions about random networks whose answer is known from a point: nothing may prove that it is not there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching.options import Branching, Inputs, Points, Score
from verinet.solvers.branching.outcome import End, Outcome
from verinet.solvers.branching.points import Pointing
from verinet.solvers.pieces import Piece
from verinet.solvers.query import Clock, Query
from verinet.solvers.spread_work import moved
from verinet.solvers.strategy import Strategy

import tests.kits.random_onnx_rules  # noqa: F401 - registers the rules
import verinet
from tests.kits.random_onnx import JUMPING, RULES, Draft, feeds, finish, grow, refused, session, start
from tests.unit.solvers.queries import query_of, silent
from verinet.errors import UnsupportedOperatorError, VerinetError
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.rewrites import for_verification
from verinet.ops.scalar import DomainError
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import Step
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec import read_property
from verinet.spec.property import Box

Floats = npt.NDArray[np.float64]
BOXES = ("narrow", "medium", "wide", "degenerate", "kinks", "far", "tiny", "ulp", "point")
SAMPLES = 300
ROUNDS = 5
SLACK = 1e-11  # relative: a plain float64 run of the network may be off by its own rounding


@dataclass
class Case:
    """A random network with a box. `graph` is ours, in float64."""

    draft: Draft
    made: onnx.ModelProto
    model: Model
    lower: Floats
    upper: Floats
    kind: str
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        self.graph = self.model.graph.to(torch.float64)

    @property
    def ops(self) -> list[str]:
        return [n.op_type for n in self.made.graph.node]

    @property
    def jumps(self) -> bool:
        return bool(JUMPING & set(self.ops))


def box_of(kind: str, size: int, random: np.random.Generator, dtype: Any = np.float32) -> tuple[Floats, Floats]:
    """Lower and upper ends (size,), finite and in order, numbers of `dtype`."""
    centre = random.normal(size=size)
    if kind == "kinks":
        lower = np.round(centre * 2) / 2
        return lower, lower + random.choice([0.0, 0.5, 1.0], size=size)
    if kind == "far":
        centre = centre * 1e3
    radius = {"narrow": 0.03, "medium": 0.3, "wide": 2.0, "degenerate": 0.5, "far": 1.0, "tiny": 1e-6}.get(kind, 0.0)
    half = random.uniform(0.3, 1.0, size) * radius
    if kind == "degenerate":
        half[random.random(size) < 0.5] = 0.0
    lower, upper = (centre - half).astype(dtype), (centre + half).astype(dtype)
    if kind == "ulp":
        upper = np.nextafter(lower, dtype(np.inf))
    return lower.astype(np.float64), upper.astype(np.float64)


def points_in(lower: Floats, upper: Floats, count: int, random: np.random.Generator) -> Floats:
    """(count, inputs): inner points, corners and points of faces."""
    spread = random.random((count, lower.size))
    corners = random.integers(0, 2, spread.shape).astype(np.float64)
    share = random.choice([0.0, 0.5, 1.0], size=(count, 1))
    spread = np.where(random.random(spread.shape) < share, corners, spread)
    return np.clip(lower + spread * (upper - lower), lower, upper)


def draw(seed: int, names: list[str] | None = None) -> Case | None:
    """The case of a seed; None where the network has an operator that is refused."""
    random = np.random.default_rng(seed)
    draft = start(random)
    kind = BOXES[int(random.integers(len(BOXES)))]
    size = sum(int(np.prod(s)) for s in draft.inputs.values())
    lower, upper = box_of(kind, size, random, draft.dtype.type)
    grow(draft, points_in(lower, upper, 6, random), list(RULES) if names is None else names, int(random.integers(1, 7)))
    made = finish(draft)
    try:
        session(made)
    except Exception as error:
        if not refused(error):
            raise
        return None
    try:
        return Case(draft, made, load_onnx(made.SerializeToString()), lower, upper, kind)
    except UnsupportedOperatorError:
        return None


def value(graph: Graph, points: Floats) -> Floats:
    """(points, outputs) in float64."""
    return np.asarray(graph.forward(torch.from_numpy(points)).numpy())


def best_point(case: Case, row: Floats, random: np.random.Generator) -> tuple[float, Floats]:
    """The largest value of row @ y that samples, corners and local search find, and where."""
    tried = points_in(case.lower, case.upper, SAMPLES, random)
    found = value(case.graph, tried) @ row
    found = np.where(np.isfinite(found), found, -np.inf)
    best, point = float(found.max()), tried[int(found.argmax())]
    for turn in range(ROUNDS):
        step = random.normal(size=(SAMPLES // 3, point.size)) * (case.upper - case.lower) * 0.3**turn
        tried = np.clip(np.where(random.random(step.shape) < 0.5, point + step, point), case.lower, case.upper)
        found = value(case.graph, tried) @ row
        found = np.where(np.isfinite(found), found, -np.inf)
        if found.max() > best:
            best, point = float(found.max()), tried[int(found.argmax())]
    return best, point


def check_reading(case: Case, random: np.random.Generator) -> list[str]:
    """Our float64 graph beside ONNX Runtime at inner points; where a network jumps, at most of them."""
    inner = case.lower + random.random((30, case.lower.size)) * (case.upper - case.lower)
    inner = inner.astype(case.draft.dtype).astype(np.float64)
    runtime = session(case.made)
    theirs = np.stack([runtime.run(None, feeds(case.draft.inputs, case.draft.dtype, p))[0].reshape(-1) for p in inner])
    ours = value(case.graph, inner)
    off = np.abs(ours - theirs).max(1) / (1 + np.abs(theirs).max(1))
    bad = ~(off <= (2e-3 if case.draft.dtype == np.float32 else 1e-7))
    few = 20 if case.jumps and case.kind in ("ulp", "tiny", "point", "kinks", "far") else 6 if case.jumps else 0
    return [] if int(bad.sum()) <= few else [f"read differently at {int(bad.sum())} of 30 points, by {off.max():.3g}"]


def _outside(low: Tensor, high: Tensor, seen: Tensor, size: float) -> float:
    """By how much samples (points, *shape) leave the bounds (1, *shape), beyond rounding of the samples themselves."""
    slack = SLACK * (size + seen.abs())
    excess = torch.maximum(low - seen, seen - high) - slack
    return float(torch.nan_to_num(excess, nan=torch.inf).max()) if excess.numel() else 0.0


def check_bounds(case: Case, random: np.random.Generator) -> tuple[int, list[str]]:
    """(layers checked, violations): intervals of every node, swept bounds of every node that has them, outputs."""
    tried = torch.from_numpy(points_in(case.lower, case.upper, SAMPLES, random))
    graph = for_verification(case.graph)
    values = graph.forward_all(tried)
    finite = [bool(torch.isfinite(v).all()) for v in values]
    low, high = torch.from_numpy(case.lower)[None], torch.from_numpy(case.upper)[None]
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    try:
        found["interval"] = dict(enumerate(interval_pass(graph, low, high)))
        sweeper = Sweeper(build_backward(graph, low[0], high[0]))
        found["linear"] = sweeper.sweep(low, high, SweepOptions()).known
        found["optimised"] = sweeper.sweep(low, high, SweepOptions(step=Step(iterations=8)), found["linear"]).known
    except DomainError:
        pass
    bad, count = [], 0
    for method, known in found.items():
        for position, pair in known.items():
            size = max(
                [1.0, *(float(values[i].abs().max()) for i in graph.nodes[position].inputs if values[i].numel())]
            )
            count += 1
            worst = _outside(*pair, values[position], size)
            if finite[position] and worst > 0:
                bad.append(f"{method} bounds of '{graph.nodes[position].name}' are left by {worst:.3g}")
    try:
        for method in ("linear", "auto"):
            given = verinet.bounds(case.model, Box(case.lower, case.upper, case.lower, case.upper), method=method)
            count += 1
            pair = torch.from_numpy(given.lower)[None], torch.from_numpy(given.upper)[None]
            worst = _outside(*pair, values[-1], max(1.0, float(values[-1].abs().max())))
            if finite[-1] and worst > 0:
                bad.append(f"verinet.bounds by {method} are left by {worst:.3g}")
    except DomainError:
        pass
    return count, bad


def decimal(number: float) -> str:
    """All digits of a float64."""
    return format(Decimal(float(number)), "f")


def linear(row: Floats) -> str:
    terms = " ".join(f"(* {decimal(w)} Y_{i})" for i, w in enumerate(row))
    return f"(+ {terms} 0.0)"


def text_of(case: Case, asserts: str, box: bool = True) -> str:
    """A VNN-LIB 1.0 property over the case's box."""
    lines = [f"(declare-const X_{i} Real)" for i in range(case.lower.size)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(case.graph.output_size)]
    if box:
        for i, (lo, hi) in enumerate(zip(case.lower, case.upper, strict=True)):
            lines += [f"(assert (>= X_{i} {decimal(lo)}))", f"(assert (<= X_{i} {decimal(hi)}))"]
    return "\n".join([*lines, asserts, ""])


@dataclass(frozen=True)
class Question:
    """A property that `point` satisfies with a margin of `slack` (relative), so that `unsat` is wrong."""

    text: str
    point: Floats
    slack: float
    form: str


def questions(case: Case, random: np.random.Generator) -> Iterator[Question]:
    """One row, a conjunction, and complementary halves of the box; each holds at a sampled point."""
    outputs = case.graph.output_size
    row = random.normal(size=outputs) if outputs > 1 and random.random() < 0.6 else np.eye(outputs)[0]
    row = row * (1 if random.random() < 0.5 else -1)
    best, point = best_point(case, row, random)
    if not np.isfinite(best):
        return
    y = value(case.graph, point[None])[0]
    layers = [v.abs().max() for v in case.graph.forward_all(torch.from_numpy(point)[None]) if v.numel()]
    size = 1.0 + float(max(layers)) * float(np.abs(row).sum())
    slack = float(random.choice([1e-10, 1e-8, 1e-6, 1e-3])) * size
    yield Question(text_of(case, f"(assert (>= {linear(row)} {decimal(best - slack)}))"), point, slack, "row")
    others = [row, *(random.normal(size=outputs) for _ in range(int(random.integers(1, 3))))]
    many = "".join(f"(assert (>= {linear(w)} {decimal(float(w @ y) - slack)}))\n" for w in others)
    yield Question(text_of(case, many), point, slack, "conjunction")
    yield Question(_halves(case, row, best - slack, random), point, slack, "halves")


def _halves(case: Case, row: Floats, limit: float, random: np.random.Generator) -> str:
    """(x_k <= m or x_k >= m) and row @ y >= limit, as one disjunction with its own boxes."""
    k = int(random.integers(case.lower.size))
    middle = float(case.lower[k] * 0.5 + case.upper[k] * 0.5)
    middle = min(max(middle, case.lower[k]), case.upper[k])
    parts = []
    for low, high in ((case.lower[k], middle), (middle, case.upper[k])):
        ends = [*zip(case.lower, case.upper, strict=True)]
        ends[k] = (low, high)
        box = " ".join(f"(>= X_{i} {decimal(a)}) (<= X_{i} {decimal(b)})" for i, (a, b) in enumerate(ends))
        parts.append(f"(and {box} (>= {linear(row)} {decimal(limit)}))")
    return text_of(case, f"(assert (or {' '.join(parts)}))", box=False)


class _Branching(NeuronArm):
    """Neuron splitting with ways of branching of our choice."""

    way = Branching()

    def _prepare(self, piece: Piece) -> Outcome | None:
        late = super()._prepare(piece)
        for search in self._searches:
            search.branching, search.pointing = self.way, Pointing(self.way.points)
        return late


def way_of(random: np.random.Generator) -> Branching:
    """Any combination of the options."""

    def pick(*choices: Any) -> Any:
        return choices[int(random.integers(len(choices)))]

    return Branching(
        pick(*Score),
        pick(*Points),
        pick(*Inputs),
        candidates=pick(1, 3, 6),
        learning=pick(True, False),
        per_kind=pick(1, 2),
        together=pick(1, 2, 3),
        tries=pick(True, False),
        cuts=pick(True, False),
    )


def refuse(points: Floats) -> bool:
    return False


def searched(
    case: Case, question: Question, how: str, seconds: float, random: np.random.Generator, device: str = "cpu"
) -> str | None:
    """What is wrong: a search that closes although the point is there. No witness is accepted, so nothing hides it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "property.vnnlib"
        path.write_text(question.text)
        prop = read_property(path)
    if not prop.clauses:
        return f"{question.form}: the reader says that the region is empty"
    query: Query = moved(query_of(for_verification(case.graph), prop, seconds), torch.device(device))
    way = way_of(random)
    if not any(isinstance(node.op, NonlinearOp) for node in query.graph.nodes):
        how = "input"  # there is no neuron to split
    try:
        end = _end(query, case, how, way)
    except DomainError:
        return None
    except VerinetError as error:
        return None if "no value" in str(error) or "no finite" in str(error) else f"{how} fails: {error}"
    return f"{how}, {way}: {question.form} closed, slack {question.slack:.3g}" if end is End.CLOSED else None


def _end(query: Query, case: Case, how: str, way: Branching) -> End:
    clock: Clock = query.clock
    if how == "input":
        return InputArm(query, refuse, silent).run(clock).end
    if how == "neuron":
        arm = _Branching(query, refuse, silent)
        arm.way = way
        return arm.run(clock).end
    return Strategy(query, case.graph.to(torch.float32, query.lower.device), refuse, silent, 0).solve(clock).end


def verified(case: Case, text: str, timeout: float) -> tuple[str, str | None]:
    """(verdict, what is wrong with it): a `sat` is run again, with the formula evaluated in exact numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "property.vnnlib"
        path.write_text(text)
        found = verinet.verify(case.model, path, timeout=timeout)
    if found.witness is None or found.notes and any("between two numbers" in n for n in found.notes):
        return found.status.value, None
    x = found.witness.inputs
    inside = bool(((x >= case.lower) & (x <= case.upper)).all())
    for optimise in (False, True):
        fed = feeds(case.draft.inputs, case.draft.dtype, x)
        y = session(case.made, optimise).run(None, fed)[0].reshape(-1)
        if not inside or not holds(text, y.astype(np.float64)):
            return found.status.value, f"a witness that does not hold: inside {inside}, outputs {y}"
    return found.status.value, None


def holds(text: str, y: Floats) -> bool:
    """Our own reading of the rows `(>= (+ (* w Y_i) ... 0.0) c)` that `linear` writes, in rational numbers."""
    from fractions import Fraction

    for line in text.splitlines():
        if "Y_" not in line or "assert" not in line:
            continue
        body = line.split("(+ ", 1)[1]
        terms, rest = body.split(" 0.0) ", 1)
        total = Fraction(0)
        for term in terms.strip().removeprefix("(* ").removesuffix(")").split(") (* "):
            weight, name = term.split(" ")
            total += Fraction(Decimal(weight)) * Fraction(float(y[int(name[2:])]))
        if total < Fraction(Decimal(rest.strip().rstrip(")"))):
            return False
    return True


def outer(case: Case, random: np.random.Generator) -> str | None:
    """A row beyond what sampling reaches: mostly unsat, and where it is sat the witness has to hold."""
    row = np.eye(case.graph.output_size)[0] * (1 if random.random() < 0.5 else -1)
    best, _ = best_point(case, row, random)
    low, _ = best_point(case, -row, random)
    if not np.isfinite(best + low):
        return None
    gap = float(random.choice([1e-6, 1e-3, 0.1, 1.0])) * (best + low + 1e-3 * (1 + abs(best)))
    return text_of(case, f"(assert (>= {linear(row)} {decimal(best + gap)}))")
