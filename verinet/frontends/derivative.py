"""The Jacobian of a network as a network: an ONNX file that any query about derivatives can be asked of.

Every node gets a second one beside it that carries the derivative in D directions of the input (forward mode). The
result is an ordinary network, so `verify`, `bounds` and ONNX Runtime read it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verinet.errors import InternalError, ModelError, UsageError
from verinet.frontends import derivative_rules, derivative_scalar
from verinet.frontends.call import OnnxNode
from verinet.frontends.derivative_tape import RULES, Kind, Step, Tangent, Tape
from verinet.frontends.model import Model
from verinet.frontends.outline import Outline, outline_of
from verinet.frontends.source import Source, read_source
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape, total

__all__ = ["Derivative", "jacobian"]

_THEMES = (derivative_rules, derivative_scalar)  # modules that fill RULES
_SHAPES_ONLY = ("Shape", "Size", "ConstantOfShape")  # their results do not depend on the values of their inputs
_ZERO, _OUTPUT = "derivative/zero", "jacobian"
_OLDEST = 9  # the first opset with Where and Sign
_POINTS, _DIRECTIONS, _WIDTH, _TOLERANCE = 5, 32, 1e-6, 1e-4  # of the comparison with difference quotients


@dataclass(frozen=True, slots=True)
class Derivative:
    """A network whose output `jacobian`, (outputs, inputs), holds d Y_outputs[i] / d X_inputs[j] of the original.

    So entry (i, j) is Y_{i * len(inputs) + j}; with `values` the original outputs follow. `notes` says where a constant
    of a derivative could not be written exactly.
    """

    raw: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    values: bool
    notes: tuple[str, ...]

    def save(self, path: str | Path) -> Path:
        """Write the ONNX file. Raises `UsageError` if that is not possible."""
        target = Path(path)
        try:
            target.write_bytes(self.raw)
        except OSError as error:
            raise UsageError(f"cannot write the file: {error.strerror or error}", where=str(target)) from error
        return target

    def load(self) -> Model:
        """The derivative as a model, for `verify` and `bounds`."""
        from verinet.frontends.onnx import load_onnx

        return load_onnx(self.raw)


def jacobian(
    model: Model | str | Path | bytes,
    *,
    inputs: Sequence[int] | None = None,
    outputs: Sequence[int] | None = None,
    values: bool = False,
) -> Derivative:
    """Differentiate a network with respect to some of its inputs (all by default).

    `inputs` and `outputs` are flat positions, as in X_j and Y_i. At a kink the derivative is taken from one side. With
    `values` the network's own outputs come after the derivatives, so that a property may speak of both.

    Raises:
        UsageError: a position that does not exist.
        ModelError: an operator without a rule, one that jumps, or inputs of several number types.
    """
    given: Any = (model.raw if model.raw is not None else model.path) if isinstance(model, Model) else model
    source = read_source(given)
    outline = outline_of(source)
    if outline.opset < _OLDEST:
        hint = f"convert it to {_OLDEST} or later with onnx.version_converter"
        raise ModelError(f"cannot differentiate a file of opset {outline.opset}", where=source.name, hint=hint)
    shapes, known = _tensors(source, outline)
    columns = _positions(inputs, sum(total(port.shape) for port in outline.inputs), "input", source.name)
    rows = _positions(outputs, sum(total(shapes[name]) for name in outline.outputs), "output", source.name)
    tape = Tape(len(columns), _element_type(outline, source.name), outline.opset, source.name, shapes, known, _ZERO)
    _seed(tape, outline, columns)
    for node in outline.nodes:
        _differentiate(tape, node)
    _finish(tape, outline, rows)
    raw = _written(source, outline, tape, (len(rows), len(columns)), values)
    found = Derivative(raw, columns, rows, values, tuple(tape.notes))
    _compare(source, found)
    return found


def _positions(wanted: Sequence[int] | None, count: int, what: str, model: str) -> tuple[int, ...]:
    if wanted is None:
        return tuple(range(count))
    bad = [n for n in wanted if not 0 <= n < count]
    if bad or not wanted:
        fact = f"there is no {what} {bad[0]}" if bad else f"no {what} is given"
        raise UsageError(fact, where=model, hint=f"{what}s are counted from 0 to {count - 1}")
    return tuple(int(n) for n in wanted)


def _element_type(outline: Outline, model: str) -> np.dtype[Any]:
    kinds = {port.dtype for port in outline.inputs}
    if len(kinds) > 1 or next(iter(kinds)).kind != "f":
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise ModelError(f"cannot differentiate with respect to inputs of type {names}", where=model)
    return next(iter(kinds))


def _tensors(source: Source, outline: Outline) -> tuple[dict[str, Shape], dict[str, Array]]:
    """Shapes of all tensors, and the values of those that do not depend on the input, from one run at zero."""
    from onnx import helper

    from verinet.frontends.folding import evaluate

    known = {name: constant.array for name, constant in outline.constants.items()}
    for node in outline.nodes:
        if all(name in known for name in node.inputs if name) and not node.domain:
            arrays = [known[name] if name else None for name in node.inputs]
            known.update(zip(node.outputs, evaluate(node, arrays, outline.opset, source.name), strict=False))
    names = [o for node in outline.nodes for o in node.outputs if o and o not in known]
    proto = _copied(source, outline, [])
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    found = _run(proto.SerializeToString(), source.name, {p.name: np.zeros(p.shape, p.dtype) for p in outline.inputs})
    shapes = {port.name: port.shape for port in outline.inputs}
    shapes |= {name: tuple(array.shape) for name, array in known.items()}
    shapes |= {name: tuple(array.shape) for name, array in zip(names, found, strict=True)}
    for node in outline.nodes:
        values = dict(zip(names, found, strict=True))
        if node.op in _SHAPES_ONLY or all(name in known for name in node.inputs if name):
            known |= {name: values[name] for name in node.outputs if name in values}
    return shapes, known


def _run(raw: bytes, model: str, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(None, dict(feeds))]
    except Exception as error:  # the runtime's own exception types are not public
        raise ModelError(f"ONNX Runtime cannot run this network: {error}", where=model) from error


def _seed(tape: Tape, outline: Outline, columns: Sequence[int]) -> None:
    """The tangents of the inputs, rows of the identity, and a zero that depends on the first input."""
    first = outline.inputs[0]
    flat = tape.reshape(first.name, (-1,))
    entry = tape.emit("Gather", [flat, tape.integers([0])], axis=0)
    tape.nodes.append(_named("Mul", [entry, tape.number(0.0)], _ZERO))
    offset = 0
    for port in outline.inputs:
        size = total(port.shape)
        inside = [(row, column - offset) for row, column in enumerate(columns) if 0 <= column - offset < size]
        if inside:
            unit = np.zeros((len(columns), size), dtype=tape.dtype)
            unit[tuple(np.array(inside).T)] = 1
            name = tape.constant(unit.reshape(len(columns), *port.shape))
            tape.tangents[port.name] = Tangent(name, Kind.UNIT)
        offset += size


def _named(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(op, list(inputs), [output], name=output, **attributes)


def _differentiate(tape: Tape, node: OnnxNode) -> None:
    """The tangents of one node's outputs."""
    if node.op in _SHAPES_ONLY or not any(name in tape.tangents for name in node.inputs):
        return
    step = Step(node, tape)
    if node.domain or node.op not in RULES:
        raise step.refused()
    for name, tangent in zip(node.outputs, RULES[node.op](step), strict=False):
        if name and tangent is not None:
            tape.tangents[name] = tangent


