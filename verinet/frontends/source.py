"""From a path, bytes or a proto to a checked `onnx.ModelProto` and the facts about its file."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verinet.errors import ModelError, UsageError

_PACKED = b"\x1f\x8b"  # first bytes of every gzip file (RFC 1952)


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed file. `raw` is None when weights live in separate files beside `path`."""

    proto: Any
    raw: bytes | None
    path: Path | None
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else "the given model"


def read_source(given: Any) -> Source:
    """Parse a path (.onnx or .onnx.gz), the bytes of such a file, or an `onnx.ModelProto`.

    Raises:
        UsageError: no such file.
        ModelError: not an ONNX model, truncated, or with its external data missing.
    """
    if isinstance(given, str | Path):
        path = Path(given)
        return _parse(_read(path), path)
    if isinstance(given, bytes | bytearray | memoryview):
        return _parse(bytes(given), None)
    if not hasattr(given, "SerializeToString"):
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, not {type(given).__name__}")
    raw = given.SerializeToString()
    return _parse(raw, None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(path)) from None
    except OSError as error:
        raise UsageError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _parse(stored: bytes, path: Path | None) -> Source:
    where = str(path) if path is not None else "the given bytes"
    packed = stored[:2] == _PACKED
    raw = _unpack(stored, where) if packed else stored
    proto = _proto(raw, where)
    digest = hashlib.sha256(stored).hexdigest()
    if not _has_external_data(proto):
        return Source(proto, raw, path, digest)
    _load_external(proto, path, where)
    # A packed file cannot be opened by ONNX Runtime where it lies, so its weights are put into the bytes.
    return Source(proto, proto.SerializeToString() if packed else None, path, digest)


def _unpack(stored: bytes, where: str) -> bytes:
    try:
        return gzip.decompress(stored)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"the gzip file is damaged: {error}", where=where, hint="fetch it again") from error


def _proto(raw: bytes, where: str) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    proto = ModelProto()
    try:
        proto.ParseFromString(raw)
    except DecodeError as error:
        raise ModelError(
            "this is not an ONNX model, or it is truncated", where=where, hint="export it again"
        ) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelError("this ONNX model has no graph with outputs", where=where, hint="export it again")
    return proto


def _has_external_data(proto: Any) -> bool:
    from onnx import TensorProto

    external = TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in proto.graph.initializer):
        return True
    return any(
        attribute.t.data_location == external
        for node in proto.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant"
    )


def _load_external(proto: Any, path: Path | None, where: str) -> None:
    from onnx.external_data_helper import load_external_data_for_model

    if path is None:
        raise ModelError(
            "the weights of this model are in a separate file, which bytes cannot name",
            hint="give the path of the .onnx file",
        )
    try:
        load_external_data_for_model(proto, str(path.resolve().parent))
    except Exception as error:  # onnx raises its own, unrelated types for missing, short and forbidden files
        raise ModelError(
            f"the external weight file cannot be read: {error}", where=where, hint="keep the .onnx.data file beside it"
        ) from error
