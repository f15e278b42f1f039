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
rounding can cost time, but never breaks the budget.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import Plan
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import leanest, optimal_table, recursive
from strategies.solvers.optimal_numbers import numbers_of, slot_bytes_for
from strategies.solvers.optimal_stretches import stretches_of

_WORK = 4e9  # table cells times choices in a few seconds: what bounds the slots
_MOST_SLOTS, _FEWEST_SLOTS = 4000, 100
_ROUNDING = 1e-9  # of sums of times, in another order


def fitting(
    profile: ChainProfile,
    budget_bytes: int,
    row: Any,
    start: int,
    schedule: Callable[[int], Schedule],
) -> Schedule | None:
    """The first schedule whose real peak is within the budget, from the largest start down.

    Args:
        profile: of the chain.
        budget_bytes: that the peak must not exceed.
        row: seconds by start; infinite where nothing fits.
        start: the largest.
        schedule: what the table says for a start.
    """
    low, high, best = int(np.argmax(np.isfinite(row))), start, None
    if not np.isfinite(row[high]):
        return None
    while low <= high:
        middle = high if high == start else (low + high) // 2
        candidate = schedule(middle)
        if predict(profile, candidate).peak_bytes <= budget_bytes:
            low, best = middle + 1, candidate
        else:
            high = middle - 1
    return best


