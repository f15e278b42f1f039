"""The schedule with the smallest peak that a solver finds: what a budget that just fits gets.

A solver counts memory with rounding of its own, another for each budget, so that it may miss within
a budget what it found within a larger one. The smallest budget that is named must be kept, though.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution

_FIRST_STEP = 8
"""Into how many a step is parted that was too large."""


def search(
    profile: ChainProfile,
    simple: Iterable[Schedule],
    solve: Callable[[int], Solution | None],
    *,
    steady: bool = False,
) -> Schedule:
    """Ask for less than the best so far, in ever smaller steps, until nothing is found.

    Args:
        profile: that peaks are predicted by.
        simple: schedules that need no solver, one at least.
        solve: within a budget in bytes.
        steady: it counts every byte: what it does not find within a budget, it never does within
            less.
    """
    leanest = min(simple, key=lambda schedule: predict(profile, schedule).peak_bytes)
    peak_bytes = predict(profile, leanest).peak_bytes
    if steady and solve(peak_bytes - 1) is None:
        return leanest
    step_bytes = peak_bytes // _FIRST_STEP
    while (solution := solve(peak_bytes - 1 - step_bytes)) is not None or step_bytes:
        if solution is None:
            step_bytes //= _FIRST_STEP
        else:
            leanest = solution.schedule
            peak_bytes = predict(profile, leanest).peak_bytes
    return leanest


def within(profile: ChainProfile, schedule: Schedule, budget_bytes: int) -> Solution | None:
    """The leanest schedule as an answer, if it fits; nothing is proven about faster ones."""
    fits = predict(profile, schedule).peak_bytes <= budget_bytes
    return Solution(schedule, 0.0) if fits else None
