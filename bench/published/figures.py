"""From a recorded loop to the figure that was published: peaks, moments, and differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.published.subject import BEGIN, END, Recording
from bench.simulate.allocator import CachingAllocator
from bench.simulate.expandable import ExpandableAllocator
from bench.simulate.replay import Served


@dataclasses.dataclass(frozen=True)
class Moments:
    """What the allocator said in the last iteration, in bytes.

    Attributes:
        allocated_bytes: at each named moment.
        peak_bytes: the most allocated at once.
        reserved_bytes: the most that was ever held.
    """

    allocated_bytes: dict[str, int]
    peak_bytes: int
    reserved_bytes: int

    def figure(self, quantity: str) -> int:
        """A figure by name.

        Args:
            quantity: ``peak``, ``reserved``, a moment (``after forward``), or two of them with a
                minus between (``peak - begin``).

        Raises:
            ValueError: there is no such moment.
        """
        more, _, less = quantity.partition(" - ")
        return self._one(more) - (self._one(less) if less else 0)

    def _one(self, name: str) -> int:
        known = {"peak": self.peak_bytes, "reserved": self.reserved_bytes, **self.allocated_bytes}
        if name not in known:
            raise ValueError(f"no moment {name!r}; there are {', '.join(known)}")
        return known[name]


def moments(
    recording: Recording,
    *,
    workspaces: Sequence[int] = (),
    capacity_bytes: int | None = None,
    expandable: bool = False,
) -> Moments:
    """Serve the whole loop, and look at its last iteration.

    Args:
        recording: of the loop.
        workspaces: bytes that libraries keep, each in a block of its own.
        capacity_bytes: of the device; ``None``: no limit.
        expandable: with expandable segments.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    allocator = (ExpandableAllocator if expandable else CachingAllocator)(capacity_bytes)
    served = Served(allocator)
    last = recording.marks[-1]
    served.serve(recording.changes[: recording.resident])
    served.serve((-1 - index, size_bytes) for index, size_bytes in enumerate(workspaces))
    served.serve(recording.changes[recording.resident : last[BEGIN]])
    allocator.reset_peak()
    allocated = {}
    done = last[BEGIN]
    for name, position in sorted(last.items(), key=lambda item: item[1]):
        served.serve(recording.changes[done:position])
        allocated[name], done = allocator.allocated_bytes, position
    assert done == last[END]
    return Moments(allocated, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)


def requested(recording: Recording) -> Moments:
    """The same in bytes as requested: ``requested_bytes`` of the allocator's statistics."""
    totals = [0]
    for _, delta_bytes in recording.changes:
        totals.append(totals[-1] + delta_bytes)
    last = recording.marks[-1]
    peak_bytes = max(totals[last[BEGIN] : last[END] + 1])
    return Moments({name: totals[at] for name, at in last.items()}, peak_bytes, peak_bytes)
