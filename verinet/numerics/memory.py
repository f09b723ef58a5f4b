"""Recognising exhausted memory, on CPU and CUDA."""

from __future__ import annotations

import torch

# torch has a type of its own for CUDA, but none for the processor's memory; ONNX Runtime has none at all.
_TEXTS = ("not enough memory", "out of memory", "can't allocate memory", "failed to allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """True if the exception means that an allocation failed."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in _TEXTS)


def release(device: torch.device) -> None:
    """Give cached blocks back before a smaller retry."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
