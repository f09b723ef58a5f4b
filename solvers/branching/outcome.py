"""What a search hands back to the strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt


class End(Enum):
    """How a search ended."""

    CLOSED = "every domain was closed"
    CANDIDATE = "an input that violates the property was found"
    TIME = "out of time"
    STALLED = "nothing left to split"
    MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a search. `bound` is the worst margin over open domains (negative), None when everything closed."""

    end: End
    bound: float | None
    domains: int
    closed: int
    open: int


Offer = Callable[[npt.NDArray[np.float64]], bool]
"""Called with candidate inputs (k, inputs); True when one of them was confirmed as a witness."""

Report = Callable[[str, int, int, "float | None"], None]
"""Called with (phase, open, closed, worst margin)."""
