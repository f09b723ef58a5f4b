"""Between the vectors of a property and the ones that its file declares. See `property.Layout`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verinet.spec.property import Floats, Layout

Ints = npt.NDArray[np.int64]


class Spread:
    """Free inputs to declared inputs and back, for many points of one property."""

    def __init__(self, layout: Layout) -> None:
        ties = layout.ties
        self.sources: Ints = np.array([tie.source for tie in ties], dtype=np.int64)
        self.scale = np.array([float(tie.scale) for tie in ties])
        self.offset = np.array([float(tie.offset) for tie in ties])
        self.free = int(self.sources.max()) + 1 if ties else layout.inputs
        self._layout = layout
        self._first = np.unique(self.sources, return_index=True)[1]

    @property
    def is_identity(self) -> bool:
        return not self._layout.ties

    @property
    def copies_only(self) -> bool:
        """Whether every declared input is a free one, unchanged."""
        return all(tie.is_copy for tie in self._layout.ties)

    def declared(self, free: Floats) -> Floats:
        """Values of the declared inputs, (declared,), nearest to the exact ones; copies are exact."""
        return free if self.is_identity else free[self.sources] * self.scale + self.offset

    def free_of(self, declared: Floats) -> Floats:
        """Values of the free inputs, read off the first declared input of each that is tied."""
        return declared if self.is_identity else declared[self._first]

    def holds(self, free: Floats, declared: Floats) -> bool:
        """Whether the ties hold exactly."""
        pairs = zip(self._layout.ties, declared.tolist(), strict=False)
        return all(
            Fraction(value) == tie.scale * Fraction(float(free[tie.source])) + tie.offset for tie, value in pairs
        )


def with_extras(layout: Layout | None, free: Floats, values: Floats) -> Floats:
    """Hidden and output entries, and the property's products behind them, in float64."""
    if layout is None or not layout.extras:
        return values
    sides = (free, values)
    extras = [float(np.prod([sides[code & 1][code >> 1] for code in codes])) for codes in layout.extras]
    return np.concatenate([values, np.array(extras, dtype=np.float64)])
