"""Whether sharper layer bounds pay for a leaf, from what this very search has measured."""

from __future__ import annotations

import torch
from torch import Tensor

FORGET = 0.9  # weight of the past in running means
DEEPEST = 40.0  # splits; a leaf that looks deeper than this is as hopeless as any
GUESS = 0.25  # share of a split's gain that tightening is taken to recover before it has been tried


class _Mean:
    """A running mean; None until something was seen."""

    def __init__(self) -> None:
        self.value: float | None = None

    def see(self, value: float) -> None:
        self.value = value if self.value is None else FORGET * self.value + (1 - FORGET) * value


class Gauge:
    """Running means: seconds per leaf and per tightened leaf, margin won per split and recovered per split since."""

    def __init__(self) -> None:
        self._leaf, self._round, self._gain, self._recovered = _Mean(), _Mean(), _Mean(), _Mean()
        self.spent = 0.0  # seconds of search without tightening
        self.tightening = 0.0  # seconds of tightening

    @property
    def leaf_seconds(self) -> float | None:
        return self._leaf.value

    @property
    def round_seconds(self) -> float | None:
        return self._round.value

    def bounded(self, seconds: float, leaves: int) -> None:
        """One batch of leaves was bounded, scored and split."""
        self.spent += seconds
        if leaves:
            self._leaf.see(seconds / leaves)

    def tightened(self, seconds: float, leaves: int) -> None:
        self.tightening += seconds
        self._round.see(seconds / max(1, leaves))

    def moved(self, before: Tensor, after: Tensor, since: Tensor) -> None:
        """Margins (domains,) before and after; `since` < 0 marks leaves that were tightened after so many splits."""
        known = torch.isfinite(before)
        gain = torch.minimum(after, torch.zeros_like(after)) - before
        split, again = known & (since > 0), known & (since < 0)
        if bool(split.any()):
            self._gain.see(float(gain[split].mean()))
        if bool(again.any()):
            self._recovered.see(float((gain[again] / -since[again]).mean()))

    def worth(self, margin: Tensor, since: Tensor) -> Tensor:
        """Which leaves (domains,) with the margins given are likely to save more time than tightening takes.

        A subtree that gains g per split and misses m takes about 2**(m/g) leaves; recovering r leaves 2**((m-r)/g).
        """
        if self._gain.value is None or self._leaf.value is None or self._round.value is None:
            return torch.zeros_like(margin, dtype=torch.bool)
        gain = max(self._gain.value, 1e-12)
        recovered = gain * GUESS if self._recovered.value is None else max(self._recovered.value, 0.0)
        missing = -margin
        depth = (missing / gain).clamp(max=DEEPEST)
        saved = torch.minimum(missing, recovered * since) / gain
        work = self._leaf.value * torch.exp2(depth) * (1 - torch.exp2(-saved))
        return (since >= 2) & (work > self._round.value)
