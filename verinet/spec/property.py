"""Properties in normal form: an OR of clauses, each a box of inputs and an AND of linear rows over the outputs.

A property states what must NOT happen, as VNN-LIB does: `sat` means that some clause can be satisfied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["input", "hidden", "output"]
Relation = Literal["", "equal-to", "isomorphic-to"]
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
    """A tensor that a VNN-LIB 2.0 file declares. `shape` is () for a scalar, which is written without an index.

    `node` is the ONNX tensor that a hidden variable stands for, else empty.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    node: str = ""

    @property
    def is_input(self) -> bool:
        return self.role == "input"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Network2:
    """One network of a VNN-LIB 2.0 file. `relation` to the network `target` is empty where there is none."""

    name: str
    variables: tuple[Variable2, ...]
    relation: Relation = ""
    target: str = ""

    def of_role(self, role: Role) -> tuple[Variable2, ...]:
        return tuple(variable for variable in self.variables if variable.role == role)


@dataclass(frozen=True, slots=True)
class Query2:
    """What a VNN-LIB 2.0 file declares, in order: needed to name the values of a witness as the file does."""

    networks: tuple[Network2, ...]
    version: str = "2.0"

    @property
    def variables(self) -> tuple[Variable2, ...]:
        """All variables in order of declaration."""
        return tuple(variable for network in self.networks for variable in network.variables)

    @property
    def is_plain(self) -> bool:
        """One network without hidden variables: what VNN-LIB 1.0 can speak of as well."""
        return len(self.networks) == 1 and not self.networks[0].of_role("hidden")


@dataclass(frozen=True, slots=True)
class Tie:
    """A declared input that is `scale * x + offset` for the free input x at position `source`."""

    source: int
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    @property
    def is_copy(self) -> bool:
        return self.scale == 1 and self.offset == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the vectors of a property relate to the ones that its file declares.

    The file declares `inputs` inputs and `values` hidden and output entries, each flat and in order of declaration.
    `ties` has one entry per declared input, or is empty when the free inputs are the declared ones. Behind the values,
    the rows of the property speak of `extras`: products of codes, where 2*i stands for the free input i and 2*j + 1
    for the value j. A product of one code is that input itself.
    """

    inputs: int
    values: int
    ties: tuple[Tie, ...] = ()
    extras: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Property:
    """OR over clauses. Clauses with the same input box share one entry of `boxes`.

    `v2` is None for VNN-LIB 1.0. Several tensors of a 2.0 file are flattened in C order, one after the other.
    `layout` is None where boxes speak of the network's inputs and rows of its outputs, and of nothing else.
    """

    boxes: tuple[Box, ...]
    clauses: tuple[Clause, ...]
    inputs: int
    outputs: int
    name: str = "property"
    notes: tuple[str, ...] = ()
    v2: Query2 | None = None
    layout: Layout | None = None
