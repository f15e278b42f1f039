"""Blocks of memory and the pools of those that are free, as PyTorch's caching allocator keeps them.

Part of `strategies.profiling.caching_allocator`, whose rules these follow: best fit, split, merge.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from heapq import heappop, heappush

MIB = 2**20

GRANULE_BYTES = 512
"""Every request is rounded up to a multiple of this."""
SMALL_BYTES = MIB


def round_up(size_bytes: int, multiple_bytes: int) -> int:
    """The smallest multiple that is not less."""
    return -(-size_bytes // multiple_bytes) * multiple_bytes


@dataclass(slots=True, eq=False)
class Block:
    """A block while the allocator runs; ``is_free`` is false for one that merged into another."""

    address: int
    size_bytes: int
    pool: Pool
    is_free: bool = False
    before: Block | None = None
    after: Block | None = None

    def __lt__(self, other: Block) -> bool:
        return self.address < other.address


class Pool:
    """The free blocks of one size class on one stream.

    Blocks of one size form a heap by address. Merging leaves outdated entries behind, which are
    dropped when they come up.
    """

    def __init__(self, *, is_small: bool) -> None:
        self.smallest_rest_bytes = GRANULE_BYTES if is_small else SMALL_BYTES + 1
        self._sizes: list[int] = []
        self._heaps: dict[int, list[Block]] = {}

    def add(self, block: Block) -> None:
        """``block`` is free from now on."""
        block.is_free = True
        heap = self._heaps.get(block.size_bytes)
        if heap is None:
            heap = self._heaps[block.size_bytes] = []
            insort(self._sizes, block.size_bytes)
        heappush(heap, block)

    def take(self, size_bytes: int) -> Block | None:
        """Best fit: the smallest block that is large enough, the lowest address first."""
        index = bisect_left(self._sizes, size_bytes)
        while index < len(self._sizes):
            size = self._sizes[index]
            heap = self._heaps[size]
            while heap:
                block = heappop(heap)
                if block.is_free and block.size_bytes == size:
                    block.is_free = False
                    return block
            del self._sizes[index], self._heaps[size]
        return None


def split(block: Block, size_bytes: int) -> None:
    """Cut ``block`` to ``size_bytes``; the rest becomes free."""
    rest_bytes = block.size_bytes - size_bytes
    rest = Block(block.address + size_bytes, rest_bytes, block.pool)
    rest.before, rest.after = block, block.after
    if block.after is not None:
        block.after.before = rest
    block.after = rest
    block.size_bytes = size_bytes
    block.pool.add(rest)


def give_back(block: Block) -> None:
    """Merge with free neighbours, then make it free."""
    if block.after is not None and block.after.is_free:
        _merge(block, block.after)
    if block.before is not None and block.before.is_free:
        block = _merge(block.before, block)
    block.pool.add(block)


def _merge(front: Block, back: Block) -> Block:
    front.size_bytes += back.size_bytes
    front.after = back.after
    if back.after is not None:
        back.after.before = front
    back.is_free = False
    return front
