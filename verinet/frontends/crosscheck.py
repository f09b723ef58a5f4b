"""Our graph against ONNX Runtime on the original file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verinet.errors import ModelError
from verinet.frontends.model import Model
from verinet.ir.graph import Graph, total

_BESIDE = (1e-6, 1e-4, 1e-2)  # relative
Floats = npt.NDArray[np.float64]


def open_session(model: Model, *, optimise: bool = False) -> Any:
    """An ONNX Runtime session on the original file: one thread, quiet, graph optimisations off unless asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    given = model.raw if model.raw is not None else str(model.path)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exception types are not public
        raise ModelError(f"ONNX Runtime cannot open this network: {error}", where=model.name) from error


def session_of(model: Model, *, optimise: bool = False) -> Any:
    """The session of a network, opened when it is first needed and kept as long as the network."""
    name = f"session, optimise={optimise}"
    if name not in model.kept:
        model.kept[name] = open_session(model, optimise=optimise)
    return model.kept[name]


def run_session(session: Any, model: Model, inputs: Floats) -> Floats:
    """Run one flat float64 input, cast to the input types, and return the flat outputs as float64."""
    feeds: dict[str, npt.NDArray[Any]] = {}
    offset = 0
    for name, shape, dtype in zip(model.input_names, model.input_shapes, model.input_dtypes, strict=True):
        size = total(shape)
        feeds[name] = np.ascontiguousarray(inputs[offset : offset + size].reshape(shape), dtype=dtype)
        offset += size
    try:
        outputs = session.run(list(model.output_names), feeds)
    except Exception as error:  # see open_session
        raise ModelError(f"ONNX Runtime cannot run this network: {error}", where=model.name) from error
    return np.concatenate([np.asarray(y, dtype=np.float64).reshape(-1) for y in outputs])


def compare_with_onnxruntime(model: Model, samples: Floats) -> float:
    """Worst difference between our graph (float64) and ONNX Runtime, relative to 1 + max |y| of the sample.

    Where a network has jumps, float32 may land on the other side of one; it is enough then that some sample agrees, or
    most points that lie a little beside the samples, outside the property's box if need be.

    Args:
        model: the network.
        samples: (k, inputs) float64; rounded to the input types before use.

    Raises:
        ModelError: the difference is too large for the number type, so the file was misread.
    """
    graph = model.graph.to(torch.float64)
    session = session_of(model)
    differences: list[float] = []
    undefined: ModelError | None = None
    for sample in samples:
        rounded = _rounded(model, sample)
        expected = run_session(session, model, rounded)
        values = graph.forward_all(torch.from_numpy(rounded).unsqueeze(0))
        found = values[-1][0].numpy()
        if found.shape == expected.shape and bool((np.isfinite(expected) & np.isnan(found)).any()):
            undefined = undefined or _undefined(model, values)
        differences.append(_difference(model, found, expected))
    decisive = min(differences, default=0.0) if _jumps(model) else max(differences, default=0.0)
    worst = max(differences, default=0.0)
    if decisive > _tolerance(model) and not (_jumps(model) and _agrees_nearby(model, graph, samples)):
        raise undefined or ModelError(
            f"our reading of this network differs from ONNX Runtime by {worst:.3g} (relative)",
            where=model.name,
            hint="please report the file; no answer about it can be trusted",
        )
    return worst


def _agrees_nearby(model: Model, graph: Graph, samples: Floats) -> bool:
    """Whether our reading agrees at most points beside the samples: a small box may lie on a jump with all of them."""
    random, session = np.random.default_rng(0), session_of(model)
    agree = count = 0
    for share in _BESIDE:
        moved = samples + share * (np.abs(samples) + share) * random.uniform(-1.0, 1.0, samples.shape)
        for point in (_rounded(model, sample) for sample in moved):
            found = graph.forward(torch.from_numpy(point).unsqueeze(0))[0].numpy()
            agree += _difference(model, found, run_session(session, model, point)) <= _tolerance(model)
            count += 1
    return 2 * agree > count


def _undefined(model: Model, values: list[torch.Tensor]) -> ModelError:
    """ONNX Runtime has a value where real arithmetic as we read it has none: (-2)^y happens to be defined for y = 2."""
    pairs = zip(model.graph.nodes, values, strict=True)
    name = next((node.name for node, value in pairs if not bool(torch.isfinite(value).all())), "")
    return ModelError(
        "our reading of this network differs from ONNX Runtime: it has no finite value at a sample input",
        where=f"node '{name}' of {model.name}",
        hint="a power with a variable exponent needs a base above 0, and integers have to fit their type: shrink the "
        "input region so that they do; without such nodes please report the file, no answer about it can be trusted",
    )


def _rounded(model: Model, sample: Floats) -> Floats:
    parts: list[npt.NDArray[Any]] = []
    offset = 0
    for shape, dtype in zip(model.input_shapes, model.input_dtypes, strict=True):
        parts.append(sample[offset : offset + total(shape)].astype(dtype).astype(np.float64))
        offset += total(shape)
    return np.concatenate(parts)


def _difference(model: Model, found: Floats, expected: Floats) -> float:
    if found.shape != expected.shape:
        raise ModelError(f"our reading has {found.size} outputs, ONNX Runtime {expected.size}", where=model.name)
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    scale = 1.0 + np.abs(expected[finite]).max()
    difference = float(np.abs(found[finite] - expected[finite]).max() / scale)
    return difference if np.isfinite(difference) else float("inf")


def _jumps(model: Model) -> bool:
    """True if some activation is discontinuous (Sign, Floor, comparisons)."""
    functions = (getattr(node.op, "function", None) for node in model.graph.nodes)
    return any(getattr(function, "jumps", None) is not None for function in functions)


def _tolerance(model: Model) -> float:
    wide = all(dtype == np.float64 for dtype in (*model.input_dtypes, *model.output_dtypes))
    return 1e-9 if wide else 1e-3
