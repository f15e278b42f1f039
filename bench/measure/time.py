"""Step time: contenders interleaved, so that a slow minute hits them all."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

Switch = Callable[[], contextlib.AbstractContextManager[Callable[[], None]]]


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue; a CPU has none."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def interleave(
    contenders: Mapping[str, Switch], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Raw seconds of each contender in each round.

    Args:
        contenders: by name, a function that enters the contender's set-up (untimed) and yields
            the step to time.
        rounds: each runs every contender once, in the order of `orders`. Of two equal contenders
            the one that runs second is faster by some percent; where ``rounds`` is even, each of
            any two comes first equally often, and this cancels.
        device: synchronised before both readings of the clock.

    Returns:
        By name, one value a round, in the order of rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for order in itertools.islice(orders(list(contenders)), rounds):
        for name in order:
            with contenders[name]() as step:
                seconds[name].append(_timed(step, device))
    return seconds


def orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Who runs when, round after round: every other round is the one before, reversed.

    The rounds that are not reversed are the rows of Williams' design (1949, *Aust. J. Sci. Res.* A
    2:149): after as many rounds as there are contenders (twice as many, if those are odd) each
    was in every place, and right after every other, equally often.
    """
    count = len(names)
    places = [(place + 1) // 2 if place % 2 else -place // 2 for place in range(count)]
    for row in itertools.cycle(range(count if count % 2 else count // 2)):
        order = [names[(place + row) % count] for place in places]
        yield order
        yield order[::-1]


def _timed(step: Callable[[], None], device: torch.device) -> float:
    with _collector_off():
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        return time.perf_counter() - start


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
