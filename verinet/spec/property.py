"""Properties in normal form: an OR of clauses, each a box of inputs and an AND of linear rows over the outputs.

A property states what must NOT happen, as VNN-LIB does: `sat` means that some clause can be satisfied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """Closed box `lower <= x <= upper` over the flat input X_0 .. X_{d-1}.

    `lower` and `upper` are float64. Where the decimal text of the file is not a float64, they are rounded *outward*,
    so the box encloses the written one (proofs stay valid); `inner_lower`/`inner_upper` are rounded inward, for
    witnesses. For the float64-exact case both pairs are equal.
    """

    lower: Floats
    upper: Floats
    inner_lower: Floats
    inner_upper: Floats

    @property
    def is_empty(self) -> bool:
        return bool((self.lower > self.upper).any())


@dataclass(frozen=True, slots=True)
class Rows:
    """The conjunction `weights @ y <= bounds` (or `<` where `strict`), written sparsely: CSR over outputs.

    `input_weights` is None unless a row also mentions inputs (then `weights @ y + input_weights @ x <= bounds`).
    Row i of the CSR matrix holds columns[start[i]:start[i+1]] and the same slice of `values`.
    """

    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Floats
    bounds: Floats
    strict: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.bounds)


@dataclass(frozen=True, slots=True)
class Clause:
    """One disjunct. `box` is an index into the property's boxes."""

    box: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Property:
    """OR over clauses. Clauses with the same input box share one entry of `boxes`."""

    boxes: tuple[Box, ...]
    clauses: tuple[Clause, ...]
    inputs: int
    outputs: int
    name: str = "property"
    notes: tuple[str, ...] = ()
