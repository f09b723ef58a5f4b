"""A connection to an existing Ray cluster, and what one worker takes of it. Ray is imported when one is asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verinet.errors import UsageError

_ANSWER_WAIT = 5.0  # seconds until a port counts as dead
_INSTALL = "pip install 'verinet[cluster]'"


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Which cluster, and what each worker reserves there.

    `address` is HOST:PORT, ray://HOST:PORT, or `auto` for the cluster that runs on this machine. `gpus` may be a
    fraction; None takes one per worker where the cluster has GPUs, as a run on one machine does. `workers` is their
    number; None takes as many as fit.
    """

    address: str
    cpus: int = 1
    gpus: float | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise UsageError(f"a worker needs at least one core, not {self.cpus}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"the worker count must be a positive number, not {self.workers}")
        gpus = self.gpus
        if gpus is not None and (not 0 <= gpus < float("inf") or (gpus > 1 and gpus != int(gpus))):
            raise UsageError(f"GPUs per worker are a fraction of one, or a whole number, not {gpus}")


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker reserves: cores, GPUs (or part of one), bytes of memory (0: does not matter)."""

    cpus: int
    gpus: float
    memory: int = 0

    def fits(self, resources: dict[str, float]) -> int:
        """How often it fits into the resources of one node."""
        wanted = {"CPU": float(self.cpus), "GPU": self.gpus, "memory": float(self.memory)}
        counts = [int(resources.get(name, 0.0) / need + 1e-9) for name, need in wanted.items() if need > 0]
        return min(counts)

    def options(self) -> dict[str, Any]:
        """For `ray.remote`. A lost worker is replaced by us, so that its work is accounted for."""
        chosen: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        return chosen | ({"memory": self.memory} if self.memory > 0 else {})

    def __str__(self) -> str:
        parts = [f"{self.cpus} core(s)", f"{self.gpus:g} GPU(s)", f"{self.memory / 2**30:.3g} GB"]
        return ", ".join(part for part, need in zip(parts, (1, self.gpus, self.memory), strict=True) if need > 0)


class Cluster:
    """Connected to Ray until `close`; a connection that was there before stays open."""

    def __init__(self, options: RayOptions) -> None:
        """Connect. Raises UsageError when Ray is not installed, or when no cluster answers."""
        self.options = options
        self.ray = _import_ray()
        self._ours = not self.ray.is_initialized()
        if self._ours:
            _connect(self.ray, options.address)

    def close(self) -> None:
        """Leave the cluster, which goes on."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()

    def share(self, device: str, memory: int = 0) -> Share:
        """What one worker reserves when it is to compute on `device` (auto, cpu or cuda)."""
        gpus = self.options.gpus
        if device == "cpu":
            gpus = 0.0
        elif gpus is None:
            gpus = 1.0 if any(node.get("GPU", 0.0) >= 1.0 for node in self._nodes()) else 0.0
        return Share(self.options.cpus, gpus, memory)

    def places(self, share: Share) -> int:
        """How many workers the nodes that are alive can hold when nothing else runs there."""
        return sum(share.fits(node) for node in self._nodes())

    def workers(self, share: Share, most: int) -> int:
        """As many as asked for, else as fit; at most `most`. Raises UsageError when no node can hold one."""
        places = self.places(share)
        if places < 1:
            raise self.no_room(share)
        return max(1, min(self.options.workers or places, most))

    def ended(self, calls: Sequence[Any], wait: float) -> list[Any]:
        """Those of some calls (at least one) that have ended; waits up to `wait` seconds for the first."""
        ready, rest = self.ray.wait(list(calls), num_returns=1, timeout=wait)
        if ready and rest:
            ready += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        found: list[Any] = ready
        return found

    def no_room(self, share: Share) -> UsageError:
        """The error for a cluster without a node that is large enough."""
        return UsageError(
            "no node of the Ray cluster can hold a worker",
            where=f"{self.options.address}; a worker takes {share}",
            hint="ask for less with --cpus-per-task, --gpus-per-task or --memory, or see `ray status`",
        )

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed", hint=_INSTALL) from None
    return ray


def _connect(ray: Any, address: str) -> None:
    named = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    if named != "auto":
        _knock(named)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            "no Ray cluster can be joined",
            where=f"{address}: {text}",
            hint="`ray start --head` starts one; its version of Ray and Python must be the ones used here",
        ) from error


def _knock(address: str) -> None:
    """Ray itself waits for a minute and more before it says that nobody answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise UsageError(f"the address of a Ray cluster is HOST:PORT, ray://HOST:PORT or auto, not '{address}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WAIT).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            "no Ray cluster answers", where=f"{address}: {error}", hint="see `ray status` on the cluster's head"
        ) from error


def first_words(error: BaseException) -> str:
    """One line of what Ray says about a failure, which can fill a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(" ".join(lines)[:300].split()) or type(error).__name__