class Solver:
    """The table for one profile and budget, and schedules read from it."""

    def __init__(self, profile: ChainProfile, budget_bytes: int, slots: int) -> None:
        self.profile = profile
        count = len(profile.blocks)
        total_bytes = max(1, budget_bytes - profile.resident_bytes - profile.head_saved_bytes)
        self.slot_bytes = slot_bytes_for(profile, total_bytes, slots)
        self.slots = -(-total_bytes // self.slot_bytes)
        room_bytes = max(0, total_bytes - profile.input_bytes)
        self.start = -(-room_bytes // self.slot_bytes)
        self.numbers = numbers_of(profile, self.slot_bytes)
        keeps = all(mode.keeps_input for block in profile.blocks for mode in block.modes)
        planes = 1 if keeps and profile.tail_keeps_input else 2
        self.held = int(profile.head_keeps_output) * (planes - 1)
        self.table = optimal_table.empty(planes, len(self.numbers.firsts), self.slots)
        optimal_table.filling(stretches_of(profile).work)(self.table, self.numbers)
        self.top = self.table[self.held, self.numbers.rows[0, count]]

    def bound_s(self) -> float:
        """The table's value for the whole budget."""
        return float(self.top[self.start])

    def fitting(self, budget_bytes: int) -> Schedule | None:
        """The first schedule whose real peak is within the budget, from the largest start down."""
        return fitting(self.profile, budget_bytes, self.top, self.start, self.schedule)

    def schedule(self, slots: int) -> Schedule:
        """Read the choices for a start of ``slots``."""
        modes = list(self.profile.first_modes)
        nodes = tuple(self.nodes(self.held, 0, len(self.profile.blocks), slots, modes))
        return Schedule(nodes, tuple(modes))

    def nodes(self, held: int, begin: int, end: int, slots: int, modes: list[str]) -> Iterator[Any]:
        """The nodes of a stretch with ``slots`` left, its modes written into ``modes``.

        Slots are counted as in the table: above what is alive by the position of ``end``.
        """
        count = len(self.profile.blocks)
        while begin < end:
            kind, which = self._choice(held, begin, end, slots)
            if kind == "bare":
                modes[begin] = self.mode_name(begin, which)
                yield begin
                slots = min(slots - int(self.numbers.mode_taken[held, which]), self.slots)
                held = min(int(self.numbers.mode_holds[which]), self.table.shape[0] - 1)
                begin += 1
            else:
                inside = self.table.shape[0] - 1
                own = min(slots - self.inside_less(which, end), self.slots)
                yield tuple(self.nodes(inside, begin, which, own, modes))
                slots, held, begin = slots - int(self.numbers.group_taken[which]), 0, which + 1
        if begin < count:
            yield begin

    def inside_less(self, last: Any, end: int) -> Any:
        """As the table's function of that name, for one block or an array of them."""
        around = self.numbers.around_bytes
        return (self.numbers.group_own_bytes + around[last] - around[end]) // self.slot_bytes

    def mode_name(self, block: int, mode: int) -> str:
        """Of a mode by its place among all blocks' modes."""
        return self.profile.blocks[block].modes[mode - int(self.numbers.mode_begin[block])].name

    def _choice(self, held: int, begin: int, end: int, slots: int) -> tuple[str, int]:
        """The choice that the table's value came from: the cheapest, worked out again."""
        choices = [
            *self._bare_costs(held, begin, end, slots),
            *self._group_costs(begin, end, slots),
        ]
        _, kind, which = min(choices, key=lambda choice: choice[0])
        return kind, which

    def _bare_costs(
        self, held: int, begin: int, end: int, slots: int
    ) -> Iterator[tuple[float, str, int]]:
        n, count = self.numbers, len(self.profile.blocks)
        repeated = 0.0 if end == count else n.forward_s[begin]
        modes = n.mode_begin[begin + 1] if end == count else n.mode_begin[begin] + 1
        for mode in range(n.mode_begin[begin], modes):
            back_bytes = n.around_bytes[begin] - n.around_bytes[end]
            back_bytes += n.mode_backward_bytes[held, mode]
            need = max(int(n.mode_forward[mode]), int(back_bytes // self.slot_bytes))
            taken = n.mode_taken[held, mode]
            if slots >= max(need, taken):
                plane = min(int(n.mode_holds[mode]), self.table.shape[0] - 1)
                left = min(slots - int(taken), self.slots)
                rest = self.table[plane, n.rows[begin + 1, end], left]
                yield float(rest) + repeated + n.mode_s[mode], "bare", mode

    def _group_costs(self, begin: int, end: int, slots: int) -> Iterator[tuple[float, str, int]]:
        """The cheapest group that fits, and of those the shortest; all lengths at once."""
        n, count, inside = self.numbers, len(self.profile.blocks), self.table.shape[0] - 1
        ends = np.arange(begin, min(end, n.reach[begin] + 1))
        working = np.where(ends == begin, n.unsaved_first[ends], n.unsaved_next[ends])
        less = self.inside_less(ends, end)
        need = np.maximum(np.maximum.accumulate(working), n.group_taken[ends])
        fits = slots >= np.maximum(need, less)
        if fits.any():
            repeated, ends = np.cumsum(n.forward_s[ends])[fits], ends[fits]
            left = np.minimum(slots - less[fits], self.slots)
            rest = self.table[0, n.rows[ends + 1, end], slots - n.group_taken[ends]].astype(float)
            own = self.table[inside, n.rows[begin, ends], left].astype(float)
            costs = rest + own + repeated * (end < count)
            best = int(np.argmin(costs))
            yield float(costs[best]), "group", int(ends[best])


def slots_for(profile: ChainProfile) -> int:
    """As many slots as take a few seconds at most, but 100 at least.

    That is thousands for short chains, and for long ones of equal blocks.
    """
    work = max(1, stretches_of(profile).work)
    return int(min(_MOST_SLOTS, max(_FEWEST_SLOTS, _WORK / work)))


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
    solution = _solved(profile, budget_bytes, slots)
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


def _solved(profile: ChainProfile, budget_bytes: int, slots: int = 0) -> Solution | None:
    """What the table finds; by its own rounding it misses a schedule that just fits."""
    if not fixed_terms_fit(profile, budget_bytes):
        return None
    solver = Solver(profile, budget_bytes, slots or slots_for(profile))
    first = solver.fitting(budget_bytes)
    candidates = [] if first is None else [(predict(profile, first), first)]
    for plan in heuristics(profile):
        if candidates and _least_s(profile, plan) > candidates[0][0].recompute_s:
            continue  # the interpreter takes longer to say so
        predicted = predict(profile, plan)
        if predicted.peak_bytes <= budget_bytes:
            candidates.append((predicted, profile.schedule(plan)))
    if not candidates:
        return None
    best, schedule = min(candidates, key=lambda item: (item[0].recompute_s, item[0].peak_bytes))
    bound_s = min(best.recompute_s, solver.bound_s())
    return Solution(schedule, bound_s, solver.slot_bytes)


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
    return leanest.search(profile, simple, functools.partial(_solved, profile))
