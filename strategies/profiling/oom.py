"""Tells running out of memory from other errors."""

from __future__ import annotations

import torch

_PHRASES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; a CPU's allocator says so in words alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(phrase in str(error).lower() for phrase in _PHRASES)
