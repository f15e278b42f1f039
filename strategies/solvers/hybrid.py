"""Offload and recompute together: the fastest schedule within a budget that we know, and a bound.

POFO (Beaumont, Eyraud-Dubois and Shilova 2021, «Efficient combination of rematerialization and
offloading for training DNNs», NeurIPS) decides for each boundary whether it is kept, sent away, or
neither; a stretch of the step takes the larger of what compute and the link need. Here a block at
the top of the plan runs bare in a mode, or begins a group, whose boundary stays or leaves; groups
are filled by the table of `rotor`. Transfers are those of `strategies.storage.overlapped`: a
boundary that leaves is alive until the next one leaves, and from when the next one was fetched. So
of a group that follows a boundary on the road, forward has its bytes free, and backward does not.

While boundary p comes back, work R is repeated beside backward B; the stretch takes max(R, x − B)
for a transfer of x. The table must add, so it counts w R + (1 − w) (x − B), which is never more,
for several weights w: the largest value is a proven lower bound. Of the table's schedules, those of
`rotor`, and simple ones, the interpreter picks the fastest within the budget; single boundaries are
then kept or sent as long as that helps. For w = 1 the table is exact where the link never makes
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
from typing import Any, NamedTuple

import numpy as np

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import Prediction, predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL, Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import optimal

WEIGHTS = (1.0, 0.75, 0.5, 0.25)
_WORK = 4e8  # table cells times choices in about a second, for each weight
_MOST_SLOTS, _FEWEST_SLOTS = 1000, 60


class Roads(NamedTuple):
    """What the compiled table needs to know of the link. Arrays are by block, sums before each.

    Attributes:
        up: slots that a boundary frees, rounded up.
        down: slots that it takes, rounded down.
        may_leave: whether it may leave.
        transfer_s: time on the link, one way.
        forward_s: [L + 1] of the blocks before.
        backward_s: [L + 1] of the blocks before.
    """

    up: Any
    down: Any
    may_leave: Any
    transfer_s: Any
    forward_s: Any
    backward_s: Any


def roads_of(profile: ChainProfile, slot_bytes: int) -> Roads:
    """The link of ``profile`` in slots and seconds."""
    blocks = profile.blocks
    size = [profile.boundary_bytes(index) for index in range(len(blocks))]
    leave = [index > 0 or not profile.head_keeps_output for index in range(len(blocks))]

    def sums(values: Sequence[float]) -> Any:
        return np.array([*itertools.accumulate(values, initial=0.0)])

    return Roads(
        up=np.array([-(-value // slot_bytes) for value in size], dtype=np.int64),
        down=np.array([value // slot_bytes for value in size], dtype=np.int64),
        may_leave=np.array(leave),
        transfer_s=np.array([profile.transfer_s(index) for index in range(len(blocks))]),
        forward_s=sums([block.forward_s for block in blocks]),
        backward_s=sums([block.backward_s for block in blocks]),
    )


class _Choice(NamedTuple):
    """One step along the chain: what it costs with the rest, and the state behind it."""

    cost_s: float
    road: int
    held: int
    end: int
    taken: int
    mode: int = -1
    leaves: bool = False


class _Solver:
    """The table for one weight, and schedules read from it."""

    def __init__(self, inside: optimal.Solver, weight: float) -> None:
        from strategies.solvers import hybrid_table  # noqa: PLC0415 - compiles

        self.compiled, self.profile, self.inside = hybrid_table, inside.profile, inside
        self.numbers, self.count = inside.numbers, len(inside.profile.blocks)
        roads = roads_of(self.profile, inside.slot_bytes)
        self.task = hybrid_table.Task(inside.table, self.numbers, roads, weight)
        self.held = int(self.profile.head_keeps_output)
        planes = 1 + max(self.held, int(self.numbers.mode_holds.max()))
        self.table = hybrid_table.empty(planes, self.count, inside.slots)
        hybrid_table.fill(self.table, self.task)

    @property
    def row(self) -> Any:
        """The table's values for all blocks, by slots."""
        return self.table[0, self.held, 0]

    def bound_s(self) -> float:
        """The table's value for the whole budget."""
        return float(self.row[self.inside.start])

    def fitting(self, budget_bytes: int) -> Schedule | None:
        """The first schedule whose real peak is within the budget, from the largest start down."""
        low, high, best = int(np.argmax(np.isfinite(self.row))), self.inside.start, None
        if not np.isfinite(self.row[high]):
            return None
        while low <= high:
            middle = high if high == self.inside.start else (low + high) // 2
            schedule = self.schedule(middle)
            if predict(self.profile, schedule).peak_bytes <= budget_bytes:
                low, best = middle + 1, schedule
            else:
                high = middle - 1
        return best

    def schedule(self, slots: int) -> Schedule:
        """Read the choices for a start of ``slots``."""
        modes, offloaded = [ALL] * self.count, set()
        nodes: list[Any] = []
        road, held, begin = 0, self.held, 0
        while begin < self.count:
            choice = min(self._choices(road, held, begin, slots), key=lambda found: found.cost_s)
            nodes.append(self._node(choice, begin, slots, modes))
            if choice.leaves:
                offloaded.add(begin)
            slots = min(slots - choice.taken, self.inside.slots)
            road, held, begin = choice.road, choice.held, choice.end
        names = () if set(modes) == {ALL} else tuple(modes)
        return Schedule(tuple(nodes), names, frozenset(offloaded), self.profile.link_tier)

    def _node(self, choice: _Choice, begin: int, slots: int, modes: list[str]) -> Any:
        if choice.mode >= 0:
            modes[begin] = self.inside.mode_name(begin, choice.mode)
            return begin
        plane, own = self.inside.table.shape[0] - 1, int(self.numbers.group_own)
        return tuple(self.inside.nodes(plane, begin, choice.end - 1, slots - own, modes))

    def _choices(self, road: int, held: int, begin: int, slots: int) -> Iterator[_Choice]:
        """All choices that fit, as the table makes them, with their rest.

        One choice is soon worked out, but not soon handed to compiled code: hence ``py_func``.
        """
        bare = self._bare(road, held, begin, slots)
        for choice in itertools.chain(bare, self._groups(road, held, begin, slots)):
            left = min(slots - choice.taken, self.inside.slots)
            rest_s = float(self.table[choice.road, choice.held, choice.end, left])
            yield choice._replace(cost_s=choice.cost_s + rest_s)

    def _bare(self, road: int, held: int, begin: int, slots: int) -> Iterator[_Choice]:
        n, leaving = self.numbers, self.compiled.leaving_slots.py_func(self.task, road)
        share = self.compiled.share.py_func(self.task, road)
        for mode in range(n.mode_begin[begin], n.mode_begin[begin + 1]):
            need = max(n.mode_forward[mode] + leaving, n.mode_backward[held, mode])
            taken = int(n.mode_taken[held, mode])
            if slots >= max(need, taken):
                plane = min(int(n.mode_holds[mode]), self.table.shape[1] - 1)
                yield _Choice(share * float(n.mode_s[mode]), road, plane, begin + 1, taken, mode)

    def _groups(self, road: int, held: int, begin: int, slots: int) -> Iterator[_Choice]:
        n, need, leaving = self.numbers, 0, self.compiled.leaving_slots.py_func(self.task, road)
        own, plane = int(n.group_own), self.inside.table.shape[0] - 1
        if slots < own:
            return
        for last in range(begin, n.reach[begin] + 1):
            need = max(need, n.unsaved_first[last] if last == begin else n.unsaved_next[last])
            repeated_s = float(self.inside.table[plane, begin, last, slots - own])
            cost_s = self.compiled.share.py_func(self.task, road) * repeated_s
            stays = _Choice(cost_s, road, 0, last + 1, int(n.group_taken[last]))
            if slots >= max(need + leaving, stays.taken):
                yield stays
            if road <= self.count and not held and self.task.roads.may_leave[begin]:
                found = self._leaving(road, begin, stays)
                back = stays.taken - found[0].taken
                yield from (c for c in found if slots >= max(need - back, c.taken))

    def _leaving(self, road: int, begin: int, stays: _Choice) -> tuple[_Choice, _Choice]:
        """The same group with its boundary away, others to follow or not."""
        back = int(self.task.roads.up[road - 1]) if road else 0
        waits_s = self.compiled.stall_s.py_func(self.task, road - 1, begin, stays.end - 1)
        more = stays._replace(
            cost_s=stays.cost_s + waits_s, road=1 + begin, taken=stays.taken - back, leaves=True
        )
        last = more._replace(
            cost_s=more.cost_s + self.compiled.last_stall_s.py_func(self.task, begin),
            road=1 + self.count + begin,
            taken=more.taken - int(self.task.roads.up[begin]),
        )
        return more, last


