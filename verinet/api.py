"""The public functions. This is the only place that turns search results into verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from verinet.errors import PropertyError, UsageError
from verinet.frontends.compose import Composite, alone, check_composite, compose
from verinet.frontends.model import Model
from verinet.numerics.machine import cores
from verinet.results import Bounds, Progress, Reason, Stats, Status, Verdict, Witness
from verinet.spec.normal import UnboundedInputError
from verinet.spec.property import Box, Floats, Property
from verinet.witness.replay import Replayer, ReplayResult, outputs_violate

if TYPE_CHECKING:
    from verinet.cluster import RayOptions
    from verinet.solvers.query import Query
    from verinet.solvers.spread import Hired
    from verinet.solvers.strategy import Solution

ModelLike = Model | str | Path
Networks = ModelLike | Mapping[str, ModelLike]

_LEAVE_SECONDS = 0.5  # that leaving a cluster may take
_CUT, _CUT_SECONDS = 100.0, 10.0  # how far, and how long, inputs without bounds are searched for a violation
PropertyLike = Property | str | Path


def load(path: str | Path) -> Model:
    """Read an ONNX file (also .onnx.gz). Raises `ModelError`, `UnsupportedOperatorError` or `UsageError`."""
    from verinet.frontends.onnx import load_onnx

    return load_onnx(path)


def verify(  # noqa: PLR0913 - the public entry point: two subjects, and options by keyword only
    model: Networks,
    prop: PropertyLike,
    *,
    timeout: float = 300.0,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    started: float | None = None,
    stop: Callable[[], bool] | None = None,
    ray: RayOptions | None = None,
    processes: int | None = 1,
) -> Verdict:
    """Prove that no input of the property's region violates it, or find one that does.

    `model` is one network, or maps the names of networks that a VNN-LIB 2.0 query declares to them; a network that is
    `equal-to` another needs none. The inputs and outputs of a witness are then those of all networks, hidden tensors
    with the outputs, in order of declaration.
    `timeout` is in seconds from `started` (a `time.monotonic()` value; now by default). `stop` is polled and ends the
    search early. A search on the CPU that takes longer than some seconds is shared among `processes` on this machine
    (None: one per core), and with `ray` among workers on an existing Ray cluster; the rules for a verdict stay the
    same. Returns `unsat` only from float64 bounds with rounding charged, `sat` only with an input that
    ONNX Runtime confirms on the original file with zero tolerance. Raises `VerinetError` on bad input.
    """
    if not timeout > 0:
        raise UsageError(f"the timeout must be a positive number of seconds, not {timeout}")
    check_seed(seed)
    begin = time.monotonic() if started is None else started
    where = pick_device(device)
    crew = _crew(ray, device, _processes(processes, where))
    networks = _load_all(model)
    kept = 0.0 if ray is None else min(_LEAVE_SECONDS, 0.1 * timeout)
    limits = _Limits(begin + timeout - kept, stop, progress, seed, where, crew)
    if isinstance(prop, Property):
        return _Run(_fitting(networks, prop), prop, None, begin).verdict(limits)
    try:
        statement = _read(prop)
    except UnboundedInputError:
        found = _violation_in_cut(networks, Path(prop), begin, limits)
        if found is None:
            raise
        return found
    return _Run(_fitting(networks, statement), statement, Path(prop), begin).verdict(limits)


def bounds(
    model: Networks,
    region: PropertyLike | Box,
    *,
    layer: str | None = None,
    method: str = "auto",
    device: str = "auto",
) -> Bounds:
    """Certified bounds, flat, of the outputs or of the layer named, over a box.

    `method` is "interval", "linear" (backward linear bounds) or "auto" (slopes optimised as well). A property with
    several boxes is bounded over their hull. Outputs are those of all networks of the property. Raises `UsageError` for
    an unknown layer or method.
    """
    from verinet.solvers.layer_bounds import layer_bounds

    begin = time.monotonic()
    networks = _load_all(model)
    if isinstance(region, Box):
        if not isinstance(networks, Model):
            raise UsageError("a box bounds the inputs of one network", hint="give a property for several networks")
        graph, lower, upper = alone(networks).graph, region.lower, region.upper
    else:
        statement = region if isinstance(region, Property) else _read(region)
        graph = _fitting(networks, statement).graph
        if not statement.boxes:
            raise PropertyError("the region is empty: there is nothing to bound", where=statement.name)
        lower = np.min([b.lower for b in statement.boxes], axis=0)
        upper = np.max([b.upper for b in statement.boxes], axis=0)
    if len(lower) != graph.input_size:
        raise PropertyError(f"the region has {len(lower)} inputs, the network {graph.input_size}")
    low, high = layer_bounds(graph.to(torch.float64, pick_device(device)), lower, upper, layer, method)
    return Bounds(layer or "output", low, high, method, time.monotonic() - begin)


def check_seed(seed: int) -> None:
    """Raises `UsageError` for a number that the generators of random numbers do not take."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be a number from 0 to 2**63 - 1, not {seed}")


