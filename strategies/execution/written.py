"""Which of their tensors modules write to in forward: a recompute needs copies of them."""

from __future__ import annotations

import weakref

from torch import nn

from strategies.execution.tensors import tensors_in

WRITTEN: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
"""Whether a module writes a tensor in place, by name, as its first forward showed."""


def written_bytes(block: nn.Module) -> int:
    """Of the copies that a forward of a block keeps for its recompute."""
    written = [
        getattr(module, name, None)
        for module in block.modules()
        for name, is_written in WRITTEN.get(module, {}).items()
        if is_written
    ]
    return sum(tensor.nbytes for tensor in tensors_in(written))
