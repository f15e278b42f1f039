"""A model of PyTorch's caching allocator for CUDA, with its default settings.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp`` and ``c10/core/AllocatorConfig.h``
(read at PyTorch 2.13): requests are rounded up to 512 bytes; those of up to 1 MiB are served from
segments of 2 MiB, larger ones from segments of 20 MiB or, from 10 MiB on, of their own size rounded
up to 2 MiB; the smallest free block that is large enough is taken, the lowest address first, and
split if enough would be left; a freed block merges with free neighbours of its segment. Segments go
back to the device only when memory runs out, and only those that are free as a whole.

Not modelled: memory pools of CUDA graphs, `Tensor.record_stream`, and where the driver puts a
segment (here always above all earlier ones, which matters for ties only), expandable segments.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from random import Random

from strategies.profiling.free_blocks import (
    GRANULE_BYTES,
    MIB,
    SMALL_BYTES,
    Block,
    Pool,
    give_back,
    round_up,
    split,
)

SMALL_SEGMENT_BYTES = 2 * MIB
OWN_SEGMENT_BYTES = 10 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
LARGE_GRANULE_BYTES = 2 * MIB


def segment_bytes(block_bytes: int) -> int:
    """How much is reserved when no free block can serve a request.

    Args:
        block_bytes: the request, rounded.
    """
    if block_bytes <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block_bytes < OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return round_up(block_bytes, LARGE_GRANULE_BYTES)


class OutOfMemoryError(RuntimeError):
    """A request did not fit, even after all that was cached had been given back.

    Attributes:
        missing_bytes: by how much the capacity was too small for this request.
        requested_bytes: as asked for.
        allocated_bytes: in use at that moment.
        reserved_bytes: held at that moment, free blocks included.
        capacity_bytes: of the device.
    """

    def __init__(
        self,
        requested_bytes: int,
        missing_bytes: int,
        allocated_bytes: int,
        reserved_bytes: int,
        capacity_bytes: int,
    ) -> None:
        super().__init__(
            f"out of memory: {requested_bytes} bytes requested, {missing_bytes} missing; of"
            f" {capacity_bytes}, {reserved_bytes} are reserved and {allocated_bytes} allocated"
        )
        self.requested_bytes = requested_bytes
        self.missing_bytes = missing_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.capacity_bytes = capacity_bytes


class CachingAllocator:
    """Serves requests as the CUDA caching allocator would.

    Attributes:
        capacity_bytes: what may be reserved in all; ``None``: no limit.
        allocated_bytes: in use, as `torch.cuda.memory_allocated` counts: whole blocks. A block is
            the request rounded up to 512 bytes, and up to 1 MiB more where a large block was not
            worth splitting.
        reserved_bytes: held from the device, as `torch.cuda.memory_reserved` counts.
        peak_allocated_bytes: the most in use since `reset_peak`, as
            `torch.cuda.max_memory_allocated` counts.
        peak_reserved_bytes: the most ever held.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._pools: dict[tuple[bool, int], Pool] = {}
        self._first_blocks: dict[int, Block] = {}  # of each segment, by its address
        self._used: dict[int, Block | None] = {}
        self._next_handle = 0
        self._next_address = 0

    def allocate(self, size_bytes: int, stream: int = 0) -> int:
        """Serve a request; a request for nothing takes nothing.

        Args:
            size_bytes: not negative.
            stream: a block is only ever used again on the stream that it was made for.

        Returns:
            A handle for `free`, never given twice.

        Raises:
            OutOfMemoryError: it does not fit.
            ValueError: the size is negative.
        """
        if size_bytes < 0:
            raise ValueError(f"cannot allocate {size_bytes} bytes")
        handle = self._next_handle
        self._used[handle] = self._take(size_bytes, stream) if size_bytes else None
        self._next_handle += 1
        return handle

    def free(self, handle: int) -> None:
        """Take back what `allocate` gave.

        Raises:
            ValueError: it is not in use.
        """
        if handle not in self._used:
            raise ValueError(f"handle {handle} is not in use: never given, or freed before")
        block = self._used.pop(handle)
        if block is not None:
            self.allocated_bytes -= block.size_bytes
            give_back(block)

    def _take(self, size_bytes: int, stream: int) -> Block:
        rounded_bytes = round_up(size_bytes, GRANULE_BYTES)
        key = rounded_bytes <= SMALL_BYTES, stream
        pool = self._pools.get(key) or self._pools.setdefault(key, Pool(is_small=key[0]))
        block = pool.take(rounded_bytes) or self._reserve(rounded_bytes, size_bytes, pool)
        if block.size_bytes - rounded_bytes >= self._smallest_rest_bytes(pool):
            split(block, rounded_bytes)
        self.allocated_bytes += block.size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def reset_peak(self) -> None:
        """Forget earlier peaks of what is in use."""
        self.peak_allocated_bytes = self.allocated_bytes

    def _smallest_rest_bytes(self, pool: Pool) -> int:
        """From which rest on a block is worth splitting."""
        return pool.smallest_rest_bytes

    def _reserve(self, rounded_bytes: int, size_bytes: int, pool: Pool) -> Block:
        wanted_bytes = segment_bytes(rounded_bytes)
        self._hold(wanted_bytes, size_bytes)
        block = Block(self._next_address, wanted_bytes, pool)
        self._first_blocks[block.address] = block
        self._next_address += wanted_bytes
        return block

    def _hold(self, wanted_bytes: int, size_bytes: int) -> None:
        """Take memory from the device, what is cached given back if it must be."""
        if self._missing_bytes(wanted_bytes) > 0:
            self._release()
        missing_bytes = self._missing_bytes(wanted_bytes)
        if missing_bytes > 0:
            assert self.capacity_bytes is not None
            allocated_bytes, reserved_bytes = self.allocated_bytes, self.reserved_bytes
            raise OutOfMemoryError(
                size_bytes, missing_bytes, allocated_bytes, reserved_bytes, self.capacity_bytes
            )
        self.reserved_bytes += wanted_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)

    def _missing_bytes(self, wanted_bytes: int) -> int:
        if self.capacity_bytes is None:
            return 0
        return self.reserved_bytes + wanted_bytes - self.capacity_bytes

    def _release(self) -> None:
        """Give every segment that is free as a whole back to the device."""
        for address, first in list(self._first_blocks.items()):
            if first.is_free and first.after is None:
                first.is_free = False
                self.reserved_bytes -= first.size_bytes
                del self._first_blocks[address]


