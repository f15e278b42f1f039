"""Timed rounds of contenders beside each other: so many, or until intervals are narrow enough."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Mapping, Sequence
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


class Begun(Wanted, Protocol):
    """Further, how many rounds there are at least."""

    @property
    def rounds(self) -> int: ...  # noqa: D102 - as of a cell


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be known of contenders.

    Attributes:
        kept: names of those that are timed in every round.
        pairs: whose ratios are asked for: ours, and another's.
    """

    kept: Collection[str]
    pairs: Sequence[tuple[str, str]]


def contested(
    contenders: Mapping[str, Switch], asked: Asked, wanted: Begun, device: torch.device
) -> dict[str, list[float]]:
    """Raw seconds of each by name, from the first round on; whoever is in no pair leaves.

    Args:
        contenders: by name.
        asked: a pair of equals is none.
        wanted: says how many rounds at least, and when a ratio is known.
        device: that they run on.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    playing, pairs = dict(contenders), [(a, b) for a, b in asked.pairs if a != b]
    more, started = wanted.rounds, time.perf_counter()
    while more:
        for name, taken in interleave(playing, more, device).items():
            seconds[name] += taken
        took_s = time.perf_counter() - started
        pairs = [(a, b) for a, b in pairs if not _decided(wanted, seconds[a], seconds[b])]
        steps = [(seconds[a], seconds[b]) for a, b in pairs]
        more = max((missing(wanted, *both, took_s) for both in steps), default=0)
        present = {*asked.kept, *(name for pair in pairs for name in pair)}
        playing = {name: switch for name, switch in contenders.items() if name in present}
    return seconds


def _decided(wanted: Wanted, ours_s: Sequence[float], others_s: Sequence[float]) -> bool:
    """The ratio is known well enough, or ours are faster by more than so much."""
    ratio, width = paired_ratio(ours_s, others_s), wanted.interval_width
    assert ratio is not None
    if width is None:
        return True
    return ratio.width <= width or (ratio.high is not None and ratio.high < 1 - width)


def missing(
    wanted: Wanted, steps_s: Sequence[float], none_s: Sequence[float], took_s: float
) -> int:
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
