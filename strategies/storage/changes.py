"""Memory that kept tensors lie in, and the one error of a kept tensor that someone wrote to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def memory_of(value: Any) -> int | None:
    """What tells its memory from all other that is alive; ``None`` if it has none of its own."""
    strided = isinstance(value, Tensor) and value.layout is torch.strided
    return int(value.untyped_storage()._cdata) if strided else None


def version_of(tensor: Tensor) -> int:
    """How often it was written to; of a tensor of inference mode nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def written_in_place(what: str) -> RuntimeError:
    """PyTorch's own sentence, and which tensor it is about."""
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace"
        f" operation: {what}"
    )
