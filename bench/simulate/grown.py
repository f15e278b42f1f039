"""How a step's storages grow with a size, told from steps of three small ones.

Kernels' scratch memory is left out: it grows by steps, as launches are split over a device. So what
is told is the least that a step takes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import prod

from bench.simulate.resized import resized
from bench.simulate.trace import Trace
from strategies.profiling.free_blocks import round_up


@dataclasses.dataclass(frozen=True)
class Growth:
    """Steps that differ in nothing but how large their storages are.

    Attributes:
        traces: by size, without scratch memory.
    """

    traces: Mapping[int, Trace]

    @classmethod
    def of(cls, traces: Mapping[int, Trace]) -> Growth | None:
        """``None`` if the steps are not the same births and deaths."""
        known = {size: without_scratch(trace) for size, trace in traces.items()}
        kinds = {_births_and_deaths(trace) for trace in known.values()}
        return cls(known) if len(kinds) == 1 else None

    def at(self, size: int) -> Trace:
        """The step at another size, every storage on the polynomial through those known.

        Exact where storages are products of the size and numbers that do not depend on it, to a
        power below the number of traces.
        """
        sizes = self._sizes(size)
        numbers = {id(life): number for number, life in enumerate(self._first.lives)}
        return resized(self._first, lambda life: sizes[numbers[id(life)]])

    def peak_bytes(self, size: int, granule_bytes: int) -> int:
        """Most bytes alive in `at`, each storage rounded up to a multiple of the granule."""
        sizes = [round_up(size_bytes, granule_bytes) for size_bytes in self._sizes(size)]
        born = (
            sizes[event.life] if event.delta_bytes > 0 else -sizes[event.life]
            for event in self._first.events
        )
        return max(itertools.accumulate(born))

    def tells(self, size: int, trace: Trace) -> bool:
        """Whether it is what that step turned out to be."""
        return self.at(size).events == without_scratch(trace).events

    def those(self, fitting: Callable[[Trace], bool]) -> Callable[[int], bool]:
        """Sizes whose step, by what is known, is one of those."""
        return lambda size: fitting(self.at(size))

    @property
    def _first(self) -> Trace:
        return next(iter(self.traces.values()))

    def _sizes(self, size: int) -> list[int]:
        """Bytes of each storage."""
        whole = functools.cache(functools.partial(_whole, self._weights(size)))  # many are alike
        return [whole(known) for known in self._known]

    @functools.cached_property
    def _known(self) -> list[tuple[int, ...]]:
        """Of each storage, its bytes at every size."""
        lives = zip(*(trace.lives for trace in self.traces.values()), strict=True)
        return [tuple(life.size_bytes for life in same) for same in lives]

    def _weights(self, size: int) -> list[Fraction]:
        """Of each trace, by Lagrange."""
        known = list(self.traces)
        return [
            prod(
                (Fraction(size - other, one - other) for other in known if other != one),
                start=Fraction(1),
            )
            for one in known
        ]


def without_scratch(trace: Trace) -> Trace:
    """The same step, had its kernels no scratch memory."""
    kept = [number for number, life in enumerate(trace.lives) if not life.is_scratch]
    if len(kept) == len(trace.lives):
        return trace
    renumbered = {number: new for new, number in enumerate(kept)}
    before = [event.life in renumbered for event in trace.events[: trace.forward_events]]
    return dataclasses.replace(
        trace,
        lives=[trace.lives[number] for number in kept],
        events=[
            dataclasses.replace(event, life=renumbered[event.life])
            for event in trace.events
            if event.life in renumbered
        ],
        forward_events=sum(before),
    )


def _whole(weights: Sequence[Fraction], sizes: Sequence[int]) -> int:
    if len(set(sizes)) == 1:
        return sizes[0]
    total = sum((weight * size for weight, size in zip(weights, sizes, strict=True)), Fraction(0))
    return max(0, round(total))


def _births_and_deaths(trace: Trace) -> tuple[tuple[int, bool, str], ...]:
    return tuple((event.life, event.delta_bytes > 0, event.operator) for event in trace.events)
