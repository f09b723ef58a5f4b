"""Public functions on Lipschitz bounds: `lipschitz` and `radius`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from verinet.errors import InternalError, PropertyError, UsageError, VerinetError
from verinet.frontends.model import Model
from verinet.results import LayerShare, LipschitzBound, Radius
from verinet.spec.property import Box, Floats, Property

if TYPE_CHECKING:
    from verinet.solvers.lipschitz.exponents import Norm
    from verinet.solvers.lipschitz.form import Form
    from verinet.solvers.lipschitz.implicit import ImplicitModel
    from verinet.solvers.lipschitz.lower import Region
    from verinet.solvers.lipschitz.menu import Candidate, Subject

LOWER_SHARE = 0.15  # of the time, for the lower bound
LOWER_SECONDS = 8.0
CHAIN_FORM = 4_000  # channels and inputs up to which a feed-forward network gets a form as well
DIGITS = 9
ROUNDS = 4  # of local bounds for a radius
SHORTER = 1 - 1e-12  # covers the rounding of a division, and leaves out the ball's surface, where two may tie
NARROWER = 0.98  # a ball whose bound shrinks by less than this factor is not worth another round


@dataclass(frozen=True, slots=True)
class Ball:
    """All x with `||x - center||_2 <= radius`."""

    center: npt.ArrayLike
    radius: float


LipschitzRegion = Box | Ball | Property | str | Path | None


@dataclass(frozen=True, slots=True)
class _Place:
    """A region in the terms of the solvers: bounds of a box around it, None for everywhere."""

    name: str
    lower: Floats | None = None
    upper: Floats | None = None
    ball: Ball | None = None


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
    from verinet.solvers.lipschitz.menu import Ask, bounds_by_menu, check_names

    begin = time.perf_counter()
    check_names(method, solver)
    _check_time(timeout)
    exponents = _norm(norm)
    network = _load(model)
    place = _place(region, network)
    subject = _subject(network, place, (output, exponents, method))
    lower = _lower(network, place, (exponents, output), _effort(begin, timeout, seed))
    ask = Ask(exponents, method, solver, begin + timeout, lambda: lower)
    found = bounds_by_menu(subject, ask)
    return _answer(found, lower, (_norm_name(exponents), place, subject.form), (network, begin))


def radius(model: Model | str | Path, x: npt.ArrayLike, *, label: int | None = None, timeout: float = 60.0) -> Radius:
    """A certified l2 radius around `x` in which the largest output stays the same.

    `label` is the output that has to stay largest (by default the largest one at `x`). The margin to every other
    output is divided by the Lipschitz bound of their difference, first global, then over balls of about the radius.
    Raises `VerinetError` on bad input; the radius is 0 where `x` itself is not classified as `label` with certainty.
    """
    begin = time.perf_counter()
    _check_time(timeout)
    network = _load(model)
    if not isinstance(network, Model):
        raise UsageError("a radius needs an ONNX network", hint="call lipschitz() for implicit models")
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if point.size != network.graph.input_size:
        raise UsageError(f"the input has {point.size} numbers, the network takes {network.graph.input_size}")
    if not np.isfinite(point).all() or network.graph.output_size < 2:
        raise UsageError("a radius needs a finite input, and a network with at least two outputs to compare")
    margins, chosen = _margins(network, point, label)
    least = min(margins.values())
    if not all(margin > 0 for margin in margins.values()):  # min() may pass over a NaN
        return Radius(0.0, chosen, least, math.inf, False, time.perf_counter() - begin)
    best, used = _reach(network, point, (margins, chosen), None, timeout / 2)
    local = False
    for _ in range(ROUNDS):
        left = timeout - (time.perf_counter() - begin)
        if left <= 0.05 * timeout or not 0 < best < math.inf:
            break
        try:
            reach, constant = _reach(network, point, (margins, chosen), 2.0 * best, left / 2)
        except VerinetError:
            break  # around the ball a box leaves the domain of a function: the global bound stands
        enough = reach <= best / NARROWER
        if reach > best:
            best, used, local = reach, constant, True
        if enough:
            break
    return Radius(best, chosen, least, used, local, time.perf_counter() - begin)


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
        bound = lipschitz(network, region=region, output=row, timeout=max(seconds / len(margins), 0.2)).upper
        reach = margin / bound * SHORTER if bound > 0 else math.inf
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


def _place(region: LipschitzRegion, network: Model | ImplicitModel) -> _Place:
    """The region as bounds; `UsageError` where it does not fit the network."""
    if region is None:
        return _Place("everywhere")
    if not isinstance(network, Model):
        raise UsageError("bounds of implicit models are for the whole space", hint="leave the region out")
    size = network.graph.input_size
    if isinstance(region, Ball):
        from verinet.solvers.lipschitz.balls import ball_box

        lower, upper = ball_box(np.asarray(region.center, dtype=np.float64), float(region.radius))
        _fits(lower, size)
        return _Place("ball", lower, upper, region)
    if isinstance(region, Box):
        _fits(region.lower, size)
        return _Place("box", region.lower, region.upper)
    statement = region if isinstance(region, Property) else _read(region, network)
    if not statement.boxes:
        raise PropertyError("the region is empty: there is nothing to bound", where=statement.name)
    lower = np.min([b.lower for b in statement.boxes], axis=0)
    upper = np.max([b.upper for b in statement.boxes], axis=0)
    _fits(lower, size)
    return _Place("box", lower, upper)


def _fits(values: Floats, size: int) -> None:
    if values.size != size:
        raise UsageError(
            f"the region has {values.size} inputs, the network {size}",
            hint="give one number per input, flat, in the order X_0, X_1, ...",
        )


def _read(path: str | Path, network: Model) -> Property:
    from verinet.spec import read_property

    return read_property(path, network.graph.input_size, network.graph.output_size)


def _subject(network: Model | ImplicitModel, place: _Place, what: tuple[Any, Norm, str]) -> Subject:
    from verinet.solvers.lipschitz.extract import select_outputs
    from verinet.solvers.lipschitz.menu import Subject
    from verinet.solvers.lipschitz.reduce import chosen_rows

    output, norm, method = what
    if not isinstance(network, Model):
        from verinet.solvers.lipschitz.implicit import implicit_form

        form = implicit_form(network)
        chosen = chosen_rows(output, network.output_size)
        return Subject(form if chosen is None else select_outputs(form, chosen), None, None)
    chosen = chosen_rows(output, network.graph.output_size)
    return _network_subject(network, place, (chosen, norm, method))


def _network_subject(network: Model, place: _Place, what: tuple[Any, Norm, str]) -> Subject:
    """Form, chain and product of a graph; what is too large or does not exist is left out."""
    import torch

    from verinet.solvers.lipschitz.chain import extract_chain
    from verinet.solvers.lipschitz.extract import extract_form
    from verinet.solvers.lipschitz.menu import FORM_LIMIT, Subject
    from verinet.solvers.lipschitz.ranges import node_ranges
    from verinet.solvers.lipschitz.reduce import with_outputs

    chosen, norm, method = what
    graph = with_outputs(network.graph.to(torch.float64), chosen)
    ranges = None
    if place.ball is not None:
        from verinet.solvers.lipschitz.balls import ball_ranges

        ranges = ball_ranges(graph, np.asarray(place.ball.center, dtype=np.float64), float(place.ball.radius))
    elif place.lower is not None and place.upper is not None:
        ranges = node_ranges(graph, place.lower, place.upper)
    size = _channels(graph) + graph.input_size
    chain = extract_chain(graph, ranges=ranges) if norm == 2 and method != "product" else None
    wanted = method not in ("product", "recursion", "layer") and size <= (CHAIN_FORM if chain else FORM_LIMIT)
    form = extract_form(graph, ranges=ranges) if wanted else None
    product = _product(graph, ranges, norm) if norm in (2, math.inf) else None
    return Subject(form, chain, product)


def _product(graph: Any, ranges: Any, norm: Norm) -> Callable[[], float]:
    from verinet.solvers.lipschitz.product import norm_product

    return lambda: norm_product(graph, "2" if norm == 2 else "inf", ranges=ranges)


def _channels(graph: Any) -> int:
    """At least the number of entries that go through nonlinear nodes."""
    from verinet.ir.graph import total
    from verinet.ops.base import NonlinearOp

    return sum(total(n.shape) for n in graph.nodes if isinstance(n.op, NonlinearOp))


def _effort(begin: float, timeout: float, seed: int) -> Any:
    from verinet.solvers.lipschitz.lower import Effort

    return Effort(seed=seed, deadline=begin + min(LOWER_SHARE * timeout, LOWER_SECONDS))


def _lower(network: Model | ImplicitModel, place: _Place, what: tuple[Norm, Any], effort: Any) -> float:
    from verinet.solvers.lipschitz.lower import lower_bound
    from verinet.solvers.lipschitz.reduce import chosen_rows

    norm, output = what
    target: Any = network.graph if isinstance(network, Model) else network.evaluate
    rows = chosen_rows(output, network.graph.output_size if isinstance(network, Model) else network.output_size)
    region = _solver_region(place, network)
    return lower_bound(target, region, norm=norm, outputs=rows, effort=effort).value


def _solver_region(place: _Place, network: Model | ImplicitModel) -> Region:
    from verinet.solvers.lipschitz.lower import ball, box, everywhere

    if place.ball is not None:
        return ball(np.asarray(place.ball.center, dtype=np.float64), float(place.ball.radius))
    if place.lower is not None and place.upper is not None:
        return box(place.lower, place.upper)
    return everywhere(network.graph.input_size if isinstance(network, Model) else network.input_size)


def _answer(
    found: list[Candidate],
    lower: float,
    about: tuple[str, _Place, Form | None],
    source: tuple[Model | ImplicitModel, float],
) -> LipschitzBound:
    best, (norm, place, form), (network, begin) = found[0], about, source
    upper = round_up(best.upper)
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
        layers=_layers(form, best.multipliers),
        candidates=tuple((c.method, c.upper, c.seconds) for c in found),
        notes=(best.note,) if best.note else (),
        provenance=provenance,
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