def _finish(tape: Tape, outline: Outline, rows: Sequence[int]) -> None:
    """(D, outputs) of the tangents to (rows, D)."""
    parts = []
    for name in outline.outputs:
        size, tangent = total(tape.shapes[name]), tape.tangents.get(name)
        if tangent is None:
            tangent = Tangent(tape.constant(np.zeros((tape.directions, size), dtype=tape.dtype)), Kind.CONSTANT)
        parts.append(tape.reshape(tangent.name, (tape.directions, size)))
    joined = tape.emit("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
    picked = tape.emit("Gather", [joined, tape.integers(rows)], axis=1)
    turned = tape.emit("Transpose", [picked], perm=[1, 0])
    # Also where the derivative is constant, or flat between jumps, it is a differentiable function of the input.
    tape.nodes.append(_named("Add", [turned, tape.zero], _OUTPUT))


def _copied(source: Source, outline: Outline, nodes: Sequence[Any]) -> Any:
    """The network with fixed input shapes and with further nodes; weights are in the file."""
    from onnx import ModelProto, helper, inliner

    proto = ModelProto()
    proto.CopyFrom(inliner.inline_local_functions(source.proto) if source.proto.functions else source.proto)
    del proto.graph.input[:]
    for port in outline.inputs:
        kind = helper.np_dtype_to_tensor_dtype(port.dtype)
        proto.graph.input.append(helper.make_tensor_value_info(port.name, kind, list(port.shape)))
    del proto.graph.value_info[:]  # they may still speak of other batch sizes
    proto.graph.node.extend(nodes)
    return proto


def _written(source: Source, outline: Outline, tape: Tape, shape: Shape, values: bool) -> bytes:
    from onnx import helper, numpy_helper

    proto = _copied(source, outline, tape.nodes)
    taken = {name for node in proto.graph.node for name in node.output} - {n for m in tape.nodes for n in m.output}
    if any(name == _OUTPUT or name.startswith("derivative/") for name in taken | set(outline.constants)):
        raise ModelError("the network already has tensors named as those of a derivative", where=source.name)
    kind = helper.np_dtype_to_tensor_dtype(tape.dtype)
    outputs = [(_OUTPUT, shape)]
    outputs += [(name, tape.shapes[name]) for name in outline.outputs] if values else []
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, kind, list(dims)) for name, dims in outputs)
    proto.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in tape.constants.items())
    _prune(proto)
    proto.ir_version = max(proto.ir_version, 8)  # initialisers need not be listed as inputs
    proto.producer_name, proto.doc_string = "verinet", "; ".join([f"derivative of {source.name}", *tape.notes])
    raw: bytes = proto.SerializeToString(deterministic=True)
    return raw


