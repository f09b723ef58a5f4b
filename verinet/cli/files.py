"""Which of the files on the command line is the network and which is the property."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from verinet.errors import PropertyError, UsageError


class Kind(Enum):
    """What a file holds."""

    NETWORK = "network"
    PROPERTY = "property"


_SUFFIXES = {".onnx": Kind.NETWORK, ".vnnlib": Kind.PROPERTY}


def sort_files(files: Sequence[Path], networks: Sequence[str]) -> tuple[Path, Path]:
    """(network, property) from positional files in either order and from `--network NAME=FILE` options.

    Raises:
        UsageError: a file is missing, or it is unclear which one is what.
        PropertyError: more than one network.
    """
    named = [_named_network(text) for text in networks]
    if len(set(named)) > 1:
        raise PropertyError(
            "a query over several networks cannot be answered yet",
            where=", ".join(str(path) for path in named),
            hint="join the networks into one ONNX file and state the property over its inputs and outputs",
        )
    for path in (*files, *named):
        _require_file(path)
    expected = 1 if named else 2
    if len(files) != expected:
        raise UsageError(
            f"expected {'one property' if named else 'a network and a property'}, got {len(files)} file(s)",
            hint="verinet verify MODEL.onnx SPEC.vnnlib, or verinet verify SPEC.vnnlib --network NAME=MODEL.onnx",
        )
    return (named[0], files[0]) if named else _order(files[0], files[1])


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


def _named_network(text: str) -> Path:
    name, separator, file = text.partition("=")
    if not separator or not name or not file:
        raise UsageError(f"--network needs NAME=FILE, got '{text}'", hint="verinet verify Q.vnnlib --network f=f.onnx")
    return Path(file)


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError("this is a folder, not a file", where=str(path))
    if not path.exists():
        hint = f"{path}.gz exists: name that one" if Path(f"{path}.gz").exists() else "check the spelling of the path"
        raise UsageError("there is no such file", where=str(path), hint=hint)


def _sniff(path: Path) -> Kind:
    try:
        head = _head(path)
    except OSError as error:
        raise UsageError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error
    return Kind.PROPERTY if head.lstrip()[:1] in (b"(", b";") else Kind.NETWORK


def _head(path: Path) -> bytes:
    with path.open("rb") as plain:
        start = plain.read(4096)
    if start[:2] != b"\x1f\x8b":
        return start
    with gzip.open(path) as packed:
        return packed.read(4096)
