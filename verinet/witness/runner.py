"""The networks of a query in ONNX Runtime: declared inputs in, hidden and output entries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from verinet.spec.property import Floats

if TYPE_CHECKING:
    from verinet.frontends.compose import Composite, Part
    from verinet.frontends.model import Model


class Runner:
    """Sessions on the original files, opened on first use: with ONNX Runtime's graph optimisations off, and on.

    Outputs come from the file as it is; hidden tensors from a copy that has them as further outputs.
    """

    def __init__(self, composite: Composite) -> None:
        self._composite = composite
        self._sessions: dict[tuple[int, bool], Any] = {}

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
        from verinet.frontends.crosscheck import open_session, run_session

        key = (id(model), optimise)
        if key not in self._sessions:
            self._sessions[key] = open_session(model, optimise=optimise)
        return run_session(self._sessions[key], model, point)
