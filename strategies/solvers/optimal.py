"""The fastest nested plan within a budget, by dynamic programming over a heterogeneous chain.

Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova 2019 («Optimal checkpointing for heterogeneous
chains», arXiv 1911.13214, «rotor»), their three options for a block being ours: *store everything*
is a bare block, *store its input only* begins a recompute group, *store nothing* is a block inside
one. As in Rockmate (Zhao et al. 2023, arXiv 2307.01236) a bare block has several modes, with a time
and bytes each; in a group it runs in the first (see `strategies.schedules.schedule`).

A stretch of blocks s … t is run forward and backward with m bytes left above what earlier blocks
hold. Either s runs bare in a mode, and what it saves is taken from m for the rest; or s … k are a
group: only boundary k + 1 is taken from m for the rest, and afterwards the stretch s … k is run
again within m. The tail is block L. What is alive by position alone (gradients of parameters and of
the boundary at hand) is part of each step's need, so that the recurrence is exact: it is that of
`strategies.schedules.interpreter`, block by block.

Stretches of equal blocks are solved once (`optimal_stretches`), so that a long chain of them takes
little, and memory can be counted finely.

Memory is counted in slots. Sizes are rounded *down*, so that the table's value is a proven lower
bound on the time of every nested plan within the budget. A schedule taken from the table is judged
by the interpreter, with a smaller and smaller start, until its real peak is within the budget:
rounding can cost time, but never breaks the budget. Where the value is below what that schedule
takes, plans are tried in the order of their times (`optimal_search`): that finds the fastest, or
raises the bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import Plan
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import leanest, optimal_search, recursive
from strategies.solvers.optimal_solver import Solver
from strategies.solvers.optimal_stretches import stretches_of

WORK = 4_000_000_000
"""Table cells times choices in a few seconds: what bounds the slots."""
_MOST_SLOTS, _FEWEST_SLOTS = 4000, 100
_ROUNDING = 1e-9  # of sums of times, in another order
WORTH = 1e-3
"""Of a step: for less, no plans are tried beside the table's."""


def slots_for(profile: ChainProfile, most_work: int = WORK) -> int:
    """As many slots as take a few seconds at most, but 100 at least.

    That is thousands for short chains, and for long ones of equal blocks.

    Args:
        profile: of the chain.
        most_work: table cells times choices.
    """
    work = max(1, stretches_of(profile).work)
    return int(min(_MOST_SLOTS, max(_FEWEST_SLOTS, most_work / work)))


def heuristics(profile: ChainProfile) -> Iterator[Plan]:
    """The plans that need no solver: none, groups of k, halves of halves."""
    count = len(profile.blocks)
    yield plans.plain(count)
    for size in range(1, count + 1):
        for keep_last in (False, True):
            plan = plans.uniform(count, size, keep_last=keep_last)
            yield plans.split(plan, profile.borders)
    yield plans.split(recursive.nested(count), profile.borders)


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, slots: int = 0) -> Solution | None:
    """The fastest schedule whose predicted peak is within a budget.

    Never slower, by the profile's times, than a heuristic plan that fits.

    Args:
        profile: with times.
        budget_bytes: of the peak, everything included.
        slots: how finely memory is counted; 0: as `slots_for` says.

    Returns:
        ``None`` if nothing was found that fits.
    """
    solution = _solved(profile, budget_bytes, slots, optimal_search.PATIENCE)
    if solution or not fixed_terms_fit(profile, budget_bytes):
        return solution
    return leanest.within(profile, _leanest(profile), budget_bytes)


@functools.lru_cache(maxsize=64)
def bound_s(profile: ChainProfile, budget_bytes: int, slots: int = 0) -> float:
    """No nested plan within a budget repeats less, in seconds; infinite: none fits.

    Of use where `solve` finds nothing, which proves nothing: what else the model holds is not in
    the table, and the plan that it names may not fit where another one would.
    """
    if not fixed_terms_fit(profile, budget_bytes):
        return math.inf
    return Solver(profile, budget_bytes, slots or slots_for(profile)).bound_s()


