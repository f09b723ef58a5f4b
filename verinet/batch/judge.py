"""Judges a counterexample as the competition does in 2026, apart from the search that found it.

Only the inputs count: they are cast to the network's number type, ONNX Runtime runs the original file, and the formula
is evaluated on the result, with zero tolerance first. Inputs that leave their bounds by at most 1e-4 still earn credit.
Source: the scoring code in VNN-COMP/vnncomp2026_results, folder SCORING (rules only).
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verinet.errors import VerinetError

Floats = npt.NDArray[np.float64]
INPUT_TOLERANCE = 1e-4  # absolute; outputs have none
_HEAD = re.compile(r"^(\S+)\s+(\S+)\s+\[([\d,\s]*)\]$")
_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)\s*")


class Ruling(Enum):
    """What a counterexample is worth."""

    CORRECT = "it violates the property with zero tolerance"
    WITHIN_TOLERANCE = "it violates the property when inputs may leave their bounds by 1e-4"
    WRONG = "it does not violate the property"
    MALFORMED = "it cannot be read"
    UNSUPPORTED = "this judge cannot decide it"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ruling, and a detail for people."""

    ruling: Ruling
    detail: str = ""


class _MalformedError(ValueError):
    """The text is no counterexample."""


def judge(model: Path, spec: Path, text: str) -> Judgement:
    """Judge the text behind the word `sat` in a results file. Files may be gzipped; one network only."""
    from verinet.spec.exact import ExactProperty
    from verinet.witness.formats import is_version_2, read_text

    try:
        session, inputs, outputs = _open(model)
        if is_version_2(read_text(spec, 100_000)):
            point = _version_2(text, read_text(spec))
        else:
            point = _version_1(text, outputs)
        rounded, found = _run(session, inputs, point)
        if ExactProperty.read(spec).holds(rounded, found):
            return Judgement(Ruling.CORRECT)
        return _with_tolerance(spec, rounded, found)
    except _MalformedError as error:
        return Judgement(Ruling.MALFORMED, str(error))
    except VerinetError as error:
        return Judgement(Ruling.UNSUPPORTED, str(error))


def _with_tolerance(spec: Path, point: Floats, outputs: Floats) -> Judgement:
    from verinet.spec import read_property
    from verinet.witness.replay import margin

    inside = margin(read_property(spec, len(point), len(outputs)), point, outputs, INPUT_TOLERANCE)
    if inside >= 0:
        return Judgement(Ruling.WITHIN_TOLERANCE, f"by {inside:.3g}")
    return Judgement(Ruling.WRONG, f"the nearest disjunct is missed by {-inside:.3g}")


def _version_1(text: str, outputs: int | None) -> Floats:
    """X from `((X_0 v) ... (Y_0 v) ...)`: one outer parenthesis, indices consecutive from 0."""
    body = text.strip()
    if not (body.startswith("(") and body.endswith(")")):
        raise _MalformedError("there is no list in parentheses")
    values: dict[str, list[float]] = {"X": [], "Y": []}
    body, position = body[1:-1].strip(), 0
    while position < len(body):
        found = _PAIR.match(body, position)
        if found is None:
            raise _MalformedError(f"'{body[position : position + 30]}' is no (NAME VALUE) pair")
        name, index, number = found.groups()
        if int(index) != len(values[name]):
            raise _MalformedError(f"{name}_{index} stands where {name}_{len(values[name])} should")
        values[name].append(_number(number))
        position = found.end()
    if outputs is not None and len(values["Y"]) != outputs:
        raise _MalformedError(f"{len(values['Y'])} values of Y are given, the network has {outputs}")
    return np.array(values["X"])


def _version_2(text: str, spec: str) -> Floats:
    """Inputs from blocks of a header `NAME TYPE [shape]` and one value a line, in order of declaration."""
    from verinet.witness.formats import declared_variables

    lines = [line.strip() for line in text.strip().splitlines()]
    found: list[float] = []
    for variable in declared_variables(spec):
        head = _HEAD.match(lines[0]) if lines else None
        if head is None or head[1] != variable.name:
            raise _MalformedError(f"expected the header of {variable.name}, got '{lines[0] if lines else 'the end'}'")
        if head[2] not in (variable.type, "real"):
            raise _MalformedError(f"{variable.name} is {variable.type}, not {head[2]}")
        if tuple(int(n) for n in head[3].replace(",", " ").split()) != variable.shape:
            raise _MalformedError(f"{variable.name} has the shape {list(variable.shape)}, not [{head[3]}]")
        values, lines = lines[1 : 1 + variable.size], lines[1 + variable.size :]
        if len(values) != variable.size:
            raise _MalformedError(f"{variable.name} has {variable.size} entries, {len(values)} are given")
        numbers = [_number(value) for value in values]
        found += numbers if variable.role == "input" else []
    if lines:
        raise _MalformedError(f"text behind the last variable: '{lines[0][:30]}'")
    return np.array(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _MalformedError(f"'{text}' is not a number") from None


def _open(model: Path) -> tuple[Any, list[tuple[str, tuple[int, ...], Any]], int | None]:
    """Session, (name, shape, number type) of every input, and the number of outputs where the file fixes it."""
    import onnxruntime

    data = model.read_bytes() if model.is_file() else b""
    try:
        given: Any = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else str(model)
    except (OSError, EOFError) as error:
        raise VerinetError(f"the network cannot be unpacked: {error}", where=str(model)) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exception types are not public
        raise VerinetError(f"ONNX Runtime cannot open the network: {error}", where=str(model)) from error
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    if any(entry.type not in types for entry in session.get_inputs()):
        raise VerinetError("an input is neither float32 nor float64", where=str(model))
    inputs = [(entry.name, _shape(entry.shape), types[entry.type]) for entry in session.get_inputs()]
    shapes = [entry.shape for entry in session.get_outputs()]
    fixed = all(isinstance(extent, int) for shape in shapes for extent in shape[1:])
    return session, inputs, sum(int(np.prod(_shape(shape))) for shape in shapes) if fixed else None


def _shape(shape: list[Any]) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else 1 for extent in shape)  # a symbolic batch is 1


def _run(session: Any, inputs: list[tuple[str, tuple[int, ...], Any]], point: Floats) -> tuple[Floats, Floats]:
    """(inputs as cast, outputs), flat float64."""
    sizes = [int(np.prod(shape)) for _, shape, _ in inputs]
    if len(point) != sum(sizes):
        raise _MalformedError(f"{len(point)} input values are given, the network takes {sum(sizes)}")
    if not np.isfinite(point).all():
        raise _MalformedError("an input value is not finite")
    parts = np.split(point, np.cumsum(sizes)[:-1])
    feeds = {name: part.reshape(shape).astype(t) for (name, shape, t), part in zip(inputs, parts, strict=True)}
    try:
        outputs = session.run(None, feeds)
    except Exception as error:  # see _open
        raise VerinetError(f"ONNX Runtime cannot run the network: {error}") from error
    rounded = np.concatenate([feed.astype(np.float64).ravel() for feed in feeds.values()])
    return rounded, np.concatenate([np.asarray(y, dtype=np.float64).ravel() for y in outputs])
