"""A traced step whose storages have other sizes: rounded up, sharded, in fewer bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.simulate.trace import Event, Life, Trace
from strategies.profiling.free_blocks import round_up


def resized(trace: Trace, size_bytes_of: Callable[[Life], int]) -> Trace:
    """The same births and deaths, each storage with as many bytes as ``size_bytes_of`` says."""
    lives = [dataclasses.replace(life, size_bytes=size_bytes_of(life)) for life in trace.lives]

    def event_of(event: Event) -> Event:
        size_bytes = lives[event.life].size_bytes
        delta_bytes = size_bytes if event.delta_bytes > 0 else -size_bytes
        return dataclasses.replace(event, delta_bytes=delta_bytes)

    return dataclasses.replace(trace, lives=lives, events=[event_of(e) for e in trace.events])


def rounded(trace: Trace, granule_bytes: int) -> Trace:
    """The trace with every storage rounded up to a multiple of ``granule_bytes``."""
    return resized(trace, lambda life: round_up(life.size_bytes, granule_bytes))
