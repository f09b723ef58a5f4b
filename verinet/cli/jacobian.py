"""`verinet jacobian`: write the derivative of a network as a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verinet.cli.session import say
from verinet.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entries:
    """Which entries of the Jacobian: lists of numbers and of ranges such as `0,3-7`; empty for all."""

    inputs: str
    outputs: str
    values: bool


def run_jacobian(model: Path, out: Path, entries: Entries) -> None:
    """Write the file, and say on stderr how its outputs are numbered.

    Raises:
        UsageError: a missing file, a list that cannot be read, or a target that cannot be written.
        ModelError: an operator that cannot be differentiated.
    """
    from verinet.frontends.derivative import jacobian

    inputs, outputs = listed(entries.inputs, "--inputs"), listed(entries.outputs, "--outputs")
    found = jacobian(model, inputs=inputs, outputs=outputs, values=entries.values)
    found.save(out)
    say(_order(found.outputs, found.inputs))
    if found.values:
        say(f"then, from Y_{len(found.outputs) * len(found.inputs)} on, the network's own outputs")
    for note in found.notes:
        say(f"note: {note}")


def _order(outputs: tuple[int, ...], inputs: tuple[int, ...]) -> str:
    """The first entry, the second and the last."""
    if len(inputs) > 1:
        pairs = [(outputs[0], j) for j in inputs[:2]]
    else:
        pairs = [(i, inputs[0]) for i in outputs[:2]]
    texts = [f"Y_{n} is d Y_{i} / d X_{j}" for n, (i, j) in enumerate(pairs)]
    last = len(outputs) * len(inputs) - 1
    if last >= len(texts):
        texts.append(f"{'... ' if last > len(texts) else ''}Y_{last} is d Y_{outputs[-1]} / d X_{inputs[-1]}")
    return ", ".join(texts)


def listed(text: str, option: str) -> list[int] | None:
    """`0,3-7` as numbers; None for an empty text."""
    if not text:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{option} cannot be read: '{part}'", hint=f"for example {option} 0,3-7")
        found += range(int(first), int(last if dash else first) + 1)
    return found