def _solved(
    profile: ChainProfile, budget_bytes: int, slots: int = 0, patience: int = 0
) -> Solution | None:
    """What the table finds; by its own rounding it misses a schedule that just fits."""
    if not fixed_terms_fit(profile, budget_bytes):
        return None
    solver = Solver(profile, budget_bytes, slots or slots_for(profile))
    first = solver.fitting(budget_bytes)
    candidates = [] if first is None else [(_costs(profile, first), first)]
    figures = _figures(profile)
    for number, plan in enumerate(heuristics(profile)):
        if candidates and _least_s(profile, plan) > candidates[0][0].recompute_s:
            continue  # the interpreter takes longer to say so
        if number not in figures:
            figures[number] = _costs(profile, plan)
        if figures[number].peak_bytes <= budget_bytes:
            candidates.append((figures[number], profile.schedule(plan)))
    schedule, least_s, bound_s = None, math.inf, solver.bound_s()
    if candidates:
        (least_s, _), schedule = min(candidates, key=lambda item: item[0])
    if patience and least_s - bound_s > WORTH * profile.plain_step_s:
        faster, bound_s = optimal_search.fastest(solver, budget_bytes, least_s, patience)
        schedule = faster or schedule
    if schedule is None:
        return None
    bound_s = min(bound_s, predict(profile, schedule).recompute_s)
    return Solution(schedule, bound_s, solver.slot_bytes)


class _Costs(NamedTuple):
    """Of a plan, by the interpreter: the better, the less."""

    recompute_s: float
    peak_bytes: int


def _costs(profile: ChainProfile, schedule: Schedule | Plan) -> _Costs:
    predicted = predict(profile, schedule)
    return _Costs(predicted.recompute_s, predicted.peak_bytes)


@functools.lru_cache(maxsize=8)
def _figures(profile: ChainProfile) -> dict[int, _Costs]:  # noqa: ARG001 - one for each
    """Of heuristic plans by number, as far as they were asked for: budgets ask for the same."""
    return {}


def _least_s(profile: ChainProfile, plan: Plan) -> float:
    """What a plan repeats at least: every block of a group once, the last as far as need be."""
    blocks = profile.blocks
    groups = [list(plans.leaves(node)) for node in plan if not isinstance(node, int)]
    inner_s = math.fsum(blocks[index].forward_s for group in groups for index in group[:-1])
    last_s = math.fsum(blocks[group[-1]].last_recompute_s for group in groups)
    return (inner_s + last_s) * (1 - _ROUNDING)


def fixed_terms_fit(profile: ChainProfile, budget_bytes: int) -> bool:
    """Whether head and update leave room, which no plan changes."""
    gradients = profile.tail_gradient_bytes + sum(b.gradient_bytes for b in profile.blocks)
    head = profile.head_saved_bytes + profile.input_bytes + profile.head_backward_working_bytes
    head += _unfreed_bytes(profile, {0} if profile.head_keeps_output else set())
    update = gradients - profile.head_gradient_bytes + profile.update_working_bytes
    update += _unfreed_bytes(profile, set())
    needs = (profile.head_working_bytes, gradients + head, update)
    return profile.resident_bytes + max(needs) <= budget_bytes


def _unfreed_bytes(profile: ChainProfile, boundaries: set[int]) -> int:
    """Of what the model itself holds to the end of the step, and these boundaries."""
    unfreed = [one for one in profile.shared if one.until > len(profile.blocks) + 1]
    boundaries = boundaries | {one.boundary for one in unfreed if one.boundary is not None}
    beside_bytes = sum(one.size_bytes for one in unfreed if one.boundary is None)
    return beside_bytes + sum(map(profile.boundary_bytes, boundaries))


@functools.lru_cache(maxsize=64)
def smallest_bytes(profile: ChainProfile) -> int:
    """The smallest peak that `solve` finds a schedule for."""
    return predict(profile, _leanest(profile)).peak_bytes


@functools.lru_cache(maxsize=64)
def _leanest(profile: ChainProfile) -> Schedule:
    simple = map(profile.schedule, heuristics(profile))
    schedule = leanest.search(profile, simple, functools.partial(_solved, profile))
    while True:
        below_bytes = predict(profile, schedule).peak_bytes - 1
        leaner = _solved(profile, below_bytes, patience=optimal_search.PATIENCE)
        if leaner is None:
            return schedule
        schedule = leaner.schedule