def _prune(proto: Any) -> None:
    """Drop nodes and constants that no output needs."""
    wanted = {output.name for output in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
    nodes = kept[::-1]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(tensors)


def _compare(source: Source, found: Derivative) -> None:
    """Both files as we read them, in float64: the derivative against central difference quotients.

    Raises:
        ModelError: ONNX Runtime does not take the new file.
        InternalError: they differ at most sample points.
    """
    import torch

    from verinet.frontends.crosscheck import open_session
    from verinet.frontends.onnx import load_onnx

    given: Any = source.raw if source.raw is not None else source.path
    written = found.load()
    open_session(written)
    value, slope = (m.graph.to(torch.float64) for m in (load_onnx(given), written))
    rng = np.random.default_rng(0)
    some = rng.permutation(len(found.inputs))[:_DIRECTIONS]
    directions = torch.zeros((len(some), value.input_size), dtype=torch.float64)
    directions[torch.arange(len(some)), torch.tensor([found.inputs[j] for j in some])] = _WIDTH
    worst = []
    for scale in (0.3, 1.0, 3.0):
        for x in torch.from_numpy(scale * np.abs(rng.normal(size=(_POINTS, value.input_size)))):
            ends = value.forward(x + torch.cat([directions, -directions]))[:, list(found.outputs)]
            quotient = (ends[: len(some)] - ends[len(some) :]) / (2 * _WIDTH)
            exact = slope.forward(x[None])[0, : len(found.outputs) * len(found.inputs)]
            exact = exact.reshape(len(found.outputs), len(found.inputs))[:, torch.from_numpy(some)].T
            difference = float((quotient - exact).abs().max() / (1 + exact.abs().max()))
            if np.isfinite(difference):
                worst.append(difference)
    if worst and float(np.median(worst)) > _TOLERANCE:
        raise InternalError(
            f"the derivative differs from difference quotients by {np.median(worst):.3g} (relative)",
            where=source.name,
            hint="please report the network; do not use the derivative",
        )
