"""Lists of instances: the competition's `onnx,vnnlib,timeout` rows, single files or whole benchmark folders."""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verinet.errors import UsageError

DEFAULT_TIMEOUT = 300.0  # seconds, for rows that give none
_LIST_NAMES = ("instances.csv", "instances.csv.gz")
_VERSION_FOLDERS = ("1.0", "2.0")
_DEPTH = 3  # folders below the one named in which lists are looked for: family, version


@dataclass(frozen=True, slots=True)
class Instance:
    """One query. `network` and `prop` are the texts of the list, relative to `folder`.

    `number` counts from 1 over the whole list and stays the same in every shard. `timeout` is in seconds.
    """

    number: int
    family: str
    network: str
    prop: str
    timeout: float
    folder: Path

    @property
    def several_networks(self) -> bool:
        """Whether `network` is the list text of a VNN-LIB 2.0 query: `[('f', 'path'), ('g', 'path')]`."""
        return self.network.lstrip().startswith("[")

    def network_files(self) -> tuple[tuple[str, Path], ...]:
        """(name, file) of every network; the name is empty where the list gives none.

        Raises UsageError when the list text of several networks is malformed.
        """
        if not self.several_networks:
            return (("", existing(self.folder, self.network)),)
        try:
            pairs = [(str(name), str(file)) for name, file in ast.literal_eval(self.network.strip())]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UsageError(
                "the list of networks is malformed",
                where=f"instance {self.number}: {self.network[:200]}",
                hint="write [('f', 'first.onnx'), ('g', 'second.onnx')]",
            ) from None
        return tuple((name, existing(self.folder, file)) for name, file in pairs)

    def property_file(self) -> Path:
        """The property's file; it need not exist."""
        return existing(self.folder, self.prop)

    def key(self) -> list[str | float]:
        """What makes the instance what it is, for comparison with a stored record."""
        return [self.family, self.network, self.prop, self.timeout]


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count` equal parts of a list."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`. Raises UsageError."""
        index, slash, count = text.partition("/")
        if slash and index.strip().isdecimal() and count.strip().isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise UsageError(f"a shard is i/n with 1 <= i <= n, not '{text}'", hint="--shard 3/16 in a job array of 16")

    def take(self, instances: Sequence[Instance]) -> list[Instance]:
        """Every n-th instance, so that hard families spread evenly over the shards."""
        return [i for i in instances if (i.number - 1) % self.count == self.index - 1]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def existing(folder: Path, text: str) -> Path:
    """The file that `text` means: as written, or with `.gz` added or removed where only that one exists."""
    path = (folder / text.strip()).absolute()
    if path.exists():
        return path
    other = path.with_suffix("") if path.suffix == ".gz" else Path(f"{path}.gz")
    return other if other.exists() else path


def read_instances(source: str | Path, timeout: float | None = None) -> list[Instance]:
    """The instances of a csv file (`.gz` allowed) or of a folder with one `instances.csv` per family.

    Args:
        source: the file or folder.
        timeout: seconds, instead of the times in the list.

    Raises:
        UsageError: nothing to read, a row that is no instance, or an impossible time.
    """
    top = Path(source)
    instances: list[Instance] = []
    for path in _lists(top):
        family = _family(path, top)
        for line, row in _rows(path):
            instances.append(_instance(row, (len(instances) + 1, family, path, line), timeout))
    if not instances:
        raise UsageError("the list holds no instances", where=str(top), hint="rows are onnx,vnnlib,timeout")
    return instances


def fingerprint(instances: Sequence[Instance]) -> str:
    """SHA-256 over the rows, so that a resumed run notices a changed list."""
    return hashlib.sha256(json.dumps([i.key() for i in instances]).encode()).hexdigest()


def _lists(top: Path) -> list[Path]:
    if top.is_file():
        return [top]
    if not top.is_dir():
        raise UsageError("there is no such file or folder", where=str(top))
    for depth in range(_DEPTH):
        level = [path for name in _LIST_NAMES for path in top.glob("*/" * depth + name)]
        # With both a plain and a packed list in one folder, they are the same list.
        found = sorted({path.parent: path for path in reversed(level)}.values())
        if found:
            return found
    raise UsageError("the folder holds no instances.csv", where=str(top), hint="name the csv file itself")


def _family(path: Path, top: Path) -> str:
    folder = path.absolute().parent
    if folder.name in _VERSION_FOLDERS:
        return f"{folder.parent.name}/{folder.name}"
    return folder.name


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"the list cannot be read: {error}", where=str(path)) from error
    rows = list(enumerate(csv.reader(text.splitlines()), start=1))
    if rows and [cell.strip().lower() for cell in rows[0][1][:2]] == ["onnx", "vnnlib"]:
        rows = rows[1:]
    return [(line, row) for line, row in rows if any(cell.strip() for cell in row)]


def _instance(row: list[str], place: tuple[int, str, Path, int], timeout: float | None) -> Instance:
    number, family, path, line = place
    where = f"{path}, line {line}"
    if len(row) < 2:
        raise UsageError(f"a row is onnx,vnnlib,timeout, not '{','.join(row)[:200]}'", where=where)
    given = row[2].strip() if len(row) > 2 else ""
    seconds = timeout if timeout is not None else _seconds(given, where)
    return Instance(number, family, row[0].strip(), row[1].strip(), seconds, path.absolute().parent)


def _seconds(text: str, where: str) -> float:
    if not text:
        return DEFAULT_TIMEOUT
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"a timeout is a number of seconds above 0, not '{text}'", where=where)
    return value
