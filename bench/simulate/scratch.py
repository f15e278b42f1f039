"""What CUDA's kernels take from the allocator and return inside one call, by operator.

Seen with the profiler's allocator events, torch 2.11 on an NVIDIA H200. Not here: workspaces of
convolutions, whose size depends on the algorithm that cuDNN chooses, and no documentation gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.devices.accelerators import Accelerator
from bench.devices.multiprocessors import Multiprocessors, here, of
from bench.simulate.reductions import scratch_bytes

_aten = torch.ops.aten
_Blocks = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Of a device's kernels.

    Attributes:
        grid: of the device.
    """

    grid: Multiprocessors

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Blocks:
        """Bytes of each block that an operator takes besides its outputs, in order."""
        known = _OPERATORS.get(func)
        return () if known is None else known(self.grid, args, kwargs)


def on(device: Accelerator) -> Scratch | None:
    """Of a simulated device; ``None``: its kernels' is not known."""
    grid = of(device)
    return Scratch(grid) if grid is not None else None


def on_this_machine() -> Scratch:
    """Of the CUDA device that is here."""
    return Scratch(here())


def _sum(grid: Multiprocessors, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Blocks:
    del kwargs
    return _reduction(grid, args[0], (args[1] if len(args) > 1 else None) or ())


def _reduction(grid: Multiprocessors, tensor: Tensor, dims: Collection[int]) -> _Blocks:
    """Over all dimensions, if none is named."""
    if not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return ()
    return scratch_bytes(tensor, dims or range(tensor.dim()), grid)


def _softmax_backward(
    grid: Multiprocessors, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> _Blocks:
    """The product of gradient and output (softmax_backward_cuda_out, SoftMax.cu)."""
    del grid, kwargs
    gradient, output = args[:2]
    itemsize = torch.promote_types(gradient.dtype, output.dtype).itemsize
    return (gradient.numel() * itemsize,)


_OPERATORS: dict[Any, Callable[[Multiprocessors, Sequence[Any], Mapping[str, Any]], _Blocks]] = {
    _aten.sum.default: _sum,
    _aten.sum.dim_IntList: _sum,
    _aten.mean.default: _sum,
    _aten.mean.dim: _sum,
    _aten._softmax_backward_data.default: _softmax_backward,
}
