"""Depth first: the newest domains go first, so that children are bounded while their parents' state is at hand."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar


class Domains(Protocol):
    """Open domains that were made together."""

    def __len__(self) -> int: ...

    def take(self, index: slice) -> Self: ...


Some = TypeVar("Some", bound=Domains)


def pop_batch(stack: list[Some], room: int) -> list[Some]:
    """Remove up to `room` domains from the top of the stack, newest part first."""
    parts: list[Some] = []
    while stack and room > 0:
        top = stack.pop()
        if len(top) > room:
            stack.append(top.take(slice(0, len(top) - room)))
            top = top.take(slice(len(top) - room, None))
        parts.append(top)
        room -= len(top)
    return parts
