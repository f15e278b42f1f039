"""Tensors kept from a forward to its recompute by autograd's rules.

Hooks for saved tensors reach them, and a change in place is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _autograd

from strategies.storage.changes import written_in_place


class Referred:
    """A tensor, referred to as it is: PyTorch before 2.11 saves none for others."""

    def __init__(self, tensor: Tensor, *, is_output: bool) -> None:
        self.tensor, self.version = tensor, tensor._version
        assert not is_output

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: it was written to since.
        """
        if self.tensor._version != self.version:
            raise written_in_place("an argument of a block that is recomputed")
        return self.tensor


save: Any = getattr(_autograd, "_make_saved_tensor", Referred)
_Saved: Any = _autograd.SavedTensor


def put_by(leaves: Sequence[Any]) -> list[Any] | None:
    """Leaves, to be `taken` later, if all of them are plain and on the CPU.

    Of others PyTorch's checkpoint keeps the random state of their devices; to find out that there
    are none takes it longer than anything else before a small block.
    """
    if save is Referred:
        return None
    kept: list[Any] = []
    for leaf in leaves:
        if type(leaf) is Tensor and leaf.is_cpu:
            kept.append(save(leaf, is_output=False))
        elif isinstance(leaf, Tensor):
            return None
        else:
            kept.append(leaf)
    return kept


def taken(kept: Sequence[Any]) -> list[Any]:
    """The leaves, for a recompute, which runs with gradients recorded.

    Raises:
        RuntimeError: one was written to since.
    """
    torch._C._set_grad_enabled(False)  # to unpack is no part of what runs again
    try:
        return [each.unpack() if type(each) is _Saved else each for each in kept]
    finally:
        torch._C._set_grad_enabled(True)
