"""Values of nodes whose inputs are all known, in the declared types, as ONNX Runtime would compute them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.call import OnnxNode
from verinet.frontends.handlers_shape import onnx_slice
from verinet.frontends.tensors import Array, dtype_of

Inputs = Sequence[Array | None]
Rule = Callable[[OnnxNode, list[Array]], Array]


def evaluate(node: OnnxNode, inputs: Inputs, opset: int, where: str) -> list[Array]:
    """All outputs of a node with known inputs.

    Shape arithmetic, which is most of what exporters leave behind, is done by numpy; the rest by ONNX Runtime.
    """
    rule = _RULES.get(node.op)
    if rule is not None and node.domain == "" and all(a is not None for a in inputs):
        try:
            return [np.asarray(rule(node, [a for a in inputs if a is not None]))]
        except (ValueError, IndexError, TypeError, KeyError):
            pass  # an unusual use: ONNX Runtime decides what it means, or says what is wrong
    return run_node(node, inputs, opset, where)


def run_node(node: OnnxNode, inputs: Inputs, opset: int, where: str) -> list[Array]:
    """Run one node in ONNX Runtime.

    Raises:
        ModelError: the node is not valid, with the runtime's own words.
    """
    import onnxruntime
    from onnx import helper, numpy_helper

    names = [f"i{position}" if array is not None else "" for position, array in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    outputs = [f"o{position}" for position in range(len(node.outputs))]
    attributes = {k: _attribute(v) for k, v in node.attributes.items()}
    try:
        made = helper.make_node(node.op, names, outputs, domain=node.domain, **attributes)
    except ValueError as error:  # a name that is no text: a damaged file
        raise ModelError(f"the node cannot be read: {error}", where=where) from error
    fixed = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in zip(names, inputs, strict=False) if n]
    empty = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([made], "one", [], empty, fixed)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(node.domain, 1)] if node.domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(None, {})]
    except Exception as error:  # the runtime's own exception types are not public
        raise ModelError(f"ONNX Runtime cannot evaluate {node.op}: {error}", where=where) from error


def _attribute(value: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value


def _axes(node: OnnxNode, inputs: list[Array]) -> tuple[int, ...]:
    given: Any = node.attributes["axes"] if "axes" in node.attributes else inputs[1].reshape(-1)
    return tuple(int(a) for a in np.atleast_1d(given))


def _reshape(node: OnnxNode, inputs: list[Array]) -> Array:
    data, wanted = inputs[0], [int(n) for n in inputs[1].reshape(-1)]
    if not node.attributes.get("allowzero", 0):
        wanted = [data.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return data.reshape(wanted)


def _slice(node: OnnxNode, inputs: list[Array]) -> Array:
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes", range(len(starts))), [1] * len(starts)
    else:
        rows = [[int(n) for n in a.reshape(-1)] for a in inputs[1:]]
        starts, ends = rows[0], rows[1]
        axes = rows[2] if len(rows) > 2 else range(len(starts))
        steps = rows[3] if len(rows) > 3 else [1] * len(starts)
    parts = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = onnx_slice(int(start), int(end), int(step), inputs[0].shape[axis])
    return inputs[0][tuple(parts)]


def _divide(node: OnnxNode, inputs: list[Array]) -> Array:
    left, right = inputs
    if left.dtype.kind == "f":
        return left / right
    # ONNX integers are divided as in C, towards zero.
    quotient: Array = np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))
    return quotient.astype(left.dtype)


def _filled(node: OnnxNode, inputs: list[Array]) -> Array:
    value = node.attributes.get("value", np.zeros(1, dtype=np.float32))
    return np.full(tuple(int(n) for n in inputs[0].reshape(-1)), value.reshape(()), dtype=value.dtype)


def _squeeze(node: OnnxNode, inputs: list[Array]) -> Array:
    if len(inputs) == 1 and "axes" not in node.attributes:
        return inputs[0].squeeze()
    return inputs[0].squeeze(_axes(node, inputs))


def _expand(node: OnnxNode, inputs: list[Array]) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1].reshape(-1)))
    return np.broadcast_to(inputs[0], shape)


def _cast(node: OnnxNode, inputs: list[Array]) -> Array:
    target = dtype_of(int(node.attributes["to"]), node.label)
    if inputs[0].dtype.kind == "f" and target.kind in "iu" and not np.isfinite(inputs[0]).all():
        raise ValueError("an undefined cast")
    return inputs[0].astype(target)


_RULES: Mapping[str, Rule] = {
    "Identity": lambda node, a: a[0],
    "Shape": lambda node, a: shape_of(node, a[0].shape),
    "Size": lambda node, a: np.asarray(a[0].size, dtype=np.int64),
    "Gather": lambda node, a: np.take(a[0], a[1].astype(np.int64), axis=int(node.attributes.get("axis", 0))),
    "Concat": lambda node, a: np.concatenate(a, axis=int(node.attributes["axis"])),
    "Unsqueeze": lambda node, a: np.expand_dims(a[0], _axes(node, a)),
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Slice": _slice,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Range": lambda node, a: np.arange(a[0].item(), a[1].item(), a[2].item(), dtype=a[0].dtype),
    "Where": lambda node, a: np.where(a[0], a[1], a[2]),
    "Equal": lambda node, a: np.equal(a[0], a[1]),
    "Greater": lambda node, a: np.greater(a[0], a[1]),
    "Less": lambda node, a: np.less(a[0], a[1]),
    "Not": lambda node, a: np.logical_not(a[0]),
    "Reshape": _reshape,
    "Transpose": lambda node, a: np.transpose(a[0], node.attributes.get("perm")),
    "Add": lambda node, a: a[0] + a[1],
    "Sub": lambda node, a: a[0] - a[1],
    "Mul": lambda node, a: a[0] * a[1],
    "Div": _divide,
    "Neg": lambda node, a: -a[0],
    "Abs": lambda node, a: np.abs(a[0]),
    "Sqrt": lambda node, a: np.sqrt(a[0]),
    "Floor": lambda node, a: np.floor(a[0]),
    "Ceil": lambda node, a: np.ceil(a[0]),
}


def shape_of(node: OnnxNode, shape: Sequence[int]) -> Array:
    """Value of a Shape node: extents from `start` to `end`."""
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(shape, dtype=np.int64)[slice(start, end)]


def constant_value(node: OnnxNode) -> Array:
    """Value of a Constant node in any of its spellings.

    Raises:
        ModelError: a sparse or string constant.
    """
    for name, kind in (("value", None), ("value_float", np.float32), ("value_int", np.int64)):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype=kind)
    for name, kind in (("value_floats", np.float32), ("value_ints", np.int64)):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype=kind)
    raise ModelError("a Constant of a kind that is not supported", where=f"node '{node.label}'")
