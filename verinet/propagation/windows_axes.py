"""Which part of an axis an operator needs: receptive fields along one spatial axis at a time.

A *box* is the first and the last position of a part of an axis, both included. Boxes of several axes are independent:
every operator here acts on its spatial axes one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Box = tuple[int, int]
Piece = tuple[int, ...]
"""What an operator becomes between a box of its output and a box of its input; equal pieces, equal operators."""


class Link(ABC):
    """How positions of an operator's output depend on positions of one input along one axis."""

    @abstractmethod
    def needs(self, box: Box, extent: int) -> Box | None:
        """The positions, out of `extent`, that the output's box depends on; None if that is not worth supporting."""

    @abstractmethod
    def piece(self, box: Box, given: Box) -> Piece:
        """The operator between the box of its output and a box of its input that holds all it needs."""


@dataclass(frozen=True, slots=True)
class Same(Link):
    """Position i depends on position i. Piece: (where the output's box begins in the input's, its extent, whole)."""

    def needs(self, box: Box, extent: int) -> Box | None:
        return box

    def piece(self, box: Box, given: Box) -> Piece:
        return box[0] - given[0], box[1] - box[0] + 1, given[1] - given[0] + 1


@dataclass(frozen=True, slots=True)
class Sliding(Link):
    """A window of a convolution or a sum. Piece: (padding in front, padding behind, windows); pads may be negative."""

    kernel: int
    stride: int
    dilation: int
    begin: int

    def _reach(self, box: Box) -> Box:
        return box[0] * self.stride - self.begin, box[1] * self.stride - self.begin + self.dilation * (self.kernel - 1)

    def needs(self, box: Box, extent: int) -> Box | None:
        first, last = self._reach(box)
        return _clipped(first, last, extent)

    def piece(self, box: Box, given: Box) -> Piece:
        # What the windows see outside the input's box is either padding or, with a negative pad, not seen.
        first, last = self._reach(box)
        return given[0] - first, last - given[1], box[1] - box[0] + 1


@dataclass(frozen=True, slots=True)
class Spreading(Link):
    """A window of a transposed convolution, the adjoint of `Sliding`.

    Piece: (padding in front, padding behind, windows, extent of the output) of the convolution from output to input.
    """

    kernel: int
    stride: int
    dilation: int
    begin: int

    def needs(self, box: Box, extent: int) -> Box | None:
        # Output y gets something from input i if y = i * stride - begin + dilation * tap for some tap.
        first = -((self.dilation * (self.kernel - 1) - box[0] - self.begin) // self.stride)
        return _clipped(first, (box[1] + self.begin) // self.stride, extent)

    def piece(self, box: Box, given: Box) -> Piece:
        size, count = box[1] - box[0] + 1, given[1] - given[0] + 1
        front = self.begin + box[0] - given[0] * self.stride
        reach = (count - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        return front, reach - size - front, count, size


@dataclass(frozen=True, slots=True)
class Gathered(Link):
    """Position i is a copy of position sources[i], or 0 where that is -1. Piece: sources in the box, extent last."""

    sources: tuple[int, ...]

    def needs(self, box: Box, extent: int) -> Box | None:
        used = [s for s in self.sources[box[0] : box[1] + 1] if s >= 0]
        return (min(used), max(used)) if used else (0, 0)  # zeros need nothing; any position serves

    def piece(self, box: Box, given: Box) -> Piece:
        near = (s - given[0] if s >= 0 else -1 for s in self.sources[box[0] : box[1] + 1])
        return *near, given[1] - given[0] + 1


def _clipped(first: int, last: int, extent: int) -> Box | None:
    first, last = max(first, 0), min(last, extent - 1)
    return (first, last) if first <= last else None


Links = Mapping[tuple[int, int], Link]
"""(node, place among its inputs): the link along one axis."""


def boxes(
    position: int, order: Sequence[int], inputs: Mapping[int, Sequence[int]], links: Links, extents: Mapping[int, int]
) -> dict[int, Box] | None:
    """Along one axis, the box of every node that one position of the first node of `order` depends on.

    `order` goes from readers to inputs. Where several readers need parts of a node, its box is their hull.
    """
    found: dict[int, Box] = {order[0]: (position, position)}
    for node in order:
        box = found.get(node)
        if box is None:
            continue
        for place, source in enumerate(inputs[node]):
            need = links[node, place].needs(box, extents[source])
            if need is None:
                return None
            have = found.get(source, need)
            found[source] = (min(have[0], need[0]), max(have[1], need[1]))
    return found
