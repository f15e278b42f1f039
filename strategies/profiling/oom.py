"""Tells running out of memory from other errors: by type, or by the words of an allocator."""

from __future__ import annotations

import errno
import re

import torch

_TYPES = (MemoryError, torch.OutOfMemoryError)
# Allocators that have no type of their own raise a bare RuntimeError. Whole sentences, from their
# beginning: an error that merely speaks of memory is another error.
_SAYINGS = re.compile(
    r"\[enforce fail at [^\]]+\] [^\n]*?DefaultCPUAllocator: (can't allocate|not enough) memory: "
    r"you tried to allocate \d+ bytes"
    r"|std::bad_alloc\Z"
    r"|(CUDA|HIP|MPS backend|XPU|NPU) out of memory[.( ]"
    r"|(CUDA|HIP) error: out of memory\b"
    r"|(CUDA|cuDNN) error: (CUBLAS|CUDNN)_STATUS_ALLOC_FAILED\b"
)
_BARE = (RuntimeError, getattr(torch, "AcceleratorError", RuntimeError))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, or a compiler's that it was told so."""
    if isinstance(error, _TYPES):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    inner = getattr(error, "inner_exception", None)  # of torch._dynamo.exc.BackendCompilerFailed
    if isinstance(inner, Exception) and inner is not error:
        return is_out_of_memory(inner)
    return type(error) in _BARE and _SAYINGS.match(str(error)) is not None
