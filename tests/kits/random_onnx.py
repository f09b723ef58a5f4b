"""Random small ONNX models of everything the reader knows, grown node by node; ONNX Runtime judges the shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

Floats = npt.NDArray[np.float64]
Shape = tuple[int, ...]
LARGEST = 48  # entries of a tensor
RANGE = 30.0  # values beyond are scaled down, so that networks stay in a range where float32 means something

JUMPING = frozenset(
    (
        "Sign Floor Ceil Round Greater Less GreaterOrEqual LessOrEqual Cast Mod QuantizeLinear ArgMax ArgMin TopK "
        "Shrink ThresholdedRelu"
    ).split()
)


@dataclass
class Draft:
    """A model under construction. `value` and `shape` belong to the float tensor that the next node reads."""

    random: np.random.Generator
    opset: int
    dtype: np.dtype[Any]
    inputs: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    past: list[tuple[str, Shape]] = field(default_factory=list)
    value: str = ""
    shape: Shape = ()

    def number(self) -> int:
        return len(self.nodes) + len(self.constants)

    def constant(self, array: npt.ArrayLike, kind: Any = None) -> str:
        name = f"c{self.number()}"
        self.constants[name] = np.asarray(array, dtype=self.dtype if kind is None else kind)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weights(self, *shape: int, gain: float = 1.0) -> str:
        return self.constant(self.random.normal(size=shape) * gain)

    def node(self, op: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        """Adds a node; returns its first output, the others are `name_1`, `name_2` and so on."""
        first = f"t{self.number()}"
        names = [first, *(f"{first}_{i}" for i in range(1, count))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{first}", **attributes))
        return first

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def axis(self) -> int:
        """Any axis of the tensor at hand, counted from either end."""
        return int(self.random.integers(-len(self.shape), len(self.shape)))

    def other(self) -> str:
        """An earlier tensor of the same shape, or the one at hand through a function."""
        same = [name for name, shape in self.past if shape == self.shape and name != self.value]
        return self.pick(*same) if same else self.node(self.pick("Tanh", "Relu", "Sigmoid", "Neg"), self.value)

    def model(self, outputs: list[str], kind: int | None = None) -> onnx.ModelProto:
        code = helper.np_dtype_to_tensor_dtype(self.dtype)
        ins = [helper.make_tensor_value_info(n, code, list(s)) for n, s in self.inputs.items()]
        outs = [helper.make_tensor_value_info(n, code if kind is None else kind, None) for n in outputs]
        fixed = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "random", ins, outs, fixed)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        made.ir_version = 9
        return made


def session(model: onnx.ModelProto, optimise: bool = False) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(inputs: dict[str, Shape], dtype: np.dtype[Any], flat: Floats) -> dict[str, npt.NDArray[Any]]:
    """A flat input, cut into the model's inputs."""
    found, start = {}, 0
    for name, shape in inputs.items():
        size = int(np.prod(shape))
        found[name] = flat[start : start + size].reshape(shape).astype(dtype)
        start += size
    return found


def run(made: onnxruntime.InferenceSession, draft: Draft, points: Floats) -> list[npt.NDArray[Any]]:
    """First output at every point."""
    return [made.run(None, feeds(draft.inputs, draft.dtype, p))[0] for p in points]


Rule = Callable[[Draft], str]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    def keep(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return keep


class DoesNotApplyError(Exception):
    """This rule has no use for the tensor at hand."""


def need(condition: bool) -> None:
    if not condition:
        raise DoesNotApplyError


def grow(draft: Draft, points: Floats, names: list[str], steps: int) -> None:
    """Apply `steps` rules drawn from `names`; what ONNX Runtime refuses, or what is not finite, is undone."""
    for _ in range(8 * steps):
        if steps == 0:
            return
        before = len(draft.nodes), dict(draft.constants), draft.value, draft.shape
        try:
            name = RULES[draft.pick(*names)](draft)
            need(name != "")
            _accept(draft, name, points)
            steps -= 1
        except DoesNotApplyError:
            _undo(draft, before)
        except Exception as error:  # the runtime's own exception types are not public
            if not refused(error):
                raise
            _undo(draft, before)


def refused(error: Exception) -> bool:
    """Whether ONNX Runtime itself says that the model is none."""
    return "onnxruntime" in type(error).__module__ or isinstance(error, ValueError)


def _undo(draft: Draft, before: tuple[int, dict[str, npt.NDArray[Any]], str, Shape]) -> None:
    count, draft.constants, draft.value, draft.shape = before
    del draft.nodes[count:]


def _accept(draft: Draft, name: str, points: Floats) -> None:
    values = np.stack(run(session(draft.model([name])), draft, points))
    need(values.dtype == draft.dtype and bool(np.isfinite(values).all()))
    need(0 < values[0].size <= LARGEST and values[0].ndim <= 5)
    largest = float(np.abs(values).max())
    if largest > RANGE:
        name = draft.node("Mul", name, draft.constant(draft.random.uniform(0.5, 3.0) / largest))
    draft.value, draft.shape = name, values[0].shape
    draft.past.append((name, draft.shape))


def start(random: np.random.Generator) -> Draft:
    """A draft with one or two inputs."""
    opset = int(random.integers(11, 22))
    dtype = np.dtype(np.float64 if random.random() < 0.2 else np.float32)
    draft = Draft(random, opset, dtype)
    shapes = [(1, 2), (1, 3), (1, 4), (3,), (1, 1, 2, 2), (1, 2, 2, 2), (1, 1, 3, 3), (1, 2, 3), (1, 3, 2), (2, 1, 2)]
    draft.inputs["x0"] = draft.pick(*shapes)
    if random.random() < 0.15:
        draft.inputs["x1"] = draft.inputs["x0"]
    draft.value, draft.shape = "x0", draft.inputs["x0"]
    draft.past = [(n, s) for n, s in draft.inputs.items()]
    return draft


def finish(draft: Draft) -> onnx.ModelProto:
    """Flatten, and mostly one more dense layer with up to three outputs."""
    flat = draft.node("Reshape", draft.value, draft.ints(1, -1))
    size = int(np.prod(draft.shape))
    if size > 3 or draft.random.random() < 0.6:
        count = draft.pick(1, 2, 3)
        flat = draft.node("Gemm", flat, draft.weights(size, count, gain=size**-0.5), draft.weights(count))
    if len(draft.inputs) > 1 and not any("x1" in n.input for n in draft.nodes):
        whole = draft.node("ReduceSum" if draft.opset < 13 else "ReduceMean", "x1", keepdims=0)
        flat = draft.node("Add", flat, whole)
    return draft.model([flat])
