"""The declarations of VNN-LIB 2.0: its version and one network with input and output tensors."""

from __future__ import annotations

import math
import re

from verinet.spec.property import Query2, Variable2
from verinet.spec.source import Cursor

_VERSION = re.compile(r"(<?)([0-9]+)\.([0-9]+)(>?)")
_NAME = re.compile(r"[A-Za-z_][\w.@$'-]*", re.ASCII)
_TYPE = re.compile(r"([A-Za-z_]\w*)(?:\s*\[([^\]]*)\])?", re.ASCII)
_SIZE = re.compile(r"\s*[0-9]{1,9}\s*")
_TYPES = frozenset(
    "real float16 float32 float64 bfloat16 float8e4m3fn float8e5m2 float8e4m3fnuz float8e5m2fnuz float4e2m1 "
    "int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool Real".split()
)
_MOST_ELEMENTS = 10**9
_LATER = {
    "declare-hidden": "hidden variables are not supported yet",
    "equal-to": "queries over more than one network are not supported yet",
    "isomorphic-to": "queries over more than one network are not supported yet",
    "isometric-to": "queries over more than one network are not supported yet",
}


def version(cursor: Cursor, notes: list[str]) -> str:
    """Read `<2.0>`; the brackets may be missing, as in some published files. Only major version 2 is known."""
    match = _VERSION.fullmatch(cursor.next())
    if match is None:
        raise cursor.wrong("a version such as <2.0>")
    if match[2] != "2":
        raise cursor.source.property_error(
            cursor.start, f"VNN-LIB version {match[2]}.{match[3]} is not known", "versions 1.0 and 2.0 are"
        )
    if not (match[1] and match[4]):
        notes.append("the version is not written as <2.0>; other tools may reject the file")
    return f"{match[2]}.{match[3]}"


def declare_network(cursor: Cursor, of_version: str) -> Query2:
    """Read from the network's name up to, not including, its closing parenthesis."""
    if not _NAME.fullmatch(cursor.next()):
        raise cursor.wrong("the name of the network")
    network, variables = cursor.token, list[Variable2]()
    while cursor.peek() == "(":
        cursor.next()
        kind = cursor.next()
        if kind in _LATER:
            raise cursor.source.property_error(cursor.start, _LATER[kind], "verify one network by inputs and outputs")
        if kind not in ("declare-input", "declare-output"):
            raise cursor.wrong("declare-input or declare-output")
        variable = _declare_tensor(cursor, is_output=kind == "declare-output")
        if any(variable.name == other.name for other in variables):
            raise cursor.source.syntax_error(cursor.start, f"{variable.name} is declared twice")
        variables.append(variable)
    for is_output, kind in ((False, "declare-input"), (True, "declare-output")):
        if not any(variable.is_output == is_output for variable in variables):
            raise cursor.source.syntax_error(cursor.start, f"the network {network} has no {kind}")
    return Query2(network, tuple(variables), of_version)


def _declare_tensor(cursor: Cursor, *, is_output: bool) -> Variable2:
    """Read `name type [shape])`, with an optional quoted ONNX name."""
    if not _NAME.fullmatch(cursor.next()):
        raise cursor.wrong("the name of a variable")
    name = cursor.token
    match = _TYPE.fullmatch(cursor.next())  # type and shape are one token, like X[0]
    if match is None or match[1] not in _TYPES:
        raise cursor.wrong("an element type such as float32 or real")
    if match[2] is None:
        cursor.next()
        raise cursor.wrong("a shape such as [1, 5], or [] for a scalar")
    sizes = match[2].split(",") if match[2].strip() else []
    if not all(_SIZE.fullmatch(size) for size in sizes):
        raise cursor.source.property_error(
            cursor.start, f"the shape [{match[2]}] is not made of numbers", "fix dynamic dimensions to the wanted sizes"
        )
    shape = tuple(int(size) for size in sizes)
    if not 0 < math.prod(shape) <= _MOST_ELEMENTS:
        raise cursor.source.property_error(cursor.start, f"{name} has {math.prod(shape)} elements: [{match[2]}]")
    if cursor.peek().startswith('"'):
        cursor.next()
    cursor.expect(")")
    return Variable2(name, is_output, match[1], shape)
