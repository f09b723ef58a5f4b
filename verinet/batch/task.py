"""What goes to a worker and what comes back: plain values, so that any executor can carry them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from verinet.batch.instances import Instance

Outcome = dict[str, Any]  # the part of a record that the worker knows
NODE = "node"  # kind of `Lost` where the machine went, or whatever kept the worker there
GRACE, GRACE_SHARE, LONGEST_GRACE = 2.0, 0.05, 10.0  # seconds; share of the limit; seconds


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt at one instance. Paths are absolute; `timeout` is in seconds from when the worker takes it up."""

    number: int
    networks: tuple[tuple[str, str], ...]
    prop: str
    timeout: float
    device: str
    seed: int

    @classmethod
    def of(cls, instance: Instance, device: str, seed: int) -> Task:
        """Raises UsageError when the list text of several networks is malformed."""
        networks = tuple((name, str(path)) for name, path in instance.network_files())
        prop = str(instance.property_file())
        return cls(instance.number, networks, prop, instance.timeout, device, seed)

    @property
    def killed_after(self) -> float:
        """Seconds after which the worker is killed if it has not answered."""
        return self.timeout + min(GRACE + GRACE_SHARE * self.timeout, LONGEST_GRACE)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        networks = tuple((str(name), str(path)) for name, path in record["networks"])
        return cls(**(record | {"networks": networks}))


@dataclass(frozen=True, slots=True)
class Started:
    """A worker is ready for its first task. `facts` are versions and the like."""

    slot: int
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Taken:
    """A worker takes up its task only now: its files had to travel first, which is not on its clock."""

    slot: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A task has got on: seconds, gap, open and closed subproblems."""

    slot: int
    point: tuple[float, float | None, int, int]


@dataclass(frozen=True, slots=True)
class Finished:
    """A task has ended, with an answer or with an error that the worker survived."""

    slot: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has died: `kind` is `signal`, `exit`, `out_of_memory`, `start` or `NODE`, `stderr` its last lines."""

    slot: int
    kind: str
    detail: str
    stderr: tuple[str, ...] = ()


Event = Started | Taken | Moved | Finished | Lost
