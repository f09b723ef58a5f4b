"""`verinet convert`: a property from one version of VNN-LIB to the other, with exactly the same meaning."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verinet.cli.session import emit, say
from verinet.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from verinet.spec.formula import Formula
    from verinet.spec.property import Query2


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to write. `version` is "1", "2", or empty for the other one; `network` gives version 2 shapes and types."""

    source: Path
    target: str  # a file, .gz if it is to be packed, or - for stdout
    version: str = ""
    network: Path | None = None


def run_convert(conversion: Conversion) -> None:
    """Read, write, and say on stderr what other tools may stumble over.

    Raises:
        UsageError: a missing file, an unknown version, or a target that cannot be written.
        PropertyError: what is written cannot be said in the wanted version.
    """
    from verinet.spec.reader import parse_formula
    from verinet.spec.render import beyond_version_1, to_version_1, to_version_2
    from verinet.spec.source import load_text

    formula = parse_formula(load_text(conversion.source), str(conversion.source))
    version = conversion.version or ("1" if formula.query is not None else "2")
    if version not in ("1", "2"):
        raise UsageError(f"there is no VNN-LIB version {version} here", hint="--to 1 or --to 2")
    for note in formula.notes:
        say(f"note: {note}")
    if version == "2":
        text = to_version_2(formula, _declared(formula, conversion.network))
    else:
        text = to_version_1(formula)
        for what in beyond_version_1(formula):
            say(f"note: the file has {what}; most tools for VNN-LIB 1.0 cannot read that")
    _write(text, conversion.target)


def _declared(formula: Formula, network: Path | None) -> Query2 | None:
    """The tensors of the network, where one is given: names X and Y, numbered if there are several."""
    if network is None:
        return None
    if formula.query is not None:
        raise PropertyError(
            "the file declares its tensors itself", where=formula.name, hint="leave out --network, it is for version 1"
        )
    from verinet import api
    from verinet.ir.graph import total
    from verinet.spec.property import Network2, Query2, Role, Variable2

    model = api.load(network)
    sides: tuple[tuple[str, Role, list[tuple[tuple[int, ...], str]]], ...] = (
        ("X", "input", [(s, d.name) for s, d in zip(model.input_shapes, model.input_dtypes, strict=True)]),
        ("Y", "output", [(s, d.name) for s, d in zip(model.output_shapes, model.output_dtypes, strict=True)]),
    )
    variables = [
        Variable2(name if len(tensors) == 1 else f"{name}{number}", role, dtype, tuple(shape))
        for name, role, tensors in sides
        for number, (shape, dtype) in enumerate(tensors, start=1)
        if total(shape)
    ]
    return Query2((Network2("N", tuple(variables)),))


def _write(text: str, target: str) -> None:
    if target == "-":
        emit(text.rstrip("\n"))
        return
    raw = text.encode()
    try:
        # Without a time stamp, the same property always makes the same file.
        Path(target).write_bytes(gzip.compress(raw, mtime=0) if target.endswith(".gz") else raw)
    except OSError as error:
        raise UsageError(f"cannot write the file: {error.strerror or error}", where=target) from error