ORDERS, STEPS, SIGMAS = 16, 3, 3.0


def surplus_bytes(kept: Sequence[int], renewed: Sequence[int] = ()) -> int:
    """What blocks take above the tensors in them, at most but for a rare chance.

    Which large block keeps how large a rest depends on what was freed before, and so on all that
    the program did: that is taken for chance. Of loops of a few steps that make their tensors in
    orders at random, it is the mean of the most and three standard deviations. Of ResNet-50's
    gradients, AdamW's state and temporaries, the mean is 9.1 MB; 8.2 and 9.5 MB were seen in two
    training loops (NVIDIA H200).

    Args:
        kept: bytes of the tensors that the first step makes for good.
        renewed: of those that every step makes and frees.
    """
    random = Random(0)  # noqa: S311 - nothing is kept secret by it
    most = [_surplus_of_a_loop(random, kept, renewed) for _ in range(ORDERS)]
    return math.ceil(statistics.fmean(most) + SIGMAS * statistics.pstdev(most))


def _surplus_of_a_loop(random: Random, kept: Sequence[int], renewed: Sequence[int]) -> int:
    allocator = CachingAllocator()
    for step in range(STEPS):
        made = [(size, True) for size in renewed] + [(size, False) for size in kept if not step]
        random.shuffle(made)
        handles = [(allocator.allocate(size), freed) for size, freed in made]
        for handle, freed in handles:
            if freed:
                allocator.free(handle)
    return allocator.peak_allocated_bytes - sum(kept) - sum(renewed)
