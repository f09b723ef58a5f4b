"""The networks of a query in ONNX Runtime: declared inputs in, hidden and output entries out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verinet.spec.property import Floats

if TYPE_CHECKING:
    from verinet.frontends.compose import Composite, Part
    from verinet.frontends.model import Model


class Runner:
    """Runs the original files with ONNX Runtime's graph optimisations off, and on.

    Outputs come from the file as it is; hidden tensors from a copy that has them as further outputs.
    """

    def __init__(self, composite: Composite) -> None:
        self._composite = composite

    def run(self, declared: Floats) -> tuple[Floats, Floats]:
        """Hidden and output entries, (values,) each, in order of declaration: optimisations off, and on."""
        return self._all(declared, optimise=False), self._all(declared, optimise=True)

    def _all(self, declared: Floats, *, optimise: bool) -> Floats:
        return np.concatenate([self._part(part, declared, optimise) for part in self._composite.parts])

    def _part(self, part: Part, declared: Floats, optimise: bool) -> Floats:
        point = declared[part.inputs]
        values = self._run(part.original, point, optimise)
        if part.reading is not part.original:
            further = self._run(part.reading, point, optimise)
            values = np.concatenate([values, further[len(values) :]])
        return values[part.order]

    def _run(self, model: Model, point: Floats, optimise: bool) -> Floats:
        from verinet.frontends.crosscheck import run_session, session_of

        return run_session(session_of(model, optimise=optimise), model, point)
