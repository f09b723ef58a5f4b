"""Counterexamples as text: the competition's list of pairs for VNN-LIB 1, and the assignments of VNN-LIB 2."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from verinet.errors import PropertyError
from verinet.results import Witness

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")
_DECLARATION = re.compile(r"\(\s*declare-(input|hidden|output)\s+([^\s()]+)\s+([^\s()\[\]]+)\s*\[([\d\s,]*)\]")
_VERSION_2 = re.compile(r"\(\s*vnnlib-version\s*<?\s*2")
_HEAD = 100_000  # bytes in which a VNN-LIB 2 query shows what it is; files of version 1 may be far larger


@dataclass(frozen=True, slots=True)
class Declared:
    """One variable of a VNN-LIB 2 query: `role` is input, hidden or output; `shape` is () for a scalar."""

    role: str
    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def assignment(witness: Witness, spec: str | Path) -> str:
    """The witness in the form that goes with the version of the property `spec` (a path to the file).

    Raises:
        PropertyError: the declarations of a VNN-LIB 2 query do not fit the witness.
    """
    if not is_version_2(read_text(spec, _HEAD)):
        return version_1(witness)
    return version_2(witness, declared_variables(read_text(spec)))


def version_1(witness: Witness) -> str:
    """`((X_0 v)` ... `(Y_0 v))`, one pair a line. Values parse back to the same float64."""
    pairs = [f"({name}_{i} {float(v)!r})" for name, i, v in _named(witness)]
    return "(" + "\n ".join(pairs) + ")\n"


def parse_version_1(text: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(inputs, outputs) from competition text. A verdict word may stand before the list.

    Raises:
        PropertyError: indices are missing or occur twice, or a value is no number.
    """
    values: dict[str, dict[int, float]] = {"X": {}, "Y": {}}
    for name, index, number in _PAIR.findall(text):
        if int(index) in values[name]:
            raise PropertyError(f"the assignment gives {name}_{index} twice")
        values[name][int(index)] = _number(number)
    return _consecutive("X", values["X"]), _consecutive("Y", values["Y"])


def version_2(witness: Witness, variables: Sequence[Declared]) -> str:
    """For every variable a header `NAME TYPE [shape]` and one value per line, in row-major order.

    Values are written without an exponent, as the standard's grammar of numbers wants it.
    """
    lines: list[str] = []
    for variable, values in assigned(witness, variables):
        lines.append(f"{variable.name} {variable.type} [{','.join(map(str, variable.shape))}]")
        lines += [_positional(value, variable.type) for value in values]
    return "\n".join(lines) + "\n"


def assigned(witness: Witness, variables: Sequence[Declared]) -> list[tuple[Declared, npt.NDArray[np.float64]]]:
    """The values of every variable, flat, in order of declaration. Raises PropertyError where sizes do not fit."""
    left = {
        "input": np.ravel(witness.inputs).astype(np.float64),
        "output": np.ravel(witness.outputs).astype(np.float64),
    }
    found: list[tuple[Declared, npt.NDArray[np.float64]]] = []
    for variable in variables:
        side = "input" if variable.role == "input" else "output"
        values, left[side] = np.split(left[side], [variable.size])
        if len(values) != variable.size:
            raise PropertyError(f"{variable.name} declares {variable.size} entries, the witness has {len(values)}")
        found.append((variable, values))
    surplus = {role: len(rest) for role, rest in left.items() if len(rest)}
    if surplus:
        raise PropertyError(f"the witness has more entries than the query declares: {surplus}")
    return found


def serialise(witness: Witness, spec: str | Path, folder: str | Path) -> list[Path]:
    """Write every variable as an ONNX TensorProto, `folder`/NAME.pb (VNN-LIB 2.0, --serialise-assignments).

    Tensors have the declared element type, float64 where that is `real`; VNN-LIB 1 has the variables X and Y. The
    folder is made if it is missing. Raises PropertyError, OSError.
    """
    from onnx import numpy_helper

    if is_version_2(read_text(spec, _HEAD)):
        variables = declared_variables(read_text(spec))
    else:
        sides = (("input", "X", witness.inputs), ("output", "Y", witness.outputs))
        variables = tuple(Declared(role, name, "real", (np.size(values),)) for role, name, values in sides)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for variable, values in assigned(witness, variables):
        kind = np.float64 if variable.type.lower() == "real" else np.dtype(variable.type)
        tensor = numpy_helper.from_array(values.astype(kind).reshape(variable.shape), variable.name)
        written.append(place / f"{variable.name}.pb")
        written[-1].write_bytes(tensor.SerializeToString())
    return written


def declared_variables(text: str) -> tuple[Declared, ...]:
    """Variables of a VNN-LIB 2 query in order of declaration."""
    plain = re.sub(r";[^\n]*", "", text)
    return tuple(
        Declared(role, name, kind, tuple(int(extent) for extent in shape.replace(",", " ").split()))
        for role, name, kind, shape in _DECLARATION.findall(plain)
    )


def is_version_2(text: str) -> bool:
    """Whether the text says that it is VNN-LIB 2, or declares a network as only VNN-LIB 2 does."""
    head = re.sub(r";[^\n]*", "", text)
    return _VERSION_2.search(head) is not None or "(declare-network" in head


def read_text(spec: str | Path, limit: int = -1) -> str:
    """The text of a property file, unpacked if it is gzipped; at most `limit` bytes of it."""
    with Path(spec).open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if not packed:
            return plain.read(limit).decode("utf-8", errors="replace")
        with gzip.open(plain) as stream:
            return stream.read(limit).decode("utf-8", errors="replace")


def _named(witness: Witness) -> list[tuple[str, int, float]]:
    sides = (("X", witness.inputs), ("Y", witness.outputs))
    return [(name, i, float(v)) for name, side in sides for i, v in enumerate(np.ravel(side))]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PropertyError(f"'{text}' in the assignment is not a number") from None


def _consecutive(name: str, values: dict[int, float]) -> npt.NDArray[np.float64]:
    missing = next((i for i in range(len(values)) if i not in values), None)
    if missing is not None:
        raise PropertyError(f"the assignment has no {name}_{missing}")
    return np.array([values[i] for i in range(len(values))], dtype=np.float64)


def _positional(value: float, kind: str) -> str:
    if "int" in kind:
        return str(int(value))
    # All digits of the float64, also for a float32: a shorter text could name a number outside the box.
    return np.format_float_positional(np.float64(value), unique=True, trim="0")
