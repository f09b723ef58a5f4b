"""The declarations of VNN-LIB 2.0: its version and the networks with their tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from verinet.spec.lint import Lint
from verinet.spec.property import Network2, Relation, Role, Variable2
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
_ROLES: Mapping[str, Role] = {"declare-input": "input", "declare-hidden": "hidden", "declare-output": "output"}
_RANK: Mapping[Role, int] = {"input": 0, "hidden": 1, "output": 2}
_RELATIONS: Mapping[str, Relation] = {
    "equal-to": "equal-to",
    "isomorphic-to": "isomorphic-to",
    "isometric-to": "isomorphic-to",  # its name in drafts of the standard
}


def version(cursor: Cursor, lint: Lint) -> str:
    """Read `<2.0>`; the brackets may be missing, as in some published files. Only major version 2 is known."""
    match = _VERSION.fullmatch(cursor.next())
    if match is None:
        raise cursor.wrong("a version such as <2.0>")
    if match[2] != "2":
        raise cursor.source.property_error(
            cursor.start, f"VNN-LIB version {match[2]}.{match[3]} is not known", "versions 1.0 and 2.0 are"
        )
    if not (match[1] and match[4]):
        lint.note("the version is not written as <2.0>", cursor)
    return f"{match[2]}.{match[3]}"


def declare_network(cursor: Cursor, known: Mapping[str, Network2], lint: Lint) -> Network2:
    """Read from the network's name up to, not including, its closing parenthesis.

    `known` are the networks declared so far. Raises VnnlibSyntaxError, PropertyError.
    """
    name = _name(cursor, "the name of the network", lint)
    if name in known:
        raise cursor.source.syntax_error(cursor.start, f"the network {name} is declared twice")
    draft = _Draft(name, {v.name for network in known.values() for v in network.variables})
    while cursor.peek() == "(":
        cursor.next()
        kind = cursor.next()
        if kind in _RELATIONS:
            _relation(cursor, draft, known, lint)
        elif kind in _ROLES:
            draft.add(cursor, _declare_tensor(cursor, _ROLES[kind], lint), lint)
        else:
            raise cursor.wrong("declare-input, declare-hidden, declare-output, equal-to or isomorphic-to")
    network = Network2(name, tuple(draft.variables), draft.relation, draft.target)
    for wanted in ("declare-input", "declare-output"):
        if not network.of_role(_ROLES[wanted]):
            raise cursor.source.syntax_error(cursor.start, f"the network {name} has no {wanted}")
    if network.target:
        _check_relation(cursor, draft, known[network.target], lint)
    return network


@dataclass(slots=True)
class _Draft:
    """A network while it is read. `taken` are the names of variables of earlier networks."""

    name: str
    taken: set[str]
    variables: list[Variable2] = field(default_factory=list)
    relation: Relation = ""
    target: str = ""
    place: int = 0  # of the relation

    def add(self, cursor: Cursor, variable: Variable2, lint: Lint) -> None:
        if variable.name in self.taken:
            raise cursor.source.syntax_error(cursor.start, f"{variable.name} is declared twice")
        if self.variables and _RANK[variable.role] < _RANK[self.variables[-1].role]:
            lint.note("inputs come before hidden variables, and those before outputs", cursor)
        self.taken.add(variable.name)
        self.variables.append(variable)

    def interface(self) -> list[Variable2]:
        """Inputs and outputs."""
        return [v for v in self.variables if v.role == "input"] + [v for v in self.variables if v.role == "output"]


def _relation(cursor: Cursor, draft: _Draft, known: Mapping[str, Network2], lint: Lint) -> None:
    """Read `name)` behind equal-to or isomorphic-to."""
    relation, start = _RELATIONS[cursor.token], cursor.start
    if draft.relation:
        raise cursor.source.syntax_error(start, f"the network {draft.name} has a second {cursor.token}")
    if cursor.token not in ("equal-to", "isomorphic-to") or draft.variables:
        lint.note(f"{relation} comes first in a network, under that name", cursor)
    target = _name(cursor, f"the name of the network that {draft.name} is {relation}", lint)
    if target not in known:
        names = ", ".join(known) or "none"
        raise cursor.source.syntax_error(
            cursor.start, f"the network {target} is not declared before this", f"declared: {names}"
        )
    if known[target].relation:
        raise cursor.source.property_error(
            cursor.start,
            f"{target} is itself {known[target].relation} {known[target].target}",
            f"say '({relation} {known[target].target})'",
        )
    draft.relation, draft.target, draft.place = relation, target, start
    cursor.expect(")")


def _check_relation(cursor: Cursor, draft: _Draft, target: Network2, lint: Lint) -> None:
    """Same inputs and outputs but for names; isomorphic networks may differ in element types, by the standard."""
    own = draft.interface()
    other = [*target.of_role("input"), *target.of_role("output")]
    if [(v.role, v.shape) for v in own] != [(v.role, v.shape) for v in other]:
        raise cursor.source.property_error(
            draft.place,
            f"the inputs and outputs of {draft.name} do not have the number and shapes of those of {target.name}",
            f"remove the {draft.relation}, or declare them alike",
        )
    if [v.dtype for v in own] == [v.dtype for v in other]:
        return
    if draft.relation == "equal-to":
        raise cursor.source.property_error(
            draft.place,
            f"the inputs and outputs of {draft.name} do not have the element types of those of {target.name}",
            "equal networks have equal types",
        )
    lint.note(f"{draft.name} and {target.name} differ in element types", cursor)


def _name(cursor: Cursor, what: str, lint: Lint) -> str:
    if not _NAME.fullmatch(cursor.next()):
        raise cursor.wrong(what)
    lint.name(cursor)
    return cursor.token


def _declare_tensor(cursor: Cursor, role: Role, lint: Lint) -> Variable2:
    """Read `name type [shape])`; a quoted ONNX name follows hidden variables."""
    name = _name(cursor, "the name of a variable", lint)
    match = _TYPE.fullmatch(cursor.next())  # type and shape are one token, like X[0]
    if match is None or match[1] not in _TYPES:
        raise cursor.wrong("an element type such as float32 or real")
    if match[2] is None:
        cursor.next()
        raise cursor.wrong("a shape such as [1, 5], or [] for a scalar")
    shape = _shape(cursor, name, match[2])
    node = ""
    if role == "hidden" or cursor.peek().startswith('"'):
        node = _onnx_name(cursor)
        if role != "hidden":
            lint.note("only hidden variables have an ONNX name; inputs and outputs are matched by position", cursor)
            node = ""
    if cursor.peek() == "initialized":
        raise cursor.source.property_error(
            cursor.start, f"{name}: initialized inputs are not supported", "give the input bounds instead"
        )
    cursor.expect(")")
    return Variable2(name, role, match[1], shape, node)


def _shape(cursor: Cursor, name: str, text: str) -> tuple[int, ...]:
    sizes = text.split(",") if text.strip() else []
    if not all(_SIZE.fullmatch(size) for size in sizes):
        raise cursor.source.property_error(
            cursor.start, f"the shape [{text}] is not made of numbers", "fix dynamic dimensions to the wanted sizes"
        )
    shape = tuple(int(size) for size in sizes)
    if not 0 < math.prod(shape) <= _MOST_ELEMENTS:
        raise cursor.source.property_error(cursor.start, f"{name} has {math.prod(shape)} elements: [{text}]")
    return shape


def _onnx_name(cursor: Cursor) -> str:
    token = cursor.next()
    if len(token) < 2 or not token.startswith('"'):
        raise cursor.wrong("the ONNX name of a hidden variable in double quotes")
    escapes = {'\\"': '"', "\\\\": "\\", "\\n": "\n", "\\t": "\t"}
    return re.sub(r"\\[\"\\nt]", lambda match: escapes[match[0]], token[1:-1])
