"""Public functions on Lipschitz bounds: `lipschitz` and `radius`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from verinet.errors import InternalError, UsageError, VerinetError
from verinet.frontends.model import Model
from verinet.results import Jump, LayerShare, LipschitzBound, Radius
from verinet.solvers.lipschitz.regions import Ball as Ball
from verinet.solvers.lipschitz.regions import LipschitzRegion, Place, place_of
from verinet.spec.property import Floats

if TYPE_CHECKING:
    from verinet.ir.graph import Graph
    from verinet.solvers.lipschitz.exponents import Norm
    from verinet.solvers.lipschitz.form import Form
    from verinet.solvers.lipschitz.implicit import ImplicitModel
    from verinet.solvers.lipschitz.menu import Ask, Candidate

LOWER_SHARE = 0.15  # of the time, for the lower bound
LOWER_SECONDS = 8.0
DIGITS = 9
ROUNDS = 4  # of local bounds for a radius
SHRINKS, SHRINK = 8, 6.0  # balls that are tried where there is no global bound, each so much smaller than the last
SHORTER = 1 - 1e-12  # covers the rounding of a division, and leaves out the ball's surface, where two may tie
NARROWER = 0.98  # a ball whose bound shrinks by less than this factor is not worth another round


@dataclass(frozen=True, slots=True)
class _Found:
    """Candidates best first, the form their multipliers belong to, and what else the answer says."""

    candidates: list[Candidate]
    form: Form | None
    notes: tuple[str, ...] = ()
    contraction: float | None = None
    jump: Jump | None = None


def lipschitz(  # noqa: PLR0913 - the public entry point: a subject, and options by keyword only
    model: Model | ImplicitModel | str | Path,
    *,
    norm: Norm | str = 2,
    region: LipschitzRegion = None,
    output: int | Sequence[int] | npt.ArrayLike | None = None,
    method: str = "auto",
    solver: str = "auto",
    timeout: float = 60.0,
    seed: int = 0,
) -> LipschitzBound:
    """A certified Lipschitz bound of a network, everywhere or for pairs of inputs within a convex region.

    `model` is an ONNX file or loaded model, or an implicit one (`.npz` or `ImplicitModel`). `norm` is 2, "inf" or a
    pair (p, q) from the p-norm to the q-norm. `region` is a box, a `Ball`, or a property whose boxes' hull is taken.
    `output` picks outputs by number, or combines them by a float matrix (rows, outputs). `method` is auto, product,
    recursion, layer, first-order, neuron or exact; `solver` auto, verinet, clarabel, scs or mosek. `timeout` in seconds
    bounds the search; the best certified bound so far is returned. Raises `VerinetError` on bad input.
    """
    from verinet.api import check_seed
    from verinet.solvers.lipschitz.menu import Ask, check_names

    begin = time.perf_counter()
    check_names(method, solver)
    _check_time(timeout)
    check_seed(seed)
    exponents = _norm(norm)
    network = _load(model)
    place = place_of(region, network.graph if isinstance(network, Model) else None)
    # Searched when it is first asked for, so that what has no bound is refused at once.
    lower = cache(lambda: _lower(network, place, (exponents, output), _effort(timeout, seed)))
    found = _found(network, place, (output, Ask(exponents, method, solver, begin + timeout, lower)))
    return _answer(found, lower(), (_norm_name(exponents), place), (network, begin))


def radius(model: Model | str | Path, x: npt.ArrayLike, *, label: int | None = None, timeout: float = 60.0) -> Radius:
    """A certified l2 radius around `x` in which the largest output stays the same.

    `label` is the output that has to stay largest (by default the largest one at `x`). The margin to every other
    output is divided by the Lipschitz bound of their difference, first global, then over balls of about the radius;
    where there is no global bound, over smaller and smaller balls.
    Raises `VerinetError` on bad input; the radius is 0 where `x` itself is not classified as `label` with certainty.
    """
    begin = time.perf_counter()
    _check_time(timeout)
    network, point = _checked(_load(model), x)
    margins, chosen = _margins(network, point, label)
    least = min(margins.values())
    if not all(margin > 0 for margin in margins.values()):  # min() may pass over a NaN
        return Radius(0.0, chosen, least, math.inf, False, time.perf_counter() - begin)
    target = (margins, chosen)
    best, used, local = _first_reach(network, point, target, (begin, timeout))
    for _ in range(ROUNDS):
        left = timeout - (time.perf_counter() - begin)
        if left <= 0.05 * timeout or not 0 < best < math.inf:
            break
        try:
            reach, constant = _reach(network, point, target, 2.0 * best, left / 2)
        except InternalError:
            raise
        except VerinetError:
            break  # around the ball a box leaves the domain of a function: what is proved stands
        enough = reach <= best / NARROWER
        if reach > best:
            best, used, local = reach, constant, True
        if enough:
            break
    return Radius(best, chosen, least, used, local, time.perf_counter() - begin)


def _checked(network: Model | ImplicitModel, x: npt.ArrayLike) -> tuple[Model, Floats]:
    """The network and the input of a radius; `UsageError` where they do not fit."""
    if not isinstance(network, Model):
        raise UsageError("a radius needs an ONNX network", hint="call lipschitz() for implicit models")
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if point.size != network.graph.input_size:
        raise UsageError(f"the input has {point.size} numbers, the network takes {network.graph.input_size}")
    if not np.isfinite(point).all() or network.graph.output_size < 2:
        raise UsageError("a radius needs a finite input, and a network with at least two outputs to compare")
    return network, point


def _first_reach(
    network: Model, point: Floats, target: tuple[dict[int, float], int], clock: tuple[float, float]
) -> tuple[float, float, bool]:
    """Radius, constant, and whether it is local: by global bounds, or over smaller and smaller balls without one."""
    begin, timeout = clock
    try:
        return *_reach(network, point, target, None, timeout / 2), False
    except InternalError:
        raise
    except VerinetError as error:
        failure = error
    size = _guess(network, point, target)
    for _ in range(SHRINKS):
        left = timeout - (time.perf_counter() - begin)
        try:
            reach, constant = _reach(network, point, target, size, max(left, 0.1 * timeout) / 3)
        except InternalError:
            raise
        except VerinetError as error:
            failure = error
            size /= SHRINK
            continue
        if reach > 0:
            return reach, constant, True
        size /= SHRINK
    raise failure


def _guess(network: Model, point: Floats, target: tuple[dict[int, float], int]) -> float:
    """About the radius if the network were linear: what the first ball is tried with; nothing rests on it."""
    import torch

    margins, chosen = target
    graph = _double(network)

    def run(x: torch.Tensor) -> torch.Tensor:
        return graph.forward(x.reshape(1, -1))[0]

    rows = torch.autograd.functional.jacobian(run, torch.from_numpy(point.copy()))
    slopes = {j: float((rows[chosen] - rows[j]).norm()) for j in margins}
    sizes = [margins[j] / slope for j, slope in slopes.items() if 0 < slope < math.inf]
    return max(2.0 * min(sizes, default=1.0), 1e-12)


def _reach(
    network: Model, point: Floats, target: tuple[dict[int, float], int], size: float | None, seconds: float
) -> tuple[float, float]:
    """The radius that bounds over a ball of this size prove (everywhere for None), and the constant that limits it."""
    margins, chosen = target
    worst, constant = math.inf, 0.0
    for other, margin in margins.items():
        row = np.zeros((1, network.graph.output_size))
        row[0, chosen], row[0, other] = 1.0, -1.0
        region = None if size is None else Ball(point, size)
        found = lipschitz(network, region=region, output=row, timeout=max(seconds / len(margins), 0.2))
        bound, height = (found.upper, 0.0) if found.jump is None else (found.jump.slope, found.jump.height)
        reach = max(margin - height, 0.0) / bound * SHORTER if bound > 0 else (math.inf if margin > height else 0.0)
        if reach < worst:
            worst, constant = reach, bound
    return (worst if size is None else min(worst, size)), constant


def _margins(network: Model, point: Floats, label: int | None) -> tuple[dict[int, float], int]:
    """Certified lower bounds of y_label - y_j at the point, for all other outputs, and the label."""
    import torch

    from verinet.propagation.interval import interval_pass

    graph = network.graph.to(torch.float64)
    where = torch.from_numpy(point.reshape(1, -1).copy())
    low, high = (t.reshape(-1).numpy() for t in interval_pass(graph, where, where)[-1])
    chosen = int(np.argmax(low + high)) if label is None else label
    if not 0 <= chosen < len(low):
        raise UsageError(f"there is no output {chosen}: the network has {len(low)}")
    others = [j for j in range(len(low)) if j != chosen]
    return {j: float(np.nextafter(low[chosen] - high[j], -np.inf)) for j in others}, chosen


def _check_time(timeout: float) -> None:
    if not timeout > 0:
        raise UsageError(f"the timeout must be a positive number of seconds, not {timeout}")


def _load(model: Model | ImplicitModel | str | Path) -> Model | ImplicitModel:
    if not isinstance(model, str | Path):
        return model
    if str(model).endswith(".npz"):
        from verinet.solvers.lipschitz.implicit import load_implicit

        return load_implicit(model)
    from verinet.api import load

    return load(model)


def _norm(norm: Norm | str) -> Norm:
    """2, infinity or (p, q) as numbers."""
    if isinstance(norm, str):
        plain = norm.lower().removeprefix("l")
        if plain not in ("2", "inf"):
            raise UsageError(f"unknown norm '{norm}'", hint="use 2 or inf, or a pair (p, q) in Python")
        return 2.0 if plain == "2" else math.inf
    if isinstance(norm, tuple):
        if len(norm) != 2 or not all(float(part) >= 1 for part in norm):
            raise UsageError(f"unknown norm {norm}", hint="use 2 or inf, or a pair (p, q) of numbers >= 1")
        p, q = (float(part) for part in norm)
        return 2.0 if (p, q) == (2.0, 2.0) else math.inf if p == q == math.inf else (p, q)
    if float(norm) not in (2.0, math.inf):
        raise UsageError(f"unknown norm {norm}", hint="use 2 or inf, or a pair (p, q)")
    return float(norm)


def _norm_name(norm: Norm) -> str:
    if isinstance(norm, tuple):
        return f"{norm[0]:g} to {norm[1]:g}"
    return "2" if norm == 2 else "inf"


def _found(network: Model | ImplicitModel, place: Place, asked: tuple[Any, Ask]) -> _Found:
    """All certified candidates, and what else there is to say."""
    from verinet.solvers.lipschitz.menu import bounds_by_menu
    from verinet.solvers.lipschitz.reduce import chosen_rows, with_outputs

    output, ask = asked
    if not isinstance(network, Model):
        from verinet.solvers.lipschitz.extract import select_outputs
        from verinet.solvers.lipschitz.implicit import certified_form
        from verinet.solvers.lipschitz.menu import Subject

        form, posed = certified_form(network)
        rows = chosen_rows(output, network.output_size)
        form = form if rows is None else select_outputs(form, rows)
        return _Found(bounds_by_menu(Subject(form, None, None), ask), form, contraction=posed.norm)
    graph = with_outputs(_double(network), chosen_rows(output, network.graph.output_size))
    return _everywhere(graph, ask) if place.lower is None else _locally(graph, place, ask)


def _double(network: Model) -> Graph:
    import torch

    from verinet.ops.normalisation.log_sum_exp_tree import with_softplus

    return with_softplus(network.graph.to(torch.float64))


def _everywhere(graph: Graph, ask: Ask) -> _Found:
    from verinet.solvers.lipschitz.extract import jumps_of, refused_jump
    from verinet.solvers.lipschitz.menu import bounds_by_menu
    from verinet.solvers.lipschitz.subjects import network_subject

    if jumps_of(graph):
        raise refused_jump(graph)
    subject = network_subject(graph, None, ask.norm, ask.method)
    return _Found(bounds_by_menu(subject, ask), subject.form)


def _locally(graph: Graph, place: Place, ask: Ask) -> _Found:
    """Over a region: rounds of better ranges first, then all methods on the best ones."""
    from verinet.solvers.lipschitz.extract import jumps_of
    from verinet.solvers.lipschitz.jumps import bounds_across_jumps
    from verinet.solvers.lipschitz.local import local_rounds, zone_ranges
    from verinet.solvers.lipschitz.menu import bounds_by_menu
    from verinet.solvers.lipschitz.subjects import network_subject

    zone = place.zone()
    if jumps_of(graph):
        across = bounds_across_jumps(graph, zone_ranges(graph, zone), ask)
        return _Found(list(across.slopes), across.form, jump=Jump(across.slopes[0].upper, across.height, across.where))
    rounds = local_rounds(graph, zone, ask.method, ask.deadline)
    subject = network_subject(graph, rounds.ranges, ask.norm, ask.method)
    found = bounds_by_menu(subject, ask)
    if ask.norm == 2:  # the rounds' own bounds hold as well; the last ranges need not prove the least
        found += [c for c in rounds.bounds if ask.method in ("auto", c.method) and c.upper < found[0].upper]
    notes = (f"{len(rounds.bounds)} rounds of local bounds",) if len(rounds.bounds) > 1 else ()
    return _Found(sorted(found, key=lambda c: c.upper), subject.form, notes)


def _effort(timeout: float, seed: int) -> Any:
    from verinet.solvers.lipschitz.lower import Effort

    return Effort(seed=seed, deadline=time.perf_counter() + min(LOWER_SHARE * timeout, LOWER_SECONDS))


def _lower(network: Model | ImplicitModel, place: Place, what: tuple[Norm, Any], effort: Any) -> float:
    from verinet.solvers.lipschitz.lower import lower_bound
    from verinet.solvers.lipschitz.reduce import chosen_rows

    norm, output = what
    target: Any = network.graph if isinstance(network, Model) else network.evaluate
    rows = chosen_rows(output, network.graph.output_size if isinstance(network, Model) else network.output_size)
    region = place.sampled(network.graph.input_size if isinstance(network, Model) else network.input_size)
    return lower_bound(target, region, norm=norm, outputs=rows, effort=effort).value


def _answer(
    found: _Found, lower: float, about: tuple[str, Place], source: tuple[Model | ImplicitModel, float]
) -> LipschitzBound:
    best, (norm, place), (network, begin) = found.candidates[0], about, source
    upper = round_up(best.upper) if found.jump is None else math.inf
    if lower > upper * (1 + 1e-9):
        if isinstance(network, Model):
            raise InternalError(f"an attained quotient, {lower!r}, is above the certified bound, {upper!r}")
        lower = 0.0  # the iteration for the values of an implicit model did not settle: nothing was attained
    lower = min(lower, upper)
    gap = upper / lower - 1 if lower > 0 else (0.0 if upper == 0 else math.inf)
    provenance = {"model_sha256": network.sha256} if isinstance(network, Model) else {"model": network.where}
    return LipschitzBound(
        upper=upper,
        lower=lower,
        norm=norm,
        region=place.name,
        method=best.method,
        gap=gap,
        seconds=time.perf_counter() - begin,
        multipliers=best.multipliers,
        layers=_layers(found.form, best.multipliers),
        candidates=tuple((c.method, c.upper, c.seconds) for c in found.candidates),
        notes=(*((best.note,) if best.note else ()), *found.notes),
        provenance=provenance,
        contraction=found.contraction,
        jump=found.jump,
    )


def round_up(value: float) -> float:
    """The least number of nine significant digits that is at least `value`, so that all machines print the same."""
    if not math.isfinite(value) or value <= 0:
        return value
    exact = Decimal(value)
    # The float next to a decimal >= value is >= value, because rounding is monotone.
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - DIGITS + 1), rounding=ROUND_CEILING))


def _layers(form: Form | None, multipliers: Floats) -> tuple[LayerShare, ...]:
    """Blocks and multipliers of each depth."""
    if form is None or len(multipliers) != form.blocks or not form.blocks:
        return ()
    result = []
    for depth in np.unique(form.layer):
        mine = multipliers[form.layer == depth]
        name = form.labels[int(depth)] if int(depth) < len(form.labels) else f"layer {int(depth)}"
        result.append(LayerShare(name, len(mine), float(mine.min()), float(mine.max())))
    return tuple(result)
