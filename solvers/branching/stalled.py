"""When splitting wins more than further steps of the optimisation."""

from __future__ import annotations

from torch import Tensor

WINDOW = 3  # steps; a step that overshoots gains nothing and halves its row's rate, so one alone says little
WORTHWHILE = 0.02
"""Mean part of the missing margin that the last steps must have won. A split costs about as much as twelve steps and
often closes one child while the other gains 1 %."""


class Stalled:
    """Called with the margins (domains,) of a batch after every step: True when its open domains hardly gain."""

    def __init__(self) -> None:
        self._past: list[Tensor] = []

    def __call__(self, margin: Tensor) -> bool:
        self._past.append(margin)
        still = ~(margin > 0)
        if len(self._past) <= WINDOW or not bool(still.any()):
            return False
        won = (margin - self._past.pop(0))[still] / (-margin[still]).clamp(min=1e-30)
        return bool(won.nan_to_num(0.0, 1.0, 0.0).clamp(0.0, 1.0).mean() < WORTHWHILE)
