"""Memory over one step as data. Plain numbers, no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the step, in units of the horizontal axis."""

    name: str
    begin: float
    end: float


@dataclasses.dataclass(frozen=True)
class Peak:
    """The moment at which most bytes are alive.

    Attributes:
        position: on the horizontal axis.
        size_bytes: alive; by the allocator's count, where there is one.
        operator: that ran.
        module: in whose forward or backward.
        phase: of the step.
        by_category: what makes it up.
    """

    position: float
    size_bytes: int
    operator: str
    module: str
    phase: str
    by_category: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Total:
    """Bytes that an allocator had given out: each count holds until the next position."""

    positions: Sequence[float]
    size_bytes: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Heading:
    """What a picture must say of itself.

    Attributes:
        title: what ran.
        device: on what.
        torch_version: with what.
        date: when.
        setting: options and precision.
        modelled: whether the device was not there.
    """

    title: str
    device: str
    torch_version: str
    date: str
    setting: str
    modelled: bool


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One step.

    Attributes:
        positions: rising; each count holds until the next one.
        series: for each category, in the order of drawing from the bottom up, bytes alive.
        phases: in order, without gaps.
        axis: what ``positions`` count, as the name of a column of data: ``event``, ``time_ms``.
        axis_label: the same for a reader.
        heading: what ran, and where.
        allocated: the allocator's own count, kernels' scratch included.
        limit_bytes: the device's memory, where it is known.
    """

    positions: Sequence[float]
    series: Mapping[str, Sequence[int]]
    phases: Sequence[Phase]
    peak: Peak
    axis: str
    axis_label: str
    heading: Heading
    allocated: Total | None = None
    limit_bytes: int | None = None

    @property
    def totals(self) -> list[int]:
        """Bytes alive in all categories."""
        return [sum(counts) for counts in zip(*self.series.values(), strict=True)]
