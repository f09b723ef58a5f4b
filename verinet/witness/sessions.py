"""ONNX Runtime on the bytes of the original file, with its graph optimisations off and on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from verinet.errors import InternalError, ModelError
from verinet.ir.graph import total
from verinet.spec.property import Floats

if TYPE_CHECKING:
    from verinet.frontends.model import Model

_ONLY_FATAL = 4  # ONNX Runtime's log level: it warns about things that are none of the user's business here


def open_pair(model: Model) -> tuple[Any, Any]:
    """Two sessions of one network: (not optimised, fully optimised).

    Raises:
        ModelError: ONNX Runtime does not accept the file.
    """
    import onnxruntime as ort

    levels = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    plain, optimised = (_open(model, level) for level in levels)
    return plain, optimised


def run(session: Any, model: Model, point: Floats) -> Floats:
    """All outputs at one flat input, flat float64 in the order of the file. `point` has values of the input types."""
    feeds: dict[str, Any] = {}
    offset = 0
    for name, shape, dtype in zip(model.input_names, model.input_shapes, model.input_dtypes, strict=True):
        size = total(shape)
        feeds[name] = point[offset : offset + size].astype(dtype).reshape(shape)
        offset += size
    if offset != len(point):
        raise InternalError(f"the point has {len(point)} entries, the network {offset}", where=model.name)
    outputs = session.run(list(model.output_names), feeds)
    return np.concatenate([np.asarray(output, dtype=np.float64).reshape(-1) for output in outputs])


def _open(model: Model, level: Any) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = _ONLY_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the search needs the cores
    source = model.raw if model.raw is not None else str(model.path)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception types are not public
        raise ModelError(
            f"ONNX Runtime does not accept the network: {str(error)[:300]}",
            where=model.name,
            hint="check the file with `onnx.checker.check_model`",
        ) from error
