"""Beside another verifier: what it solved, what a `verinet batch` run solved, and where they disagree.

    python benchmarks/compare_reference.py list REFERENCE.csv FOLDER --out instances.csv
    verinet batch instances.csv --out RUN
    python benchmarks/compare_reference.py table REFERENCE.csv RUN

REFERENCE.csv has the columns peer, benchmark, onnx, vnnlib, timeout, verdict, seconds; without `benchmark` the family
is called "digits". `list` looks for the files of each row below FOLDER, one folder per family, and writes those it
finds with the reference's timeouts; the names of families need to agree only up to a year and a remainder
("eran_sigmoid" and "eran"). `table` joins both sides by the names of the network and the property.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from verinet.batch.store import logs_of, read_log

SOLVED = ("unsat", "sat")
FIELDS = ("instances", "peer", "ours", "both", "only peer", "only ours", "disagree", "peer wrong")


@dataclass(frozen=True)
class Reference:
    """One run of the other verifier."""

    family: str
    onnx: str
    vnnlib: str
    timeout: float
    verdict: str
    seconds: float

    @property
    def key(self) -> tuple[str, str]:
        return _name(self.onnx), _name(self.vnnlib)


@dataclass(frozen=True)
class Ours:
    """One record of our run."""

    family: str
    status: str
    seconds: float


def read_reference(path: Path, peer: str) -> list[Reference]:
    """The rows of one peer. Raises ValueError with the place for a row that cannot be read, or when there is none."""
    found: list[Reference] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                if row["peer"] != peer:
                    continue
                files = (row.get("benchmark") or "digits", row["onnx"], row["vnnlib"])
                found.append(Reference(*files, float(row["timeout"]), row["verdict"].lower(), float(row["seconds"])))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: {error!r}") from error
    if not found:
        raise ValueError(f"{path}: no row of the peer '{peer}'")
    return found


def read_run(folder: Path) -> dict[tuple[str, str], list[Ours]]:
    """The records of a run by the names of network and property; names may repeat in several families."""
    found: dict[tuple[str, str], list[Ours]] = {}
    for log in logs_of(folder):
        for record in read_log(log):
            found.setdefault((_name(record["model"]), _name(record["property"])), []).append(_ours(record))
    return found


def _ours(record: dict[str, Any]) -> Ours:
    # A list made by `list` lies outside the families' folders, so the family is in the path of the network.
    return Ours(f"{record['family']}/{record['model']}", record["status"], float(record["seconds"]))


def _name(path: str) -> str:
    return PurePosixPath(path.strip()).name.removesuffix(".gz")


def _stem(family: str) -> str:
    """The name of a family without its year."""
    head, _, tail = family.rpartition("_")
    return head if tail.isdecimal() and len(tail) == 4 else family


def same_family(reference: str, folder: str) -> bool:
    """Whether the shorter name begins the longer one, word by word and without years."""
    first, second = (_stem(name).split("_") for name in (reference, folder))
    length = min(len(first), len(second))
    return first[:length] == second[:length]


def find_files(reference: Reference, top: Path) -> tuple[Path, Path] | None:
    """Network and property below one family's folder, or below `top` itself; None where either is missing.

    Where several families or several folders of one have both, the first pair in one folder of that name is taken.
    """
    folders = [f for f in sorted(top.iterdir()) if f.is_dir() and same_family(reference.family, f.name)] or [top]
    for folder in folders:
        networks, properties = (sorted(_named(folder, name)) for name in reference.key)
        pairs = [(n, p) for n in networks for p in properties]
        pairs.sort(key=lambda pair: pair[0].parent.name != pair[1].parent.name)  # safenlp has two folders of each
        if pairs:
            return pairs[0]
    return None


def _named(folder: Path, name: str) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.name.removesuffix(".gz") == name)


def write_list(references: Sequence[Reference], top: Path, out: Path) -> list[Reference]:
    """Write the instances whose files are there, each once; returns the rows without files."""
    missing: list[Reference] = []
    rows: dict[tuple[str, str], float] = {}
    for reference in references:
        files = find_files(reference, top)
        if files is None:
            missing.append(reference)
            continue
        key = (str(files[0].resolve()), str(files[1].resolve()))
        rows[key] = max(reference.timeout, rows.get(key, 0.0))
    with out.open("w", newline="") as file:
        csv.writer(file).writerows([*key, f"{timeout:g}"] for key, timeout in rows.items())
    return missing


def matching(reference: Reference, run: dict[tuple[str, str], list[Ours]]) -> Ours | None:
    """Our record of the same instance: of the same family where the names occur in several."""
    found = run.get(reference.key, [])
    if len(found) < 2:
        return found[0] if found else None
    folders = (f for f in found if any(same_family(reference.family, part) for part in f.family.split("/")))
    return next(folders, None)


def compare(reference: Reference, ours: Ours) -> list[str]:
    """The columns that an instance counts in. What took us longer than the reference's timeout is not solved."""
    peer = reference.verdict in SOLVED
    mine = ours.status in SOLVED and ours.seconds <= reference.timeout
    columns = ["instances"] + ["peer"] * peer + ["ours"] * mine
    if peer and mine:
        columns.append("both")
    elif peer or mine:
        columns.append("only peer" if peer else "only ours")
    if reference.verdict in SOLVED and ours.status in SOLVED and reference.verdict != ours.status:
        columns.append("disagree")
    if reference.verdict == "wrong":
        columns.append("peer wrong")
    return columns


def table(references: Sequence[Reference], run: dict[tuple[str, str], list[Ours]]) -> list[str]:
    """One line per family and a total, then every instance that only the peer solved, disagreements and gaps."""
    counts: dict[str, Counter[str]] = {}
    notes: list[str] = []
    absent = 0
    for reference in references:
        ours = matching(reference, run)
        if ours is None:
            absent += 1
            continue
        columns = compare(reference, ours)
        counts.setdefault(reference.family, Counter()).update(columns)
        for word in ("disagree", "only peer"):
            if word in columns:
                what = f"peer {reference.verdict} in {reference.seconds:g} s, ours {ours.status} in {ours.seconds:g} s"
                notes.append(f"{word}: {reference.family} {reference.onnx} {reference.vnnlib}: {what}")
    total = sum(counts.values(), Counter())
    width = max(map(len, [*counts, "family"])) + 2
    lines = [f"{'family':{width}}" + "".join(f"{field:>12}" for field in FIELDS)]
    for family, count in [*counts.items(), ("all", total)]:
        lines.append(f"{family:{width}}" + "".join(f"{count[field]:>12}" for field in FIELDS))
    return [*lines, *notes, f"{absent} rows of the reference have no record in the run"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "table"))
    parser.add_argument("reference", type=Path)
    parser.add_argument("folder", type=Path, help="of the benchmark's files, or of the run")
    parser.add_argument("--peer", default="abcrown")
    parser.add_argument("--out", type=Path, default=Path("instances.csv"))
    options = parser.parse_args()
    try:
        references = read_reference(options.reference, options.peer)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.what == "table":
        print("\n".join(table(references, read_run(options.folder))))
        return 0
    missing = write_list(references, options.folder, options.out)
    print(f"{len(references) - len(missing)} rows of {len(references)} have their files; no files for:")
    for family, number in Counter(r.family for r in missing).items():
        print(f"  {family}: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
