"""A step's births and deaths, served by the modelled allocator: what it had to hold at most."""

from __future__ import annotations

from collections.abc import Iterable

from bench.simulate.allocator import CachingAllocator


def replay(events: Iterable[tuple[int, int]], capacity_bytes: int | None = None) -> int:
    """The most bytes that the allocator holds from the device while it serves a step.

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
    return allocator.peak_reserved_bytes
