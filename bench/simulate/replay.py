"""Steps' births and deaths, served by the modelled allocator: what it counted and held at most."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bench.simulate.expandable import ExpandableAllocator
from bench.simulate.trace import Trace
from strategies.profiling.caching_allocator import CachingAllocator

Change = tuple[int, int]
"""A storage and how many bytes it adds: positive when it is born, negative when it dies."""

STEPS = 3
"""After as many, the cache holds what a training loop's does."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What the allocator says of a step, in bytes.

    Attributes:
        allocated_bytes: `torch.cuda.max_memory_allocated` of the last step: whole blocks.
        reserved_bytes: `torch.cuda.max_memory_reserved`.
    """

    allocated_bytes: int
    reserved_bytes: int


class Served:
    """What lives in an allocator.

    Attributes:
        allocator: that serves it.
        alive: by storage, its handle and its size in bytes.
    """

    def __init__(self, allocator: CachingAllocator) -> None:
        self.allocator = allocator
        self.alive: dict[int, tuple[int, int]] = {}

    def serve(self, changes: Iterable[Change]) -> None:
        """Births and deaths, in order; a change of 0 is ignored.

        Raises:
            OutOfMemoryError: it does not fit.
            ValueError: a storage dies that is not alive, or with another size, or is born twice.
        """
        for storage, delta_bytes in changes:
            if delta_bytes > 0:
                if storage in self.alive:
                    raise ValueError(f"storage {storage} is born twice")
                self.alive[storage] = self.allocator.allocate(delta_bytes), delta_bytes
            elif delta_bytes < 0:
                self.free(storage, -delta_bytes)

    def settle(self, before: Iterable[Change], workspaces: Sequence[int]) -> None:
        """What is there before the first step, and libraries' workspaces, each in its own block."""
        self.serve(before)
        self.serve((-1 - index, size_bytes) for index, size_bytes in enumerate(workspaces))

    def free(self, storage: int, size_bytes: int) -> None:
        """The death of one."""
        handle, known_bytes = self.alive.pop(storage, (-1, 0))
        if known_bytes != size_bytes:
            raise ValueError(f"storage {storage} of {known_bytes} bytes dies with {size_bytes}")
        self.allocator.free(handle)

    def keep(self, storages: set[int]) -> None:
        """All others die, as the references of a finished step do."""
        for storage in [one for one in self.alive if one not in storages]:
            self.free(storage, self.alive[storage][1])


def replay(
    events: Iterable[Change],
    capacity_bytes: int | None = None,
    *,
    workspaces: Sequence[int] = (),
) -> Usage:
    """What the allocator says of one step, its cache empty before.

    Args:
        events: see `Change`; after its death a storage's number may be used again.
        capacity_bytes: of the device; ``None``: no limit.
        workspaces: bytes that libraries keep, each in a block of its own.

    Raises:
        OutOfMemoryError: it does not fit.
        ValueError: a storage dies that is not alive, or with another size, or is born twice.
    """
    allocator = CachingAllocator(capacity_bytes)
    served = Served(allocator)
    served.settle((), workspaces)
    served.serve(events)
    return Usage(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)


def steady(
    recorded: Trace,
    capacity_bytes: int | None = None,
    *,
    workspaces: Sequence[int] = (),
    expandable: bool = False,
) -> Usage:
    """What a loop of such steps needs, its cache filled by the steps before.

    What was there before a step is there before each; what else a step leaves, its gradients above
    all, goes when the next begins.

    Args:
        recorded: one step.
        capacity_bytes: of the device; ``None``: no limit.
        workspaces: bytes that libraries keep, each in a block of its own.
        expandable: with expandable segments.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    allocator = (ExpandableAllocator if expandable else CachingAllocator)(capacity_bytes)
    served = Served(allocator)
    changes = [(event.life, event.delta_bytes) for event in recorded.events]
    before, step = changes[: recorded.resident_events], changes[recorded.resident_events :]
    served.settle(before, workspaces)
    resident = set(served.alive)
    for _ in range(STEPS):
        served.keep(resident)
        # Gradients that the step replaced: the loop keeps those of the last step in their place.
        served.serve(change for change in before if change[0] not in served.alive)
        allocator.reset_peak()
        served.serve(step)
    return Usage(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)
