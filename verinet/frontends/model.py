"""What a reader hands over: the graph, how the network's inputs and outputs are laid out, and the original file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from verinet.ir.graph import Graph, Shape

RecordStatus = Literal["bounded", "folded", "unsupported"]


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    """One ONNX node as `verinet inspect` lists it.

    "bounded": has bounds; "folded": a constant, or not needed for the outputs; "unsupported": no bounds yet.
    """

    name: str
    op: str
    status: RecordStatus
    detail: str = ""


@dataclass(frozen=True)
class Model:
    """A network read from a file. Inputs and outputs are in the order of the file, and flat in C order in `graph`.

    Parameters of `graph` keep the types of the file (float32 weights stay float32); coefficients that are computed
    while reading are float64. Cast with `graph.to(...)` before use.
    """

    graph: Graph
    input_names: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    input_dtypes: tuple[np.dtype[Any], ...]
    output_names: tuple[str, ...]
    output_shapes: tuple[Shape, ...]
    output_dtypes: tuple[np.dtype[Any], ...]
    sha256: str  # of the file as it is stored (of the serialised model if there was no file)
    raw: bytes | None  # the ONNX bytes, unpacked from .gz; None if weights are in separate files: then use `path`
    path: Path | None
    opset: int
    records: tuple[OperatorRecord, ...] = ()
    tensors: Mapping[str, int] = field(default_factory=dict)  # ONNX tensor name to node position, where one exists
    # What was computed from the file and is worth keeping, by name; never copied to another model.
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def element_type(self) -> np.dtype[Any]:
        """Number type of the inputs."""
        return self.input_dtypes[0]

    @property
    def name(self) -> str:
        """For messages: the file name, or how the model was given."""
        return self.path.name if self.path is not None else "the given model"
