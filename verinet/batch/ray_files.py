"""Files of a task on their way to another machine: read where the list is, kept by content where they are used."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from verinet.batch.solve import NETWORKS_KEPT
from verinet.errors import VerinetError

_FILES_KEPT = NETWORKS_KEPT + 2  # by an agent: networks that stay loaded, the property in use, and one before it
_FOLDER, _LOCK = "verinet-ray-", "lock"
_YOUNG = 60.0  # seconds
_PACKED = b"\x1f\x8b"

Contents = tuple[tuple[str, bytes], ...]  # (name, bytes) of a file and of those that belong to it


@dataclass(frozen=True, slots=True)
class Packed:
    """One file. `content` is a list with a reference to `Contents`, so that Ray does not fetch it unasked.

    `digest` is None for a file that cannot be read; the worker then says so.
    """

    path: str
    digest: str | None = None
    content: tuple[Any, ...] = ()


@dataclass(slots=True)
class Shipper:
    """Reads files once and puts them into the object store by `put`; forgets all but the last networks."""

    put: Callable[[Contents], Any]
    _kept: OrderedDict[tuple[str, int, int], Packed] = field(default_factory=OrderedDict)

    def pack(self, path: str, *, keep: bool) -> Packed:
        """A file and its companions; `keep` remembers it for the tasks that follow."""
        try:
            status = Path(path).stat()
            key = (path, status.st_size, status.st_mtime_ns)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            contents = _read(Path(path))
        except OSError:
            return Packed(path)
        packed = Packed(path, _digest(contents), (self.put(contents),))
        if keep:
            self._kept[key] = packed
            while len(self._kept) > 2 * NETWORKS_KEPT:
                self._kept.popitem(last=False)
        return packed


@dataclass(slots=True)
class Shelf:
    """A folder on the machine of a worker. Equal contents keep their place, so that a loaded network is known again."""

    folder: Path
    get: Callable[[Any], Contents]
    _places: OrderedDict[str, Path] = field(default_factory=OrderedDict)

    def place(self, files: Iterable[Packed]) -> dict[str, str]:
        """Write what is missing; maps every path of the sender to the path here."""
        found = {packed.path: str(self._one(packed)) for packed in files}
        while len(self._places) > max(_FILES_KEPT, len(found)):
            _, old = self._places.popitem(last=False)
            shutil.rmtree(old.parent, ignore_errors=True)
        return found

    def _one(self, packed: Packed) -> Path:
        name = PurePosixPath(packed.path).name
        if packed.digest is None:
            return self.folder / "missing" / name
        key = f"{packed.digest}-{name}"
        if key not in self._places:
            place = self.folder / packed.digest / name
            for part, content in self.get(packed.content[0]):
                target = place.parent / part
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self._places[key] = place
        self._places.move_to_end(key)
        return self._places[key]


def own_folder() -> tuple[Path, IO[str]]:
    """A new folder for one agent, and its lock, to be kept open; folders of agents that were killed are removed."""
    parent = Path(tempfile.gettempdir())
    for old in parent.glob(f"{_FOLDER}*"):
        _sweep(old)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _sweep(folder: Path) -> None:
    """Remove a folder that nobody holds. The kernel gives a lock back when its process goes, however that ends."""
    try:
        if time.time() - folder.stat().st_mtime < _YOUNG:  # its owner may be about to lock it
            return
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # held, gone, or somebody else's
        return


def _read(path: Path) -> Contents:
    stored = path.read_bytes()
    others = ((name, (path.parent / name).read_bytes()) for name in _companions(path, stored))
    return ((path.name, stored), *others)


def _companions(path: Path, stored: bytes) -> list[str]:
    """Names of the weight files that an ONNX model keeps beside it; a file that is none of either has none."""
    if not path.name.removesuffix(".gz").endswith(".onnx"):
        return []
    try:
        raw = gzip.decompress(stored) if stored[:2] == _PACKED else stored
        if b"location" not in raw:  # the key of every such name; saves importing onnx
            return []
        return _weight_files(raw, path)
    except (OSError, EOFError, VerinetError):  # damaged: the worker says so
        return []


def _weight_files(raw: bytes, path: Path) -> list[str]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    proto = ModelProto()
    try:
        proto.ParseFromString(raw)
    except DecodeError:
        return []
    tensors = [*proto.graph.initializer, *(a.t for node in proto.graph.node for a in node.attribute)]
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    inside = (name for name in names if not name.startswith("/") and ".." not in PurePosixPath(name).parts)
    return sorted(name for name in inside if (path.parent / name).is_file())


def _digest(contents: Contents) -> str:
    whole = hashlib.sha256()
    for name, content in contents:
        whole.update(f"{name}\n{len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()