def pick_device(device: str) -> torch.device:
    """`auto` takes CUDA when there is one. Raises `UsageError` when a named device is missing."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{device}'", hint="use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", hint="use --device cpu, or install a CUDA build of torch")
    return torch.device(device)


def _load_all(given: Networks) -> Model | dict[str, Model]:
    """Every file is read once, also when several names have it."""
    if not isinstance(given, Mapping):
        return given if isinstance(given, Model) else load(given)
    if not given:
        raise UsageError("no network was given")
    known: dict[str, Model] = {}
    loaded: dict[str, Model] = {}
    for name, one in given.items():
        if not isinstance(one, Model):
            key = str(Path(one).resolve())
            known[key] = one = known[key] if key in known else load(one)
        loaded[name] = one
    return loaded


def _read(prop: str | Path) -> Property:
    from verinet.spec import read_property

    return read_property(prop)


def _fitting(networks: Model | dict[str, Model], prop: Property) -> Composite:
    """The networks composed for a property. Raises PropertyError where their sizes differ."""
    whole = compose(networks, prop)
    if (prop.inputs, prop.outputs) != (whole.graph.input_size, whole.graph.output_size):
        raise PropertyError(
            f"the property speaks of {prop.inputs} inputs and {prop.outputs} outputs, "
            f"the network has {whole.graph.input_size} and {whole.graph.output_size}",
            where=prop.name,
            hint="check that the two files belong together",
        )
    return whole


def _violation_in_cut(networks: Model | dict[str, Model], prop: Path, begin: float, limits: _Limits) -> Verdict | None:
    """Where inputs lack bounds, a violation among moderate inputs, or None: nothing can be proved about them."""
    from verinet.spec.reader import read_cut_property

    statement = read_cut_property(prop, _CUT)
    run = _Run(_fitting(networks, statement), statement, prop, begin)
    run.extra_notes = (f"some inputs have no bounds: only values up to {_CUT:g} beyond the known ones were searched",)
    short = replace(limits, deadline=min(limits.deadline, time.monotonic() + _CUT_SECONDS))
    verdict = run.verdict(short)
    return verdict if verdict.status is Status.SAT else None


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits and hooks of one run."""

    deadline: float  # of time.monotonic()
    stop: Callable[[], bool] | None
    progress: Callable[[Progress], None] | None
    seed: int
    device: torch.device
    crew: Callable[[], Hired] | None = None


def _processes(wanted: int | None, device: torch.device) -> int:
    """How many may search: on a GPU one, since more would only share it."""
    if wanted is not None and wanted < 1:
        raise UsageError(f"the number of processes must be positive, not {wanted}", hint="None takes one per core")
    return 1 if device.type != "cpu" else cores() if wanted is None else wanted


