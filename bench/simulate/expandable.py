"""The caching allocator with ``PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True``.

One segment of address space for each size class and stream, which grows at its end by whole pages,
of 2 MiB for small requests and of 20 MiB for large ones; every block is split down to 512 bytes.
When memory runs out, the pages that are free as a whole go back to the device. Read in
``c10/cuda/CUDACachingAllocator.cpp`` at PyTorch 2.13 (`try_allocate_expandable_block`,
`should_split`, `release_expandable_segment`).

Not modelled: pages that went back in the middle of a segment are never mapped again there; the
segment grows at its end instead. What is held is the same, to a page.
"""

from __future__ import annotations

from strategies.profiling.caching_allocator import (
    LARGE_SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    CachingAllocator,
)
from strategies.profiling.free_blocks import (
    GRANULE_BYTES,
    SMALL_BYTES,
    Block,
    Pool,
    round_up,
    split,
)

_SPACE_BYTES = 2**50
"""Address space of a segment: more than any device has."""


class ExpandableAllocator(CachingAllocator):
    """Serves requests from one growing segment for each pool."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__(capacity_bytes)
        self._last: dict[Pool, Block] = {}
        self._pages: dict[Pool, int] = {}

    def _smallest_rest_bytes(self, pool: Pool) -> int:
        del pool
        return GRANULE_BYTES

    def _reserve(self, rounded_bytes: int, size_bytes: int, pool: Pool) -> Block:
        wanted_bytes = self._wanted_bytes(rounded_bytes, pool)
        if self._missing_bytes(wanted_bytes) > 0:
            self._release()  # the end of this segment may go, too
            wanted_bytes = self._wanted_bytes(rounded_bytes, pool)
        self._hold(wanted_bytes, size_bytes)
        return self._grown(self._tail(pool), wanted_bytes)

    def _wanted_bytes(self, rounded_bytes: int, pool: Pool) -> int:
        """Pages that the segment must grow by, what is free at its end aside."""
        tail = self._tail(pool)
        free_bytes = tail.size_bytes if tail.is_free else 0
        return round_up(rounded_bytes - free_bytes, self._page_bytes(pool, rounded_bytes))

    def _page_bytes(self, pool: Pool, rounded_bytes: int) -> int:
        small = rounded_bytes <= SMALL_BYTES
        return self._pages.setdefault(pool, SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES)

    def _tail(self, pool: Pool) -> Block:
        """The segment's last block; of an empty one, an empty free block."""
        block = self._last.get(pool)
        if block is None:
            block = Block(len(self._last) * _SPACE_BYTES, 0, pool, is_free=True)
            self._first_blocks[block.address] = self._last[pool] = block
        while block.after is not None:
            block = block.after
        self._last[pool] = block
        return block

    def _grown(self, tail: Block, more_bytes: int) -> Block:
        """A block in use at the end, what was free there included."""
        if tail.is_free:
            tail.is_free = False  # its entry in the pool is outdated from now on
            tail.size_bytes += more_bytes
            return tail
        block = Block(tail.address + tail.size_bytes, more_bytes, tail.pool, before=tail)
        tail.after = self._last[tail.pool] = block
        return block

    def _release(self) -> None:
        """Give every page that is free as a whole back to the device."""
        for first in list(self._first_blocks.values()):
            block: Block | None = first
            while block is not None:
                after = block.after
                if block.is_free:
                    self._unmap(block)
                block = after

    def _unmap(self, block: Block) -> None:
        page_bytes = self._pages[block.pool]
        begin = round_up(block.address, page_bytes)
        end = (block.address + block.size_bytes) // page_bytes * page_bytes
        if end <= begin:
            return
        block.is_free = False
        if begin > block.address:
            split(block, begin - block.address)
            block.pool.add(block)
            block = _next(block)
        if end < block.address + block.size_bytes:
            split(block, end - block.address)
        block.is_free = False  # a hole: neither used nor free, and merged into nothing
        self.reserved_bytes -= end - begin


def _next(block: Block) -> Block:
    assert block.after is not None
    return block.after
