"""What a query returns: frozen records, with reasons that tell the user what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


class Status(Enum):
    """The four words of the VNN-LIB interface."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"
    TIMED_OUT = "timed-out"


class Reason(Enum):
    """Why a query ended as it did. The value is what the user reads."""

    PROVED = "every part of the input region was proved free of violations in float64 with rounding charged"
    EMPTY_REGION = "the input region of the property is empty, so nothing can violate it (a vacuous property)"
    REPLAYED = "ONNX Runtime confirms the violation on the original file, with no tolerance"
    OUT_OF_TIME = "the time limit was reached; see `gap` for how close it was, or raise `timeout`"
    OUT_OF_MEMORY = "one subproblem does not fit in the memory budget; use a smaller region or device='cpu'"
    PRECISION_FLOOR = "the margin is below what float64 rounding can decide; the property may be exactly tight"
    ONLY_WITHIN_TOLERANCE = "an input violates the property only within rounding tolerance; that is not reported as sat"
    WITNESS_NOT_REPLAYED = "an input looked like a violation, but ONNX Runtime disagrees on the original file"
    STALLED = "no subproblem could be split further"
    INTERRUPTED = "stopped by the user; `gap` is the best bound so far"


@dataclass(frozen=True, slots=True)
class Witness:
    """An input that violates the property, as replayed by ONNX Runtime on the original file.

    `inputs` and `outputs` are flat float64 arrays holding the exact values of the network's dtype, in the order
    X_0.. and Y_0.. of VNN-LIB.
    """

    inputs: FloatArray
    outputs: FloatArray
    margin: float  # how far the replayed outputs are inside the violation; >= 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and times of one query. Seconds are wall time."""

    seconds: float = 0.0
    domains: int = 0
    closed: int = 0
    open: int = 0
    strategy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to one query.

    `gap` is how far the worst open clause's certified bound is from closing (0 when proved, None when not computed).
    """

    status: Status
    reason: Reason
    witness: Witness | None = None
    gap: float | None = None
    stats: Stats = field(default_factory=Stats)
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # remarks for the user: an empty box, a violation already at the centre

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict has four values; compare `verdict.status` with Status.UNSAT or Status.SAT")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        record = asdict(self)
        record["status"], record["reason"] = self.status.value, self.reason.name.lower()
        record["advice"] = self.reason.value
        if self.witness is not None:
            record["witness"] = {
                "inputs": self.witness.inputs.tolist(),
                "outputs": self.witness.outputs.tolist(),
                "margin": self.witness.margin,
            }
        record["provenance"] = dict(self.provenance)
        return record


@dataclass(frozen=True, slots=True)
class Bounds:
    """Certified bounds of one layer over a region: `lower <= value <= upper` for every real input in the region."""

    layer: str
    lower: FloatArray
    upper: FloatArray
    method: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.layer,
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "method": self.method,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class LayerShare:
    """What one nonlinear layer contributes to a Lipschitz bound: its blocks and the range of their multipliers."""

    name: str
    blocks: int
    smallest: float
    largest: float


@dataclass(frozen=True, slots=True)
class Jump:
    """`||f(x) - f(y)|| <= slope ||x - y|| + height` for all x, y of the region: what holds for a network that jumps.

    `where` names the nodes that jump.
    """

    slope: float
    height: float
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LipschitzBound:
    """`||f(x) - f(y)|| <= upper ||x - y||` for all x, y of the region, certified in float64 with rounding charged.

    `lower` is a quotient that some pair of inputs attains, `gap` = upper / lower - 1. `method` names what proposed the
    multipliers; `multipliers` (blocks,) are the ones that prove `upper` (empty for norm products). `candidates` holds
    (method, certified upper bound, seconds) of everything that was tried, best first. `contraction`, for implicit
    models only, is the certified norm < 1 that shows that their equation has exactly one solution. Where the network
    jumps, `upper` is infinite and `jump` says what holds instead.
    """

    upper: float
    lower: float
    norm: str
    region: str
    method: str
    gap: float
    seconds: float
    multipliers: FloatArray
    layers: tuple[LayerShare, ...] = ()
    candidates: tuple[tuple[str, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    contraction: float | None = None
    jump: Jump | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite bound or gap is None."""
        record = {name: getattr(self, name) for name in ("lower", "norm", "region", "method", "seconds", "contraction")}
        for name in ("upper", "gap"):
            value = getattr(self, name)
            record[name] = value if np.isfinite(value) else None
        record["jump"] = None if self.jump is None else asdict(self.jump)
        record["multipliers"] = self.multipliers.tolist()
        record["layers"] = [asdict(layer) for layer in self.layers]
        record["candidates"] = [
            {"method": method, "upper": upper, "seconds": seconds} for method, upper, seconds in self.candidates
        ]
        record["notes"], record["provenance"] = list(self.notes), dict(self.provenance)
        return record


@dataclass(frozen=True, slots=True)
class Radius:
    """No input within `radius` of the given one, in the 2-norm, changes the label. `lipschitz` was used for it."""

    radius: float
    label: int
    margin: float  # least certified difference between the label's output and another one, at the input
    lipschitz: float
    local: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a running query, handed to the `progress` callback a few times per second.

    `bound` is the worst certified margin over open subproblems (0 closes the query); `rate` is subproblems per second.
    """

    seconds: float
    phase: str  # "attack", "bounds", "branching"
    open: int = 0
    closed: int = 0
    bound: float | None = None
    gap: float | None = None
    rate: float = 0.0
