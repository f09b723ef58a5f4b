"""Whether a batch over whole benchmark folders survives `kill -9`: nothing lost, nothing doubled, nothing changed.

Makes lists of all families below a folder, runs `verinet batch` on it, kills the parent or a worker at random
moments, starts it again until it is done, and compares the log with the list:

    python benchmarks/bench_resume.py FOLDER --out RUN [--timeout 10] [--kills 3] [--workers N] [--seed 0]

Exit code 0 if every instance has exactly one result and none that was stored before a kill is different afterwards.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verinet.batch.instances import Instance, read_instances
from verinet.batch.store import read_log

STEP = 0.02  # seconds between two looks at the log
Results = dict[int, dict[str, Any]]


def make_list(tree: Path, target: Path, timeout: float) -> list[Instance]:
    """Write a folder with one list per family below `tree`, with absolute paths, and read it again."""
    for instance in read_instances(tree, timeout):
        files = [(name, str(path)) for name, path in instance.network_files()]
        network = str(files) if instance.several_networks else files[0][1]
        folder = target / instance.family.replace("/", " ")  # all lists at one depth
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "instances.csv").open("a", newline="") as stream:
            csv.writer(stream).writerow((network, instance.property_file(), timeout))
    return read_instances(target)


@dataclass
class Trial:
    """One run with its kills. `moments` are the numbers of stored results at which to kill."""

    instances: Path
    out: Path
    options: Sequence[str]
    moments: list[int]
    draw: random.Random
    kills: list[str] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    starts: int = 0

    def run(self, limit: float) -> None:
        """Start and kill until the command ends by itself. Raises TimeoutError after `limit` seconds."""
        end, seen = time.monotonic() + limit, Results()
        while time.monotonic() < end:
            self.starts += 1
            process = self._start()
            try:
                done = self._watch(process, end)
            finally:
                process.kill()
                process.wait()
            seen = self._compare(seen)
            if done:
                return
        raise TimeoutError(f"not done after {limit:.0f} seconds and {self.starts} starts")

    def _start(self) -> subprocess.Popen[bytes]:
        call = [sys.executable, "-c", "from verinet.cli import main; main()", "batch", str(self.instances)]
        with (self.out.parent / f"{self.out.name}.stderr").open("ab") as errors:
            everything = [*call, "--out", str(self.out), *self.options]
            return subprocess.Popen(everything, stdout=subprocess.DEVNULL, stderr=errors)

    def _watch(self, process: subprocess.Popen[bytes], end: float) -> bool:
        """Kill when it is time; True if the command ended by itself, False after its own death."""
        while time.monotonic() < end:
            if process.poll() is not None:
                return True
            if self.moments and self._stored() >= self.moments[0]:
                self.moments.pop(0)
                time.sleep(self.draw.random() * 0.5)  # also between two results
                if self._kill(process):
                    return False
            time.sleep(STEP)
        return False

    def _kill(self, process: subprocess.Popen[bytes]) -> bool:
        """End the parent or one of its workers; True if it was the parent. Both kinds occur in every trial."""
        workers = children(process.pid)
        missing = {"parent", "worker"} - set(self.kills)
        kind = sorted(missing)[0] if len(missing) == 1 else self.draw.choice(("parent", "worker"))
        victim = self.draw.choice(workers) if kind == "worker" and workers else process.pid
        self.kills.append("parent" if victim == process.pid else "worker")
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return False
        if victim == process.pid:
            process.wait()
        return victim == process.pid

    def _stored(self) -> int:
        log = self.out / "results.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def _compare(self, before: Results) -> Results:
        """What is stored now; results that were there before and are not the same any more are noted."""
        log = self.out / "results.jsonl"
        now = {int(r["number"]): r for r in read_log(log)} if log.exists() else {}
        self.changed += [number for number, record in before.items() if now.get(number) != record]
        return now


def children(parent: int) -> list[int]:
    """Process numbers of the direct children of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:  # gone in between
            continue
        if int(text.rpartition(")")[2].split()[1]) == parent:
            found.append(int(entry.parent.name))
    return sorted(found)


def judged(instances: Sequence[Instance], out: Path, trial: Trial) -> dict[str, Any]:
    """The final log against the list."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    count = Counter(int(line["number"]) for line in lines)
    expected = {i.number: (i.network, i.prop) for i in instances}
    other = [int(r["number"]) for r in lines if (r["model"], r["property"]) != expected.get(int(r["number"]))]
    return {
        "instances": len(instances),
        "results": len(lines),
        "lost": sorted(set(expected) - set(count)),
        "doubled": sorted(number for number, times in count.items() if times > 1),
        "strange": sorted(other),
        "changed": sorted(trial.changed),
        "kills": trial.kills,
        "starts": trial.starts,
        "statuses": dict(Counter(line["status"] for line in lines)),
        "retried": sum(int(line["attempts"]) > 1 for line in lines),
    }


def measure(tree: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the list, run the trial, judge it. Raises FileExistsError if the run's folder is there already."""
    out.parent.mkdir(parents=True, exist_ok=True)
    listed = out.parent / f"{out.name}-lists"
    if out.exists() or listed.exists():
        raise FileExistsError(f"{out} is there already: a trial needs a new folder")
    instances = make_list(tree, listed, options.timeout)
    draw = random.Random(options.seed)
    moments = sorted(draw.sample(range(1, max(2, len(instances))), min(options.kills, len(instances) - 1)))
    more = ["--workers", str(options.workers)] if options.workers else []
    trial = Trial(listed, out, ["--device", "cpu", *more], moments, draw)
    trial.run(options.limit or 60.0 + 3.0 * len(instances) * (options.timeout + 5.0))
    return judged(instances, out, trial)


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("folder", type=Path)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--timeout", type=float, default=10.0, help="seconds per instance")
    made.add_argument("--kills", type=int, default=3)
    made.add_argument("--workers", type=int, default=0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--limit", type=float, default=0.0, help="seconds for everything")
    return made


def main() -> int:
    """Print the judgement as JSON."""
    given = parser().parse_args()
    found = measure(given.folder, given.out, given)
    print(json.dumps(found, indent=1))
    return 1 if any(found[what] for what in ("lost", "doubled", "strange", "changed")) else 0


if __name__ == "__main__":
    sys.exit(main())
