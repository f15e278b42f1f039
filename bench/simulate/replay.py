"""A step's births and deaths, served by the modelled allocator: what it had to hold at most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.simulate.allocator import CachingAllocator


@dataclass(frozen=True)
class AllocatorPeaks:
    """What a sequence of births and deaths needed.

    Attributes:
        peak_requested_bytes: most bytes alive.
        peak_allocated_bytes: most bytes in blocks in use.
        peak_reserved_bytes: most bytes held from the device.
        allocated_bytes: in use at the end.
        reserved_bytes: held at the end.
        releases: how often all that was cached had to be given back.
    """

    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    releases: int


def replay(events: Iterable[tuple[int, int]], capacity_bytes: int | None = None) -> AllocatorPeaks:
    """Let the allocator serve a sequence of events.

    Args:
        events: a storage and how many bytes it adds: positive when it is born, negative, and as
            many, when it dies. After that its number may be used again. A change of 0 is ignored.
        capacity_bytes: of the device; ``None``: no limit.

    Raises:
        OutOfMemoryError: it does not fit.
        ValueError: a storage dies that is not alive, or with another size, or is born twice.
    """
    allocator = CachingAllocator(capacity_bytes)
    alive: dict[int, tuple[int, int]] = {}
    for storage, delta_bytes in events:
        if delta_bytes > 0:
            if storage in alive:
                raise ValueError(f"storage {storage} is born twice")
            alive[storage] = allocator.allocate(delta_bytes), delta_bytes
        elif delta_bytes < 0:
            handle, size_bytes = alive.pop(storage, (-1, 0))
            if size_bytes != -delta_bytes:
                raise ValueError(
                    f"storage {storage} of {size_bytes} bytes dies with {-delta_bytes}"
                )
            allocator.free(handle)
    return AllocatorPeaks(
        peak_requested_bytes=allocator.peak_requested_bytes,
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_reserved_bytes=allocator.peak_reserved_bytes,
        allocated_bytes=allocator.allocated_bytes,
        reserved_bytes=allocator.reserved_bytes,
        releases=allocator.releases,
    )
