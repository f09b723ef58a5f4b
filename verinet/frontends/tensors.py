"""ONNX tensors, types and attributes as numpy arrays and Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from verinet.errors import ModelError

Array = npt.NDArray[Any]

_EXACT = 2**53
_UNFIT = {
    10: "float16",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
}
_DTYPES: Mapping[int, type[Any]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}


def dtype_of(code: int, where: str) -> np.dtype[Any]:
    """The numpy type of an ONNX element type.

    Raises:
        ModelError: types without exact float64 values of their own arithmetic (float16, bfloat16, strings, ...).
    """
    if code in _DTYPES:
        return np.dtype(_DTYPES[code])
    name = _UNFIT.get(code, f"number {code}")
    raise ModelError(
        f"the element type {name} is not supported", where=where, hint="export the network in float32 or float64"
    )


def array_of(tensor: Any, where: str) -> Array:
    """A TensorProto as an array of its own type.

    Raises:
        ModelError: an unsupported type, damaged data, or a NaN.
    """
    from onnx import numpy_helper

    dtype_of(tensor.data_type, where)
    try:
        array: Array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelError(f"the tensor '{tensor.name}' is damaged: {error}", where=where) from error
    return array


def require_finite(array: Array, name: str, model: str) -> None:
    """Weights must be numbers, and integers such that float64 has them.

    Raises:
        ModelError: naming the first NaN or infinity, or the tensor with integers that are too large.
    """
    if array.dtype.kind in "iu":
        _require_exact(array, name, model)
    if array.dtype.kind != "f" or bool(np.isfinite(array).all()):
        return
    bad = np.argwhere(~np.isfinite(array))[0]
    place = f"entry {tuple(int(i) for i in bad)}" if array.ndim else "its value"
    value = float(array[tuple(bad)])
    raise ModelError(
        f"the tensor '{name}' holds a value that is no number: {place} is {value}",
        where=model,
        hint="check the training run or the export; bounds of such a network have no meaning",
    )


def _require_exact(array: Array, name: str, model: str) -> None:
    if array.dtype.itemsize == 8 and array.size and max(int(array.max()), -int(array.min())) > _EXACT:
        raise ModelError(
            f"the tensor '{name}' holds integers beyond 2**53, which float64 arithmetic would round",
            where=model,
            hint="use smaller constants; most of this size only stand for 'no limit'",
        )


def attributes_of(node: Any, where: str) -> dict[str, Any]:
    """Attributes of a node as Python values: tensors become arrays, strings become str, subgraphs stay protos."""
    from onnx import helper

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == 4:  # a tensor
            value = array_of(value, where)
        elif isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif attribute.type in (6, 7, 8):  # floats, ints, strings
            value = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]
        found[attribute.name] = value
    return found
