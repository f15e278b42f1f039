"""Offload and recompute together: the fastest schedule within a budget that we know, and a bound.

POFO (Beaumont, Eyraud-Dubois and Shilova 2021, «Efficient combination of rematerialization and
offloading for training DNNs», NeurIPS) decides for each boundary whether it is kept, sent away, or
neither; a stretch of the step takes the larger of what compute and the link need. Here a block at
the top of the plan runs bare in a mode, or begins a group, whose boundary stays or leaves; groups
are filled by the table of `optimal`. Transfers are those of `strategies.storage.overlapped`: a
boundary that leaves is alive until the next one leaves, and from when the next one was fetched. So
of a group that follows a boundary on the road, forward has its bytes free, and backward does not.

While boundary p comes back, work R is repeated beside backward B; the stretch takes max(R, x − B)
for a transfer of x. The table must add, so it counts w R + (1 − w) (x − B), which is never more,
for several weights w: the largest value is a proven lower bound. Of the table's schedules, those of
`optimal`, and simple ones, the interpreter picks the fastest within the budget; single boundaries
are then kept or sent as long as that helps. For w = 1 the table is exact where the link never makes
backward wait; otherwise there may be a gap, and it is reported.

Memory is counted in slots, needs rounded down and what is freed up, so that rounding never lifts
the bound and never breaks the budget. The bound is over schedules that send no boundary away that
the block before keeps besides, for that frees nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import Prediction, predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import optimal, optimal_solver
from strategies.solvers.hybrid_solver import Solver

WEIGHTS = (1.0, 0.75, 0.5, 0.25)
_WORK = 4e8  # table cells times choices in about a second, for each weight
_MOST_SLOTS, _FEWEST_SLOTS = 1000, 60


def slots_for(blocks: int) -> int:
    """As many slots as take about a second for each weight."""
    return int(min(_MOST_SLOTS, max(_FEWEST_SLOTS, _WORK / max(1, blocks) ** 3)))


def heuristics(profile: ChainProfile) -> Iterator[Schedule]:
    """Plans that need no solver, with every boundary sent away, or every other."""
    for plan in optimal.heuristics(profile):
        starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
        for offloaded in (starts, starts[1:], starts[::2], starts[1::2]):
            modes = profile.first_modes
            yield Schedule(plan, modes, frozenset(offloaded), profile.link_tier)


@functools.lru_cache(maxsize=8)
def _figures(profile: ChainProfile) -> list[tuple[float, int]]:
    """Seconds added and peak of each of `heuristics`: all budgets ask for the same."""
    judged = (predict(profile, schedule) for schedule in heuristics(profile))
    return [(_added_s(predicted), predicted.peak_bytes) for predicted in judged]


def _simple(profile: ChainProfile, budget_bytes: int) -> Iterator[Schedule]:
    """The fastest of `heuristics` that fits, if one does."""
    figures = _figures(profile)
    fitting = (number for number, (_, peak) in enumerate(figures) if peak <= budget_bytes)
    best = min(fitting, key=figures.__getitem__, default=len(figures))
    return itertools.islice(heuristics(profile), best, best + 1)


def neighbours(profile: ChainProfile, schedule: Schedule) -> Iterator[Schedule]:
    """The same plan with one boundary more, or less, on the device."""
    for node in schedule.plan:
        if isinstance(node, tuple) and (plans.first(node) or not profile.head_keeps_output):
            changed = schedule.offloaded ^ {plans.first(node)}
            yield Schedule(schedule.plan, schedule.modes, changed, profile.link_tier)


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, slots: int = 0) -> Solution | None:
    """The fastest schedule found whose predicted peak is within a budget.

    Never slower, by the profile's times, than that of `optimal.solve`; the same without a link.

    Args:
        profile: with times and ``link_bytes_per_s``.
        budget_bytes: of the peak, everything included.
        slots: how finely memory is counted; 0: as finely as takes a few seconds.

    Returns:
        ``None`` if nothing was found that fits.
    """
    plain = optimal.solve(profile, budget_bytes)
    schedules = [] if plain is None else [plain.schedule]
    if not profile.link_bytes_per_s or not optimal.fixed_terms_fit(profile, budget_bytes):
        return plain
    inside = optimal_solver.Solver(profile, budget_bytes, slots or slots_for(len(profile.blocks)))
    best = _best(profile, budget_bytes, [*schedules, *_simple(profile, budget_bytes)])
    bound_s = 0.0
    for weight in WEIGHTS if math.isfinite(profile.link_bytes_per_s) else WEIGHTS[:1]:
        solver = Solver(inside, weight)
        bound_s = max(bound_s, solver.bound_s())
        candidates = [best and best[0], solver.fitting(budget_bytes)]
        best = _best(profile, budget_bytes, [schedule for schedule in candidates if schedule])
        if best is not None and _added_s(best[1]) <= bound_s:
            break  # no other weight could do better
    if best is None:
        return None
    schedule, predicted = _improved(profile, budget_bytes, *best)
    return Solution(schedule, min(bound_s, _added_s(predicted)), inside.slot_bytes)


def _added_s(predicted: Prediction) -> float:
    return predicted.recompute_s + predicted.stall_s


def _best(
    profile: ChainProfile, budget_bytes: int, schedules: Sequence[Schedule]
) -> tuple[Schedule, Prediction] | None:
    judged = [(schedule, predict(profile, schedule)) for schedule in schedules]
    fitting = [item for item in judged if item[1].peak_bytes <= budget_bytes]
    return min(fitting, key=lambda item: (_added_s(item[1]), item[1].peak_bytes), default=None)


def _improved(
    profile: ChainProfile, budget_bytes: int, schedule: Schedule, predicted: Prediction
) -> tuple[Schedule, Prediction]:
    """Keep or send single boundaries as long as that makes the step faster."""
    while True:
        best = _best(profile, budget_bytes, list(neighbours(profile, schedule)))
        if best is None or _added_s(best[1]) >= _added_s(predicted):
            return schedule, predicted
        schedule, predicted = best


@functools.lru_cache(maxsize=64)
def smallest_bytes(profile: ChainProfile) -> int:
    """The smallest peak that a schedule was found for."""
    peak_bytes = optimal.smallest_bytes(profile)
    if not profile.link_bytes_per_s:
        return peak_bytes
    peak_bytes = min(peak_bytes, *(simple_bytes for _, simple_bytes in _figures(profile)))
    while optimal.fixed_terms_fit(profile, peak_bytes - 1):
        inside = optimal_solver.Solver(profile, peak_bytes - 1, slots_for(len(profile.blocks)))
        schedule = Solver(inside, WEIGHTS[0]).fitting(peak_bytes - 1)
        if schedule is None:
            break
        peak_bytes = predict(profile, schedule).peak_bytes
    return peak_bytes
