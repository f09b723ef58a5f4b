"""What a run was asked for, and what of it a resumed run must not change."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from verinet.batch.instances import Shard
from verinet.errors import UsageError
from verinet.numerics.machine import available, cores

GIGABYTE = 2**30  # bytes; `--memory` counts in these
_DEVICES = ("auto", "cpu", "cuda")
_MEMORY_PER_WORKER = 2.0  # gigabytes that a worker with torch and a middling network needs


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of one run.

    `timeout` (seconds) replaces the times of the list. `memory` is the limit of one worker in gigabytes. `workers` may
    change when a run is resumed; the rest may not, because then the results would not belong together.
    """

    timeout: float | None = None
    memory: float | None = None
    device: str = "auto"
    seed: int = 0
    shard: Shard | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("timeout", self.timeout), ("memory limit", self.memory), ("worker count", self.workers)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"the {name} must be a positive number, not {value}")
        if self.device not in _DEVICES:
            raise UsageError(f"unknown device '{self.device}'", hint="use auto, cpu or cuda")

    def fixed(self) -> dict[str, Any]:
        """What a resumed run has to have in common with the first one, as plain values."""
        return {
            "timeout": self.timeout,
            "memory": self.memory,
            "device": self.device,
            "seed": self.seed,
            "shard": str(self.shard) if self.shard else None,
        }


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use: cores, bytes of memory that are free now, and the GPUs by their CUDA names."""

    cores: int
    free: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """Found without importing torch, which would cost the parent its start-up time and memory."""
        return cls(cores(), available(), _gpus())

    def workers(self, settings: Settings, instances: int) -> int:
        """As asked for; else one per GPU, or one per core as far as memory goes. At most one per instance."""
        wanted = settings.workers
        if wanted is None and self.gpus and settings.device != "cpu":
            wanted = len(self.gpus)
        if wanted is None:
            each = (settings.memory or _MEMORY_PER_WORKER) * GIGABYTE
            wanted = min(self.cores, int(self.free / each))
        return max(1, min(wanted, instances))

    def threads(self, workers: int) -> int:
        """Torch threads of each worker, so that all together do not exceed the cores."""
        return max(1, self.cores // workers)


def _gpus() -> tuple[str, ...]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1"))
    try:
        entries = os.listdir("/dev")
    except OSError:
        return ()
    return tuple(sorted(e.removeprefix("nvidia") for e in entries if e.startswith("nvidia") and e[6:].isdecimal()))
