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

    Row i of the CSR matrix holds columns[starts[i]:starts[i+1]] and the same slice of `values`; `starts` has one entry
    more than there are rows. No rows at all means that every output violates. `bounds` are rounded up where the
    written number is not a float64, so the rows enclose the written ones. A row may be the written one times a positive
    factor, chosen so that its weights are float64 exactly.
    `weight_error` is 0 when every weight is exact, else the relative error that each one may carry (2**-53); a prover
    must charge it.
    """

    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Floats
    bounds: Floats
    strict: npt.NDArray[np.bool_]
    weight_error: float = 0.0

    def __len__(self) -> int:
        return len(self.bounds)


@dataclass(frozen=True, slots=True)
class Clause:
    """One disjunct. `box` is an index into the property's boxes."""

    box: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Variable2:
    """A tensor that a VNN-LIB 2.0 file declares. `shape` is () for a scalar, which is written without an index."""

    name: str
    is_output: bool
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Query2:
    """What a VNN-LIB 2.0 file declares, in order: needed to name the values of a witness as the file does."""

    network: str
    variables: tuple[Variable2, ...]
    version: str = "2.0"


@dataclass(frozen=True, slots=True)
class Property:
    """OR over clauses. Clauses with the same input box share one entry of `boxes`.

    `v2` is None for VNN-LIB 1.0. Several tensors of a 2.0 file are flattened in C order, one after the other.
    """

    boxes: tuple[Box, ...]
    clauses: tuple[Clause, ...]
    inputs: int
    outputs: int
    name: str = "property"
    notes: tuple[str, ...] = ()
    v2: Query2 | None = None
