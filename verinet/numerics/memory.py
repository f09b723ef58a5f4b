"""Recognising exhausted memory, on CPU and CUDA."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """True if the exception means that an allocation failed."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def release(device: torch.device) -> None:
    """Give cached blocks back before a smaller retry."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
