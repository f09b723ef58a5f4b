"""Which of the files on the command line are networks and which is the property."""

from __future__ import annotations

import ast
import gzip
import zlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from verinet.errors import UsageError


class Kind(Enum):
    """What a file holds."""

    NETWORK = "network"
    PROPERTY = "property"


NetworkFiles = Path | dict[str, Path]
"""The file of one network, or those of several by their names in the query."""

_SUFFIXES = {".onnx": Kind.NETWORK, ".vnnlib": Kind.PROPERTY}


def sort_files(files: Sequence[str | Path], networks: Sequence[str]) -> tuple[NetworkFiles, Path]:
    """(networks, property) from positional files in either order and from `--network NAME=FILE` options.

    A positional network may be the competition's list text for queries over several: `[('f', 'a.onnx'), ...]`.

    Raises:
        UsageError: a file is missing, a name occurs twice, or it is unclear which file is what.
    """
    lists = [str(file) for file in files if str(file).lstrip().startswith("[")]
    plain = [Path(file) for file in files if str(file) not in lists]
    pairs = [_named_network(text) for text in networks] + [pair for text in lists for pair in _listed_networks(text)]
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise UsageError(f"the network {twice} is given twice", hint="one file for each network")
    for path in (*plain, *named.values()):
        _require_file(path)
    expected = 1 if named else 2
    if len(plain) != expected:
        raise UsageError(
            f"expected {'one property' if named else 'a network and a property'}, got {len(plain)} file(s)",
            hint="verinet verify MODEL.onnx SPEC.vnnlib, or verinet verify SPEC.vnnlib --network NAME=MODEL.onnx",
        )
    if not named:
        return _order(plain[0], plain[1])
    return next(iter(named.values())) if len(named) == 1 else named, plain[0]


def kind_of(path: Path) -> Kind:
    """By suffix (`.gz` may follow), else by looking inside: VNN-LIB is text that begins with `(` or `;`."""
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    return _SUFFIXES.get(stem.suffix.lower()) or _sniff(path)


def _order(first: Path, second: Path) -> tuple[Path, Path]:
    kinds = (kind_of(first), kind_of(second))
    if kinds == (Kind.NETWORK, Kind.PROPERTY):
        return first, second
    if kinds == (Kind.PROPERTY, Kind.NETWORK):
        return second, first
    missing = "property (.vnnlib)" if kinds[0] is Kind.NETWORK else "network (.onnx)"
    raise UsageError(
        f"both files look like a {kinds[0].value}", where=f"{first} and {second}", hint=f"one has to be a {missing}"
    )


def _named_network(text: str) -> tuple[str, Path]:
    name, separator, file = text.partition("=")
    if not separator or not name or not file:
        raise UsageError(f"--network needs NAME=FILE, got '{text}'", hint="verinet verify Q.vnnlib --network f=f.onnx")
    return name, Path(file)


def _listed_networks(text: str) -> list[tuple[str, Path]]:
    """The pairs of a Python list text; nothing in it is run."""
    try:
        pairs = [(name, file) for name, file in ast.literal_eval(text.strip())]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pairs = [("", None)]
    if not pairs or not all(isinstance(word, str) and word for pair in pairs for word in pair):
        raise UsageError(
            "the list of networks is malformed",
            where=text[:200],
            hint="write [('f', 'first.onnx'), ('g', 'second.onnx')]",
        )
    return [(str(name), Path(str(file))) for name, file in pairs]


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError("this is a folder, not a file", where=str(path))
    if not path.exists():
        hint = f"{path}.gz exists: name that one" if Path(f"{path}.gz").exists() else "check the spelling of the path"
        raise UsageError("there is no such file", where=str(path), hint=hint)


def _sniff(path: Path) -> Kind:
    try:
        head = _head(path)
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the file: {what}", where=str(path)) from error
    return Kind.PROPERTY if head.lstrip()[:1] in (b"(", b";") else Kind.NETWORK


def _head(path: Path) -> bytes:
    with path.open("rb") as plain:
        start = plain.read(4096)
    if start[:2] != b"\x1f\x8b":
        return start
    with gzip.open(path) as packed:
        return packed.read(4096)
