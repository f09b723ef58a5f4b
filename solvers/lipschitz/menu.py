"""Which Lipschitz bound to compute, and in which order: every number that leaves here is certified.

Cheap methods first, dearer ones while time is left and the gap to the attained lower bound is open: norm product, the
closed-form recursion, first order, interior point, branch and bound over slopes. A solver only proposes multipliers;
`certify` and `certify_chain` decide what they prove. The best certified number is returned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from verinet.solvers.lipschitz.certify import Certified, certify
from verinet.solvers.lipschitz.certify_chain import certify_chain
from verinet.solvers.lipschitz.compress import compress_input
from verinet.solvers.lipschitz.cone import cone_problem, layered_problem
from verinet.solvers.lipschitz.exact import Search, exact_fgl
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.form import Chain, Floats, Form, Ints
from verinet.solvers.lipschitz.reduce import Part, parts_of, whole_of
from verinet.solvers.sdp.cone import SdpResult
from verinet.solvers.sdp.first_order import first_order
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.recursion import layerwise

from verinet.errors import CertificationError, InternalError, UsageError, VerinetError

METHODS = ("auto", "product", "recursion", "layer", "first-order", "neuron", "exact")
SOLVERS = ("auto", "verinet", "clarabel", "scs", "mosek")
INTERIOR_LIMIT = 1600  # channels and inputs that the interior point is given by itself
FORM_LIMIT = 12_000  # beyond, no dense matrix over all channels and inputs is made
FEW_BLOCKS = 16  # slopes that are enumerated
BRANCHED_BLOCKS = 40  # slopes that are branched on when asked to be exact, or when time is left
CLOSE = 1e-6  # relative gap to the lower bound at which nothing is left to win


@dataclass(frozen=True)
class Candidate:
    """One certified bound: which method proposed it, and with which multipliers it is proved."""

    method: str
    upper: float
    seconds: float
    multipliers: Floats = field(default_factory=lambda: np.zeros(0))
    note: str = ""


@dataclass(frozen=True)
class Subject:
    """What the bound is of. `form` is None where it would be too large, `chain` where the network is not one.

    `product` computes a certified bound without multipliers.
    """

    form: Form | None
    chain: Chain | None
    product: Callable[[], float] | None


@dataclass(frozen=True)
class Ask:
    """What is asked: norms, method and solver; `deadline` is on the clock of time.perf_counter; `lower` is attained."""

    norm: Norm
    method: str
    solver: str
    deadline: float
    lower: Callable[[], float]

    def left(self) -> float:
        return self.deadline - time.perf_counter()


def check_names(method: str, solver: str) -> None:
    """Raises `UsageError` for a method or solver that does not exist or go together."""
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}'", hint=f"one of {', '.join(METHODS)}")
    if solver not in SOLVERS:
        raise UsageError(f"unknown solver '{solver}'", hint=f"one of {', '.join(SOLVERS)}")
    if solver in SOLVERS[2:] and method not in ("auto", "neuron"):
        raise UsageError(f"method {method} does not use {solver}", hint="--method neuron, or --solver auto")


def bounds_by_menu(subject: Subject, ask: Ask) -> list[Candidate]:
    """All certified candidates, best first. Raises the last error where no method proves anything."""
    found: list[Candidate] = []
    failure: VerinetError | None = None
    for method in _plan(subject, ask):
        if found and ask.left() <= 0:
            break
        if found and ask.method == "auto" and min(c.upper for c in found) <= ask.lower() * (1 + CLOSE):
            break
        begin = time.perf_counter()
        try:
            candidate = _METHODS[method](subject, ask, found)
        except VerinetError as error:
            if ask.method != "auto" or isinstance(error, InternalError):
                raise
            failure = failure or error
            continue
        if candidate is not None and 0 <= candidate.upper < math.inf:  # neither NaN nor infinity is a bound
            seconds = time.perf_counter() - begin
            found.append(Candidate(candidate.method, candidate.upper, seconds, candidate.multipliers, candidate.note))
    if not found:
        raise failure or CertificationError(
            "no method proves a Lipschitz bound for this network", hint="raise --time, or try --method product"
        )
    return sorted(found, key=lambda c: c.upper)


def _plan(subject: Subject, ask: Ask) -> Iterator[str]:
    """Methods in the order in which they are tried."""
    if ask.solver in SOLVERS[2:]:
        yield "neuron"
        return
    if ask.method != "auto":
        yield ask.method
        return
    if subject.product is not None:
        yield "product"
    if subject.chain is not None:
        yield "recursion"
    size = _size(subject.form)
    if subject.chain is not None and (size is None or size > INTERIOR_LIMIT):
        yield "first-order"
    elif subject.form is not None:
        yield "neuron"
        if size is not None and size > INTERIOR_LIMIT:
            yield "first-order"
    if subject.form is not None and _scalar(subject.form) and subject.form.blocks <= BRANCHED_BLOCKS:
        yield "exact"


def _size(form: Form | None) -> int | None:
    """Order of the matrix that the interior point factorises."""
    if form is None:
        return None
    rows, inputs = form.d.value.shape
    return int(len(form.w_block) + min(inputs, rows + len(form.dy.value)))


def _scalar(form: Form) -> bool:
    return len(form.v_block) == len(form.w_block) == form.blocks


def _product(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    if subject.product is None:
        raise UsageError(
            "norm products are for feed-forward networks and the norms 2 and inf", hint="use --method neuron"
        )
    return Candidate("product", subject.product(), 0.0, note="norms of the layers, certified by Gram iteration")


def _over_parts(subject: Subject, ask: Ask, name: str, solve: Callable[[Part, float], Certified]) -> Candidate:
    """The largest bound over the parts that a norm is reduced to, each with its share of the time."""
    if subject.form is None:
        raise UsageError(
            "this network is too large for one dense matrix", hint="use --method product, recursion or first-order"
        )
    parts = parts_of(subject.form, ask.norm)
    proofs: list[Certified] = []
    for number, part in enumerate(parts):
        if ask.left() <= 0 and number + 1 < len(parts):
            proofs = [solve(whole_of(subject.form, ask.norm), 0.0)]
            break
        proofs.append(solve(part, ask.left() / (len(parts) - number)))
    best = max(proofs, key=lambda p: p.upper)
    return Candidate(name, best.upper, 0.0, best.multipliers, best.method)


def _neuron(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    """One multiplier per neuron or block, to optimality: our interior point, or a solver through cvxpy."""
    from verinet.solvers.lipschitz.papers import solve_form  # noqa: PLC0415 - imports cvxpy when called

    def solve(part: Part, seconds: float) -> Certified:
        form = compress_input(part.form) if part.euclidean else part.form
        if ask.solver in SOLVERS[2:]:
            return _certified(form, part, solve_form(form, solver=ask.solver, norm=part.norm))
        deadline = time.perf_counter() + seconds
        return _certified(form, part, interior_point(cone_problem(form, part.norm), deadline=deadline))

    name = "neuron" if ask.solver in SOLVERS[:2] else f"neuron ({ask.solver})"
    return _layered_proof(subject, ask, _over_parts(subject, ask, name, solve))


def _layered_proof(subject: Subject, ask: Ask, candidate: Candidate) -> Candidate:
    """The same multipliers proved layer by layer where that is possible and loses less to rounding."""
    if subject.chain is None or ask.norm != 2:
        return candidate
    try:
        proof = certify_chain(subject.chain, candidate.multipliers)
    except (CertificationError, UsageError):  # blocks that share a channel across layers have no place in a chain
        return candidate
    if not proof.upper < candidate.upper:
        return candidate
    return Candidate(candidate.method, proof.upper, candidate.seconds, proof.multipliers, proof.method)


def _certified(form: Form, part: Part, result: SdpResult) -> Certified:
    from verinet.solvers.sdp.start import feasible_start  # noqa: PLC0415 - only where it is needed

    try:
        return certify(form, result.point, norm=part.norm)
    except CertificationError:
        return certify(form, result.point, norm=part.norm, start=feasible_start(cone_problem(form, part.norm)))


def _of_chain(subject: Subject, ask: Ask, result: Callable[[Chain], SdpResult]) -> Candidate:
    if subject.chain is None or ask.norm != 2:
        raise UsageError(
            "layer by layer methods need a feed-forward network and the 2-norm", hint="use --method neuron or product"
        )
    best = result(subject.chain)
    proof = certify_chain(subject.chain, best.point)
    return Candidate("", proof.upper, 0.0, proof.multipliers, proof.method)


def _recursion(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    if ask.norm != 2 and ask.method == "auto":
        return None
    return _named("recursion", _of_chain(subject, ask, lambda chain: layerwise(layered_problem(chain))))


def _first_order(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    """One multiplier per neuron; every iterate proves a bound, so the clock may end it at any time."""
    if subject.chain is not None and ask.norm == 2:
        problem = layered_problem(subject.chain)
        return _named("first-order", _of_chain(subject, ask, lambda _: first_order(problem, deadline=ask.deadline)))

    def solve(part: Part, seconds: float) -> Certified:
        form = compress_input(part.form) if part.euclidean else part.form
        result = first_order(cone_problem(form, part.norm), deadline=time.perf_counter() + seconds)
        return _certified(form, part, result)

    return _over_parts(subject, ask, "first-order", solve)


def _layer(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    """LipSDP-Layer: one multiplier for all blocks of a layer."""
    if subject.chain is None:
        raise UsageError("one multiplier per layer needs a feed-forward network", hint="use --method neuron")
    shared: list[Ints | None] = [np.zeros(_blocks(a.v_block), dtype=np.int64) for a in subject.chain.activations]
    # Without any block there is nothing to share, and no largest number of a group.
    problem = layered_problem(subject.chain, 2.0, shared if any(s is not None and s.size for s in shared) else None)
    return _named("layer", _of_chain(subject, ask, lambda _: first_order(problem, deadline=ask.deadline)))


def _blocks(numbers: Ints) -> int:
    return int(numbers.max()) + 1 if len(numbers) else 0


def _exact(subject: Subject, ask: Ask, found: list[Candidate]) -> Candidate | None:
    """The largest norm over all slopes: enumerated where few, else branched on with the program as bound."""
    if subject.form is None or not _scalar(subject.form):
        raise UsageError("exact values need scalar activations", hint="use --method neuron")
    form = subject.form
    if ask.norm not in (2, math.inf):
        raise UsageError("exact values are for the norms 2 and inf", hint="use --method neuron")
    start: Floats | None = None
    if form.implicit or form.blocks > FEW_BLOCKS:
        start = certify(form, interior_point(cone_problem(form), deadline=ask.deadline).point).multipliers
    result = exact_fgl(
        form,
        bound=lambda part: interior_point(cone_problem(part)).multipliers,
        start=start,
        norm=2.0 if ask.norm == 2 else math.inf,
        search=Search(enumerate_up_to=FEW_BLOCKS, deadline=ask.deadline),
    )
    if not math.isfinite(result.upper):
        raise CertificationError("the time ended before all slopes were looked at", hint="raise --time")
    note = f"{result.leaves} leaves; attained by slopes {result.value:.9g}"
    return Candidate("exact" if result.complete else "exact (not finished)", result.upper, 0.0, note=note)


def _named(name: str, candidate: Candidate) -> Candidate:
    return Candidate(name, candidate.upper, candidate.seconds, candidate.multipliers, candidate.note)


_METHODS: dict[str, Callable[[Subject, Ask, list[Candidate]], Candidate | None]] = {
    "product": _product,
    "recursion": _recursion,
    "layer": _layer,
    "first-order": _first_order,
    "neuron": _neuron,
    "exact": _exact,
}
