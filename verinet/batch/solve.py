"""One instance inside a worker: load (or remember) the network, verify, and say what happened as plain values."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verinet.batch.curve import Curve, Point, last_gap
from verinet.batch.task import Outcome, Task
from verinet.errors import VerinetError

if TYPE_CHECKING:
    from verinet.frontends.model import Model
    from verinet.results import FloatArray, Progress, Verdict

NETWORKS_KEPT = 2  # the one in use, and the one before it, for lists that alternate and queries over two networks
_CENTRE_LIMIT = 5_000_000  # bytes of a property file that is read again to find the centre of a witness's box
_LONGEST_TEXT = 2000  # characters of an error message


@dataclass
class Networks:
    """Loaded networks by the hash of their file, the least recently used one goes first."""

    kept: OrderedDict[str, Model] = field(default_factory=OrderedDict)
    hashes: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def get(self, path: Path) -> Model:
        """The network of a file. Raises as `verinet.load` does."""
        from verinet import api

        digest = self.digest(path)
        if digest is None:
            return api.load(path)  # which says what is wrong with the file
        if digest not in self.kept:
            while len(self.kept) >= NETWORKS_KEPT:
                self.kept.popitem(last=False)
            self.kept[digest] = api.load(path)
        self.kept.move_to_end(digest)
        return self.kept[digest]

    def digest(self, path: Path) -> str | None:
        """SHA-256 of a file as it is stored, computed again only when the file has changed; None if unreadable."""
        try:
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key not in self.hashes:
                with path.open("rb") as stream:
                    self.hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            return self.hashes[key]
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a running task talks to the outside."""

    moved: Callable[[Point], None]
    stop: Callable[[], bool]
    processes: int = 1  # that may share a search


def search_limit(timeout: float) -> float:
    """Seconds the search is given, so that its answer comes before the limit."""
    return timeout - min(max(0.05, 0.01 * timeout), 1.0, 0.1 * timeout)


def solve(task: Task, networks: Networks, hooks: Hooks) -> Outcome:
    """Answer one task. Never raises: every failure becomes part of the outcome."""
    begin, curve = time.monotonic(), Curve()
    outcome: Outcome = _digests(task, networks)
    try:
        outcome |= _answer(task, networks, hooks, (begin, curve))
    except VerinetError as error:
        outcome |= failure(type(error).__name__, str(error))
    except Exception as error:
        outcome |= _unexpected(error)
    seconds = time.monotonic() - begin
    loaded = outcome.pop("loaded", seconds)
    started = curve.first if curve.first is not None else loaded
    points, gap = curve.points(), outcome.get("gap")
    if gap is None and outcome.get("status") in ("unknown", "timed-out") and points:
        outcome["gap"] = last_gap(points)  # the verdict names none; this is the last that was reported
    if gap is not None:  # where the verdict left it: 0 for a proof
        points.append((round(seconds, 4), gap, outcome["open"], outcome["closed"]))
    return outcome | {
        "seconds": round(seconds, 4),
        "load_seconds": round(min(started, seconds), 4),
        "search_seconds": round(max(0.0, seconds - started), 4),
        "curve": points,
    }


def failure(kind: str, message: str, stderr: tuple[str, ...] = ()) -> Outcome:
    """The part of a record that tells of an error."""
    error = {"kind": kind, "message": message[:_LONGEST_TEXT], "stderr": list(stderr)}
    return {"status": "error", "reason": kind, "error": error}


def _digests(task: Task, networks: Networks) -> Outcome:
    models = [networks.digest(Path(path)) for _, path in task.networks]
    return {
        "model_sha256": models[0] if len(models) == 1 else models,
        "property_sha256": networks.digest(Path(task.prop)),
    }


def _answer(task: Task, networks: Networks, hooks: Hooks, clock: tuple[float, Curve]) -> Outcome:
    from verinet import api

    begin, curve = clock
    models = {name: networks.get(Path(path)) for name, path in task.networks}
    only = next(iter(models.values())) if len(models) == 1 else None
    loaded = time.monotonic() - begin

    def progress(snapshot: Progress) -> None:
        if curve.add(snapshot):
            hooks.moved(curve.points()[-1])

    verdict = api.verify(
        models if only is None else only,
        task.prop,
        timeout=search_limit(task.timeout),
        device=task.device,
        seed=task.seed,
        progress=progress,
        started=begin,
        stop=hooks.stop,
        processes=hooks.processes,
    )
    device = str(api.pick_device(task.device))
    return _of_verdict(verdict) | {"loaded": loaded, "device": device} | _witness(verdict, models, task)


def _of_verdict(verdict: Verdict) -> Outcome:
    stats = verdict.stats
    return {
        "status": verdict.status.value,
        "reason": verdict.reason.name.lower(),
        "gap": verdict.gap,
        "domains": stats.domains,
        "closed": stats.closed,
        "open": stats.open,
        "strategy": list(stats.strategy),
        "notes": list(verdict.notes),
    }


def _witness(verdict: Verdict, models: dict[str, Model], task: Task) -> Outcome:
    witness = verdict.witness
    if witness is None:
        return {}
    sizes = [model.graph.input_size for model in models.values()]
    # A query may copy a network that is given once (`equal-to`); then there are more inputs than this network has.
    whole = sum(sizes) == len(witness.inputs)
    only = next(iter(models.values())) if whole and len(models) == 1 else None
    found: dict[str, Any] = {
        "inputs": witness.inputs.tolist(),
        "outputs": witness.outputs.tolist(),
        "margin": witness.margin,
        "shapes": [list(shape) for model in models.values() for shape in model.input_shapes] if whole else [],
        "centre": None if only is None else _centre(witness.inputs, only, Path(task.prop)),
    }
    return {"witness": found}


def _centre(point: FloatArray, model: Model, prop: Path) -> list[float] | None:
    """The middle of the property's box that is nearest to a witness: the picture that was perturbed."""
    import numpy as np

    from verinet.spec import read_property

    try:
        if prop.stat().st_size > _CENTRE_LIMIT:
            return None
        boxes = read_property(prop, model.graph.input_size, model.graph.output_size).boxes
    except (OSError, VerinetError):
        return None
    if not boxes:
        return None
    outside = [float(np.maximum(b.lower - point, point - b.upper).max(initial=0.0)) for b in boxes]
    box = boxes[int(np.argmin(outside))]
    return [float(value) for value in (box.lower / 2 + box.upper / 2)]


def _unexpected(error: Exception) -> Outcome:
    from verinet.numerics.memory import out_of_memory

    if out_of_memory(error):
        return {"status": "unknown", "reason": "out_of_memory", "gap": None}
    import traceback

    lines = traceback.format_exc().rstrip().splitlines()[-12:]
    what = " ".join(str(error).split())
    return failure(type(error).__name__, f"verinet failed in a way it should not: {what}", tuple(lines))
