"""A CUDA device that is not there: tensors "on" it are ordinary ones that say so, and do not mix with those that don't.

It finds tensors that are made on the wrong device and arrays made from tensors on a device, on machines without one.
It does not find what only a real device does: its own kernels, their rounding, and its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
_HOME = torch.device("cpu")
_MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.copy_)
_ARRAYS = (Tensor.numpy, Tensor.__array__)
_ANYWHERE = (Tensor.dim, Tensor.size, Tensor.as_subclass)


class WrongDevice(RuntimeError):
    """What torch would refuse if the device were there."""


class Elsewhere(Tensor):
    """A tensor on the device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


@dataclass
class Seen:
    """Calls with a tensor on the device among the arguments, and those with tensors of the CPU alone."""

    device: int = 0
    cpu: int = 0


class _Mode(TorchFunctionMode):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._seen.device += any(isinstance(t, Elsewhere) for t in tensors)
        self._seen.cpu += bool(tensors) and not any(isinstance(t, Elsewhere) for t in tensors)
        return _called(func, args, kwargs or {})


@contextmanager
def emulated() -> Iterator[Seen]:
    """Within it, in this thread, torch has a CUDA device."""
    seen = Seen()
    with mock.patch.object(torch.cuda, "is_available", lambda: True), _Mode(seen):
        yield seen


def _called(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass(), torch._C.DisableTorchFunction():
        if func is torch.device:
            return func(*args, **kwargs)
        if func == Tensor.device.__get__:
            return CUDA if isinstance(args[0], Elsewhere) else _HOME
        if func == Tensor.is_cuda.__get__:
            return isinstance(args[0], Elsewhere)
        return _computed(func, args, kwargs)


def _computed(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """The call on the tensors that are there, and its result where it would be."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    first = args[0] if args else None
    away = any(isinstance(t, Elsewhere) for t in tensors)
    if away:
        _check(func, args, tensors)
    target = _target(func, args, kwargs)
    away = away if target is None else target.type == CUDA.type
    if func is Tensor.copy_:
        away = isinstance(first, Elsewhere)
    given = tree_map(_brought_home, (list(args), kwargs))
    result = first.clone() if func is Tensor.cuda else func(*given[0], **given[1])
    if not isinstance(result, (Tensor, tuple, list)) or isinstance(result, torch.Size):
        return result
    if isinstance(result, Tensor) and result is first and func in _MOVES and func is not Tensor.copy_:
        return first if isinstance(first, Elsewhere) == away else _placed(first.as_subclass(Tensor).clone(), away)
    return tree_map(lambda t: _placed(t, away), result)


def _placed(value: Any, away: bool) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere) == away:
        return value
    return value.as_subclass(Elsewhere if away else Tensor)


def _brought_home(value: Any) -> Any:
    """Devices that are named; everything is computed on the CPU."""
    return _HOME if _named(value) is not None else value


def _named(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"):
        return torch.device(value)
    return None


def _target(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for."""
    if func is Tensor.cpu:
        return _HOME
    if func is Tensor.cuda:
        return CUDA
    if func is Tensor.to:
        for value in args[1:]:
            if isinstance(value, Tensor):
                return CUDA if isinstance(value, Elsewhere) else _HOME
            if _named(value) is not None:
                return _named(value)
    return _named(kwargs.get("device"))


def _check(func: Callable[..., Any], args: Any, tensors: list[Tensor]) -> None:
    """Raises where torch would. Numbers of the CPU may go anywhere, and its indices into tensors of the device."""
    if func in _ARRAYS:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it to the CPU first")
    if func in _MOVES or func in _ANYWHERE or getattr(func, "__name__", "") == "__get__":
        return
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        if not isinstance(args[0], Elsewhere):
            raise WrongDevice("a tensor of the CPU is indexed with, or given, tensors of the device")
        tensors = [t for t in args[2:] if isinstance(t, Tensor)]
    strange = [tuple(t.shape) for t in tensors if t.dim() > 0 and not isinstance(t, Elsewhere)]
    if strange:
        raise WrongDevice(f"{func}: tensors of the CPU among those of the device: {strange}")