def slots_for(blocks: int) -> int:
    """As many slots as take about a second for each weight."""
    return int(min(_MOST_SLOTS, max(_FEWEST_SLOTS, _WORK / max(1, blocks) ** 3)))


def heuristics(profile: ChainProfile) -> Iterator[Schedule]:
    """Plans that need no solver, with every boundary sent away, or every other."""
    for plan in optimal.heuristics(profile):
        starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
        for offloaded in (starts, starts[1:], starts[::2], starts[1::2]):
            yield Schedule(plan, (), frozenset(offloaded), profile.link_tier)


def neighbours(profile: ChainProfile, schedule: Schedule) -> Iterator[Schedule]:
    """The same plan with one boundary more, or less, on the device."""
    for node in schedule.plan:
        if isinstance(node, tuple) and (plans.first(node) or not profile.head_keeps_output):
            changed = schedule.offloaded ^ {plans.first(node)}
            yield Schedule(schedule.plan, schedule.modes, changed, profile.link_tier)


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, slots: int = 0) -> Solution | None:
    """The fastest schedule found whose predicted peak is within a budget.

    Never slower, by the profile's times, than that of `rotor.solve`; the same without a link.

    Args:
        profile: with times and ``link_bytes_per_s``.
        budget_bytes: of the peak, everything included.
        slots: how finely memory is counted; 0: as finely as takes a few seconds.

    Returns:
        ``None`` if nothing was found that fits.
    """
    plain = optimal.solve(profile, budget_bytes)
    found = [] if plain is None else [plain.schedule]
    if not profile.link_bytes_per_s or not optimal.fixed_terms_fit(profile, budget_bytes):
        return Solution(found[0], plain.bound_s, plain.slot_bytes) if plain else None
    inside = optimal.Solver(profile, budget_bytes, slots or slots_for(len(profile.blocks)))
    best = _best(profile, budget_bytes, [*found, *heuristics(profile)])
    bound_s = 0.0
    for weight in WEIGHTS if math.isfinite(profile.link_bytes_per_s) else WEIGHTS[:1]:
        solver = _Solver(inside, weight)
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
    peaks = (predict(profile, schedule).peak_bytes for schedule in heuristics(profile))
    peak_bytes = min(peak_bytes, *peaks)
    while optimal.fixed_terms_fit(profile, peak_bytes - 1):
        inside = optimal.Solver(profile, peak_bytes - 1, slots_for(len(profile.blocks)))
        schedule = _Solver(inside, WEIGHTS[0]).fitting(peak_bytes - 1)
        if schedule is None:
            break
        peak_bytes = predict(profile, schedule).peak_bytes
    return peak_bytes
