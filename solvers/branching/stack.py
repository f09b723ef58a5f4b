"""Depth first: the newest domains go first, so that children are bounded while their parents' state is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Domains(Protocol):
    """Open domains that were made together."""

    def __len__(self) -> int: ...

    def take(self, index: slice) -> Self: ...


Some = TypeVar("Some", bound=Domains)
State = TypeVar("State")


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


def join_parents(
    parts: Sequence[tuple[State | None, Tensor | None]], take: Callable[[State, Tensor], State]
) -> tuple[list[State], Tensor] | None:
    """What the parents of several parts left them, and each domain's (domains,) position in all of it side by side.

    A part is its parents' state and the position (domains,) of each domain's parent in it; `take` picks the parents
    that are still in use. None where some part has nothing from its parents.
    """
    kept: list[State] = []
    places: list[Tensor] = []
    offset = 0
    for state, parent in parts:
        if state is None or parent is None:
            return None
        used, inverse = parent.unique(return_inverse=True)
        kept.append(take(state, used))
        places.append(inverse + offset)
        offset += int(used.numel())
    return kept, torch.cat(places)