def _crew(ray: RayOptions | None, device: str, processes: int) -> Callable[[], Hired] | None:
    """Who shares the search, if anybody does."""
    if ray is not None:
        from verinet.solvers.spread_ray import RayCrew

        return partial(RayCrew, ray, device)
    if processes > 1:
        from verinet.solvers.spread_local import LocalCrew

        return partial(LocalCrew, processes)
    return None


class _Run:
    """One query: holds what replay and the gate need."""

    def __init__(self, whole: Composite, prop: Property, source: Path | None, begin: float) -> None:
        self.whole, self.prop, self.source, self.begin = whole, prop, source, begin
        self.witness: Witness | None = None
        self.loose = self.refuted = 0
        self.extra_notes: tuple[str, ...] = ()
        self.replayer = Replayer(whole, source, prop)

    def verdict(self, limits: _Limits) -> Verdict:
        """Check that the network was read right, then search."""
        notes = (*self.prop.notes, *self.whole.notes)
        if not self.prop.clauses:
            return self._answer(Status.UNSAT, Reason.EMPTY_REGION, notes=notes)
        samples = self._samples(limits.seed)
        check_composite(self.whole, samples)
        if self.offer(samples[:1]):
            note = "the property is already violated at the centre of its input box"
            return self._answer(Status.SAT, Reason.REPLAYED, notes=(*notes, note))
        self.refuted = 0  # nothing had spoken for the centre, so nothing was disproved
        from verinet.solvers.strategy import Strategy

        query = self._query(limits)
        attack_graph = self.whole.graph.to(torch.float64 if self.whole.double else torch.float32, limits.device)
        strategy = Strategy(query, attack_graph, self.offer, self._reporter(limits), limits.seed)
        if limits.crew is None:
            return self._conclude(strategy.solve(query.clock), limits, notes)
        with limits.crew() as crew:
            strategy.crew = crew
            solution = strategy.solve(query.clock)
            notes = (*notes, crew.note) if crew.note else notes
        return self._conclude(solution, limits, notes)

    def _samples(self, seed: int) -> Floats:
        """The centre of the first box and a few random points of the property's boxes, (4, inputs)."""
        random = np.random.default_rng(seed)
        box = self.prop.boxes[0]
        points = [(box.lower + box.upper) / 2]
        for _ in range(3):
            one = self.prop.boxes[int(random.integers(len(self.prop.boxes)))]
            points.append(one.lower + random.random(len(one.lower)) * (one.upper - one.lower))
        return np.stack(points)

    def _query(self, limits: _Limits) -> Query:
        from verinet.ops.rewrites import for_verification
        from verinet.solvers.query import Clock, Query, clause_table

        device = limits.device
        return Query(
            graph=for_verification(self.whole.graph).to(torch.float64, device),
            lower=torch.from_numpy(np.stack([b.lower for b in self.prop.boxes])).to(device),
            upper=torch.from_numpy(np.stack([b.upper for b in self.prop.boxes])).to(device),
            table=clause_table(self.prop, device),
            prop=self.prop,
            clock=Clock(time.monotonic, limits.deadline, limits.stop),
        )

    def offer(self, points: Floats) -> bool:
        """Replay candidates (k, inputs) on the original file; keeps the first that is confirmed."""
        from verinet.witness.replay import Outcome

        for point in points:
            result = self.replayer(point)
            if result.outcome is Outcome.CONFIRMED:
                self.witness = result.witness
                return True
            if result.outcome is Outcome.ONLY_WITHIN_TOLERANCE:
                if self._proved_between_grid_points(result, point):
                    return True
                self.loose += 1
            self.refuted += result.outcome is Outcome.REFUTED
        return False

    def _proved_between_grid_points(self, result: ReplayResult, point: Floats) -> bool:
        """Where the box holds no number of the input type, prove the violation for the real numbers it does hold.

        ONNX Runtime has to show it at the nearest numbers of the type. Here every real input in the (tiny) box
        around the point is shown to violate the property, by float64 bounds with rounding charged.
        """
        from verinet.solvers.point_proof import violated_everywhere

        number = self.replayer.nearest_box(point)
        box = self.prop.boxes[number]
        free = (result.point >= box.inner_lower) & (result.point <= box.inner_upper)
        inputs = np.asarray(result.witness.inputs, dtype=np.float64)
        exact = bool(free.all()) and self.whole.spread.holds(result.point, inputs)
        if exact or not outputs_violate(self.prop, number, result):
            return False  # what ONNX Runtime does not confirm at a number of the type is no violation
        lower, upper = np.where(free, result.point, box.lower), np.where(free, result.point, box.upper)
        if bool(((upper - lower) > 1e-6 * (1 + np.abs(lower))).any()):
            return False
        clauses = [c.rows for c in self.prop.clauses if c.box == number]
        if not violated_everywhere(self.whole.graph.to(torch.float64), lower, upper, clauses):
            return False
        inputs = self.whole.spread.declared(np.where(free, result.point, lower * 0.5 + upper * 0.5))
        self.witness = Witness(inputs, result.witness.outputs, result.witness.margin)
        self.extra_notes += (
            "some inputs of the box lie between two numbers of the network's type: ONNX Runtime confirms the "
            "violation at the nearest numbers, and float64 bounds prove it for the exact ones",
        )
        return True

    def _reporter(self, limits: _Limits) -> Callable[[str, int, int, float | None], None]:
        hook = limits.progress

        def report(phase: str, still_open: int, closed: int, bound: float | None) -> None:
            if hook is None:
                return
            seconds = time.monotonic() - self.begin
            gap = None if bound is None else max(0.0, -bound)
            hook(Progress(seconds, phase, still_open, closed, bound, gap, (still_open + closed) / max(seconds, 1e-9)))

        return report

    def _conclude(self, solution: Solution, limits: _Limits, notes: tuple[str, ...]) -> Verdict:
        from verinet.solvers.branching.outcome import End

        stats = Stats(
            domains=solution.domains, closed=solution.closed, open=solution.open, strategy=tuple(solution.trail)
        )
        if solution.end is End.CANDIDATE and self.witness is not None:
            return self._answer(Status.SAT, Reason.REPLAYED, stats=stats, notes=notes)
        if solution.end is End.CLOSED:
            return self._answer(Status.UNSAT, Reason.PROVED, stats=stats, notes=notes, gap=0.0)
        if limits.stop is not None and limits.stop():
            return self._answer(Status.UNKNOWN, Reason.INTERRUPTED, stats=stats, notes=notes, gap=solution.gap)
        if solution.end is End.TIME:
            return self._answer(Status.TIMED_OUT, Reason.OUT_OF_TIME, stats=stats, notes=notes, gap=solution.gap)
        reason = Reason.OUT_OF_MEMORY if solution.end is End.MEMORY else Reason.STALLED
        if reason is Reason.STALLED and solution.gap is not None and solution.gap <= solution.floor:
            reason = Reason.PRECISION_FLOOR
        elif reason is Reason.STALLED and self.loose:
            reason = Reason.ONLY_WITHIN_TOLERANCE
        elif reason is Reason.STALLED and self.refuted:
            reason = Reason.WITNESS_NOT_REPLAYED
        return self._answer(Status.UNKNOWN, reason, stats=stats, notes=notes, gap=solution.gap)

    def _answer(
        self,
        status: Status,
        reason: Reason,
        *,
        stats: Stats | None = None,
        notes: tuple[str, ...] = (),
        gap: float | None = None,
    ) -> Verdict:
        seconds = time.monotonic() - self.begin
        base = stats or Stats()
        full = Stats(seconds, base.domains, base.closed, base.open, base.strategy)
        witness = self.witness if status is Status.SAT else None
        provenance = {"torch": torch.__version__, "model_sha256": self.whole.sha256, "property": self.prop.name}
        return Verdict(status, reason, witness, gap, full, provenance, (*notes, *self.extra_notes))
