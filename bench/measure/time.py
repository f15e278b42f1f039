"""Step time: contenders interleaved, so that a slow minute hits them all."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping

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
        rounds: each runs every contender once; the order is reversed every other round, so that
            none always comes first.
        device: synchronised before both readings of the clock.

    Returns:
        By name, one value a round, in the order of rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            with contenders[name]() as step:
                seconds[name].append(_timed(step, device))
    return seconds


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
