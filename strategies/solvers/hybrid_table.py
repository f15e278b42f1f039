"""The table of `strategies.solvers.hybrid`, compiled. Imported on first use: numba takes a second.

``table[r, h, s, m]`` is the least time to add for blocks s … L with m slots of memory left above
what earlier blocks hold; h = 1 if somebody else holds boundary s. The road r says what is on it:

- 0: no boundary has left;
- 1 + p: boundary p left last, and another one will: p is alive until that one is fetched;
- 1 + L + p: boundary p left last: it is alive until forward ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from strategies.solvers import optimal_table

_inside_less = numba.njit(optimal_table.inside_less)


class Task(NamedTuple):
    """What to fill a table from.

    Attributes:
        inside: the table of `optimal`, for what groups hold.
        numbers: an `optimal_numbers.Numbers`.
        roads: a `hybrid_numbers.Roads`.
        weight: what a second of repeated work counts for while a transfer overlaps with it.
    """

    inside: Any
    numbers: Any
    roads: Any
    weight: float


@numba.njit(cache=True)
def fill(table: Any, task: Any) -> None:
    """Fill ``table`` from the last block to the first.

    Args:
        table: [2 L + 1, planes, L + 1, slots + 1], infinite everywhere.
        task: a `Task`.
    """
    count, numbers = task.numbers.forward_s.shape[0], task.numbers
    for begin in range(count, -1, -1):
        for road in range(2 * count + 1):
            if road and (road - 1) % count >= begin:
                continue
            for held in range(table.shape[1]):
                if begin < count:
                    _bare(table, task, road, held, begin)
                    _groups(table, task, road, held, begin)
                elif not 1 <= road <= count:
                    table[road, held, count, max(0, numbers.last_need[held, count]) :] = 0.0


@numba.njit(cache=True)
def leaving_slots(task: Any, road: int) -> int:
    """What forward needs besides, for the last boundary to leave."""
    count = task.numbers.forward_s.shape[0]
    return int(task.roads.down[road - 1 - count]) if road > count else 0


@numba.njit(cache=True)
def share(task: Any, road: int) -> float:
    """What a second of repeated work counts for."""
    return float(task.weight) if 1 <= road <= task.numbers.forward_s.shape[0] else 1.0


@numba.njit(cache=True)
def _bare(table: Any, task: Any, road: int, held: int, begin: int) -> None:
    row, numbers, leaving = table[road, held, begin], task.numbers, leaving_slots(task, road)
    for mode in range(numbers.mode_begin[begin], numbers.mode_begin[begin + 1]):
        need = max(numbers.mode_forward[mode] + leaving, numbers.mode_backward[held, mode])
        taken = numbers.mode_taken[held, mode]
        rest = table[road, min(numbers.mode_holds[mode], table.shape[1] - 1), begin + 1]
        again_s, end = share(task, road) * numbers.mode_s[mode], row.shape[0]
        for slots in range(max(0, need, taken), min(end, end + taken)):
            row[slots] = min(row[slots], rest[slots - taken] + again_s)
        for slots in range(max(0, need, end + taken), end):  # it frees more than it takes
            row[slots] = min(row[slots], rest[end - 1] + again_s)


@numba.njit(cache=True)
def _groups(table: Any, task: Any, road: int, held: int, begin: int) -> None:
    numbers, count = task.numbers, task.numbers.forward_s.shape[0]
    row, need, leaving = table[road, held, begin], -(1 << 60), leaving_slots(task, road)
    back = task.roads.up[road - 1] if 1 <= road <= count else 0
    for last in range(begin, numbers.reach[begin] + 1):
        working = numbers.unsaved_first[last] if last == begin else numbers.unsaved_next[last]
        need, taken = max(need, working), numbers.group_taken[last]
        within = task.inside[task.inside.shape[0] - 1, numbers.rows[begin, last]]
        own = _inside_less(numbers, last, count)
        fits, costs = (need + leaving, own, taken), (share(task, road), 0.0)
        _group(row, within, table[road, 0, last + 1], fits, costs)
        if road <= count and held == 0 and task.roads.may_leave[begin]:
            costs = (share(task, road), stall_s(task, road - 1, begin, last))
            fits = (need - back, own, taken - back)
            _group(row, within, table[1 + begin, 0, last + 1], fits, costs)
            costs = (costs[0], costs[1] + last_stall_s(task, begin))
            fits = (need - back, own, taken - back - task.roads.up[begin])
            _group(row, within, table[1 + count + begin, 0, last + 1], fits, costs)


@numba.njit(cache=True)
def _group(row: Any, within: Any, rest: Any, fits: Any, costs: Any) -> None:
    need, own, taken = fits
    begin, end = max(0, need, own, taken), row.shape[0]
    full = max(begin, min(end, end + taken, within.shape[0] + own))
    _lower(row[begin:full], rest[begin - taken :], within[begin - own :], costs)
    for slots in range(full, end):  # there may be more room than any
        left, inside = min(slots - taken, end - 1), min(slots - own, within.shape[0] - 1)
        row[slots] = min(row[slots], rest[left] + costs[0] * within[inside] + costs[1])


@numba.njit(cache=True)
def _lower(row: Any, rest: Any, within: Any, costs: Any) -> None:
    """Place by place, which a processor does for several at once."""
    for place in range(row.shape[0]):
        cost_s = rest[place] + costs[0] * within[place] + costs[1]
        row[place] = min(row[place], cost_s)


@numba.njit(cache=True)
def stall_s(task: Any, earlier: int, begin: int, last: int) -> float:
    """The least wait when boundary ``begin`` leaves and comes, for the ``earlier`` one (−1: none).

    In forward it is known. In backward, the transfer of the earlier one overlaps with repeated work
    R beside at most B of backward: R + wait = max(R, x − B) ≥ weight · R + (1 − weight) · (x − B).
    """
    roads = task.roads
    if earlier < 0:
        return 0.0
    transfer_s = roads.transfer_s[earlier]
    out = max(0.0, transfer_s - roads.forward_s[begin] + roads.forward_s[earlier])
    beside = roads.backward_s[last + 1] - roads.backward_s[earlier + 1]
    return float(out + (1.0 - task.weight) * max(0.0, transfer_s - beside))


@numba.njit(cache=True)
def last_stall_s(task: Any, begin: int) -> float:
    """The wait for the last boundary to leave: until forward ends, and for all of its way back."""
    roads = task.roads
    transfer_s, beside = roads.transfer_s[begin], roads.forward_s[-1] - roads.forward_s[begin]
    return float(transfer_s + max(0.0, transfer_s - beside))


def empty(planes: int, blocks: int, slots: int) -> Any:
    """A table in which nothing fits yet; single precision where it would be large."""
    dtype = np.float64 if blocks <= 50 else np.float32
    return np.full((2 * blocks + 1, planes, blocks + 1, slots + 1), np.inf, dtype=dtype)
