"""Scratch memory of CUDA's reductions: partial sums of thread blocks that share an output.

Which launch PyTorch chooses, and so how many bytes it takes from its allocator for the length of
the call, is arithmetic over shapes and strides (``setReduceConfig`` and ``global_memory_size``,
aten/src/ATen/native/cuda/Reduce.cuh). The gradient of a bias, the sum of a batch over its rows,
takes up to a hundred times the bytes of what it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from torch import Tensor

from bench.devices.multiprocessors import Multiprocessors

_WARP = 32
_MOST_THREADS = 512
_VECTOR = 4
_LEAST_VALUES, _MOST_VALUES = 16, 256
_ACCUMULATOR_BYTES = 4
"""Sums of half precision are kept in fp32."""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """Of a tensor that is reduced; adjacent ones that lie as one are one.

    Attributes:
        size: in elements.
        stride: in elements.
    """

    size: int
    stride: int


def scratch_bytes(tensor: Tensor, dims: Collection[int], grid: Multiprocessors) -> tuple[int, ...]:
    """Of each block that the reduction takes from the allocator; none, mostly.

    Args:
        tensor: what is reduced, of fp32 or less.
        dims: over which.
        grid: of the device.
    """
    reduced, kept = _split(tensor, {dim % tensor.dim() for dim in dims})
    if not reduced:
        return ()
    launch = _Launch.of(reduced, kept, int(tensor.storage_offset()))
    blocks = launch.thread_blocks_per_output(grid)
    if blocks <= 1:
        return ()
    return launch.partial_bytes(blocks), 4 * launch.grid  # and a counter for each output's blocks


def _split(tensor: Tensor, dims: set[int]) -> tuple[list[Dimension], list[Dimension]]:
    """Dimensions that are reduced, and those that are not, the densest first."""
    sides: tuple[list[Dimension], list[Dimension]] = ([], [])
    for index, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1:
            sides[index not in dims].append(Dimension(size, stride))
    return _merged(sides[0]), _merged(sides[1])


def _merged(dimensions: list[Dimension]) -> list[Dimension]:
    merged: list[Dimension] = []
    for one in sorted(dimensions, key=lambda one: one.stride):
        last = merged[-1] if merged else None
        if last is not None and one.stride == last.stride * last.size:
            merged[-1] = Dimension(last.size * one.size, last.stride)
        else:
            merged.append(one)
    return merged


@dataclasses.dataclass(frozen=True)
class _Launch:
    """Threads of a block, and how its work is split.

    Attributes:
        outputs: how many there are.
        across: threads of a block share an output along x.
        vector: outputs of one thread.
        width: of a block of threads.
        values: that each thread adds up, if one block does all of an output.
        splits: an output's values are split over the rows of a block.
        grid: how many blocks of threads there are without sharing an output.
        threads: of a block.
    """

    outputs: int
    across: bool
    vector: int
    width: int
    values: int
    splits: bool
    grid: int
    threads: int

    @classmethod
    def of(cls, reduced: list[Dimension], kept: list[Dimension], offset: int) -> _Launch:
        """The launch that PyTorch chooses."""
        outputs = _product(kept)
        inputs = _product(reduced)
        across = not kept or reduced[0].stride < kept[0].stride
        vector, x, y = 1, inputs, outputs
        if not across:
            x, y = outputs, inputs
            if kept[0].stride == 1:
                vector = _vector(kept, reduced, offset)
                x //= vector
        elif reduced[0].stride == 1 and x > _LEAST_VALUES * 8 and len(reduced) + len(kept) == 1:
            x //= _VECTOR
        width, height = _block(x, y, _MOST_THREADS // vector)
        values = _ceil(inputs, width) if across else inputs
        splits = values >= min(_LEAST_VALUES * height, _MOST_VALUES)
        if splits:
            values = _ceil(values, height)
        per_block = (1 if across else width) * (1 if splits else height)
        grid = _ceil(outputs // vector, per_block)
        return cls(outputs, across, vector, width, values, splits, grid, width * height)

    def thread_blocks_per_output(self, grid: Multiprocessors) -> int:
        """How many share one, through memory of the device."""
        room = grid.count * (grid.threads // self.threads)
        if not self.splits or self.values < _MOST_VALUES or self.grid > room:
            return 1
        to_fill, most = _ceil(room, self.grid), _ceil(self.values, _LEAST_VALUES)
        return max(min(to_fill, most), _ceil(self.values, _MOST_VALUES))

    def partial_bytes(self, blocks: int) -> int:
        """One accumulator of each thread that takes part."""
        size_bytes = _ACCUMULATOR_BYTES * self.outputs * blocks
        return size_bytes if self.across else size_bytes * self.width * self.vector


def _block(x: int, y: int, most: int) -> tuple[int, int]:
    """Width and height of a block of threads, powers of two."""
    wide, high = _power(x, most), _power(y, most)
    width = min(wide, _WARP)
    height = min(high, most // width)
    return min(wide, most // height), height


def _power(number: int, most: int) -> int:
    """The last power of two up to ``number``."""
    return most if number >= most else 1 << (max(number, 1).bit_length() - 1)


def _vector(kept: list[Dimension], reduced: list[Dimension], offset: int) -> int:
    """Outputs that one thread loads at once: a divisor of all that it steps over."""
    vector = _VECTOR
    steps = [one.stride for one in (*reduced, *kept[1:])]
    for number in (offset, kept[0].size, *steps):
        while number % vector:
            vector //= 2
    return vector


def _product(dimensions: list[Dimension]) -> int:
    total = 1
    for one in dimensions:
        total *= one.size
    return total


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
