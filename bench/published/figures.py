"""From a recorded loop to the figure that was published: peaks, moments, and differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.published.subject import BEGIN, Recording
from bench.simulate.replay import Served
from strategies.profiling.caching_allocator import CachingAllocator


@dataclasses.dataclass(frozen=True)
class Moments:
    """What the allocator said in the last iteration, in bytes.

    Attributes:
        allocated_bytes: at each named moment.
        peaks_bytes: the most allocated at once since the moment before, by moment.
        reserved_bytes: the most that was ever held.
    """

    allocated_bytes: dict[str, int]
    peaks_bytes: dict[str, int]
    reserved_bytes: int

    def figure(self, quantity: str) -> int:
        """A figure by name.

        Args:
            quantity: ``peak``, ``reserved``, what is allocated at a moment (``forward``, when
                forward is done), the peak until then (``peak forward``), or two of them with a
                minus between (``peak - begin``).

        Raises:
            ValueError: there is no such moment.
        """
        more, _, less = quantity.partition(" - ")
        return self._one(more) - (self._one(less) if less else 0)

    def _one(self, name: str) -> int:
        peaks = {f"peak {moment}": peak for moment, peak in self.peaks_bytes.items()}
        whole = {"peak": max(self.peaks_bytes.values()), "reserved": self.reserved_bytes}
        known = {**whole, **peaks, **self.allocated_bytes}
        if name not in known:
            raise ValueError(f"no moment {name!r}; there are {', '.join(known)}")
        return known[name]


def moments(
    recording: Recording,
    *,
    workspaces: Sequence[int] = (),
    capacity_bytes: int | None = None,
) -> Moments:
    """Serve the whole loop, and look at its last iteration.

    Args:
        recording: of the loop.
        workspaces: bytes that libraries keep, each in a block of its own.
        capacity_bytes: of the device; ``None``: no limit.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    allocator = CachingAllocator(capacity_bytes)
    served, last = Served(allocator), recording.marks[-1]
    served.settle(recording.changes[: recording.resident], workspaces)
    served.serve(recording.changes[recording.resident : last[BEGIN]])
    allocated, peaks, done = {}, {}, last[BEGIN]
    for name, position in last.items():
        allocator.reset_peak()
        served.serve(recording.changes[done:position])
        allocated[name], peaks[name] = allocator.allocated_bytes, allocator.peak_allocated_bytes
        done = position
    return Moments(allocated, peaks, allocator.peak_reserved_bytes)


def requested(recording: Recording) -> Moments:
    """The same in bytes as requested: ``requested_bytes`` of the allocator's statistics."""
    totals = [0]
    for _, delta_bytes in recording.changes:
        totals.append(totals[-1] + delta_bytes)
    last = recording.marks[-1]
    allocated, peaks, done = {}, {}, last[BEGIN]
    for name, position in last.items():
        allocated[name], peaks[name] = totals[position], max(totals[done : position + 1])
        done = position
    return Moments(allocated, peaks, max(totals))
