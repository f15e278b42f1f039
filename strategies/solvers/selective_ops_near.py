"""What to keep within a budget near to that of a known schedule: blocks send what they do there.

How many bytes each block sends is nearly all that `strategies.solvers.selective_ops_sent` takes its
time for, and it changes little from budget to budget.
"""

from __future__ import annotations

import functools

from strategies.schedules.modes import away_by
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import selective_ops_sent
from strategies.solvers.selective_ops import GAP


@functools.lru_cache(maxsize=64)
def solve(
    profile: ChainProfile, budget_bytes: int, known: Schedule, gap: float = GAP
) -> Solution | None:
    """The choice that repeats least if blocks send what they do in a schedule, or nothing.

    Its bound is its own time: nothing is proven of others.

    Args:
        profile: with times, operators, and a link.
        budget_bytes: of the peak, everything included.
        known: a schedule for the same chain.
        gap: see `strategies.solvers.selective_ops.GAP`.
    """
    parcels = [away_by(known.mode(index)) for index in range(len(profile.blocks))]
    return selective_ops_sent.given(profile, budget_bytes, gap, parcels)
