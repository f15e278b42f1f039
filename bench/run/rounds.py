"""Timed rounds of a strategy beside `none`: so many, or until the interval is narrow enough."""

from __future__ import annotations

import math
import time
from typing import Protocol

import torch

from bench.cells.cell import Cell
from bench.measure.surroundings import Watch
from bench.measure.time import Switch, interleave
from bench.report.stats import paired_ratio
from bench.store.parts import StepTimes, Surroundings

MOST_ROUNDS = 1000


class Wanted(Protocol):
    """How well a ratio of steps is to be known; `Cell` says so of a cell."""

    @property
    def interval_width(self) -> float | None: ...  # noqa: D102 - as of a cell
    @property
    def rounds_limit_s(self) -> float | None: ...  # noqa: D102


def timed(
    cell: Cell, none: Switch, strategy: Switch, device: torch.device
) -> tuple[StepTimes, Surroundings]:
    """Raw seconds of both, and what else went on meanwhile.

    Args:
        cell: says how many rounds.
        none: the reference.
        strategy: what is compared with it.
        device: that they run on.
    """
    contenders = {"none": none, "strategy": strategy}
    warmup = interleave(contenders, cell.warmup, device)
    watch = Watch()
    started = time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    more = cell.rounds
    while more:
        for name, steps in interleave(contenders, more, device).items():
            seconds[name] += steps
        took_s = time.perf_counter() - started
        more = missing(cell, seconds["strategy"], seconds["none"], took_s)
    times = StepTimes(
        step_s=seconds["strategy"],
        none_step_s=seconds["none"],
        warmup_step_s=warmup["strategy"],
        interval_width=cell.interval_width,
    )
    return times, watch.seen()


def missing(wanted: Wanted, steps_s: list[float], none_s: list[float], took_s: float) -> int:
    """How many rounds should follow, an even number: 0 where it is enough, or cannot be.

    At most as many as there were: what the noise is like is not known better than that. An interval
    narrows with the root of the number of rounds.

    Args:
        wanted: says how narrow, and within which time.
        steps_s: of the strategy, in each round so far.
        none_s: of the reference.
        took_s: all those rounds.
    """
    if wanted.interval_width is None:
        return 0
    count = len(steps_s)
    ratio = paired_ratio(steps_s, none_s)
    assert ratio is not None
    needed = count * (ratio.width / wanted.interval_width) ** 2
    if needed <= count:
        return 0
    allowed = MOST_ROUNDS - count
    if wanted.rounds_limit_s is not None:
        allowed = min(allowed, int((wanted.rounds_limit_s - took_s) * count / took_s))
    more = min(needed - count, count)
    return max(0, min(2 * math.ceil(more / 2), 2 * (allowed // 2)))
