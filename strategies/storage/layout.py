"""How a tensor lies in its memory: operators may save other tensors of one that lies otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def laid(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The values in memory of these strides, as a slice of a larger tensor has.

    A linear layer on a slice saves it as it is, on a dense tensor as a matrix: a recompute that is
    given the one for the other saves tensors of other shapes. Elements that share memory are
    written once where a dimension was expanded; any other overlap is left dense.
    """
    if tensor.stride() == strides:
        return tensor
    sizes = [1 if stride == 0 else size for size, stride in zip(tensor.shape, strides, strict=True)]
    if not _are_apart(sizes, strides):
        return tensor
    room = torch.empty_strided(sizes, strides, dtype=tensor.dtype, device=tensor.device)
    room.copy_(tensor[tuple(slice(size) for size in sizes)])
    return room.expand(tensor.shape)


def _are_apart(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each dimension steps over all that the smaller steps reach."""
    reach = 0
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True
