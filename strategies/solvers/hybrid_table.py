"""The table of `strategies.solvers.hybrid`, compiled. Imported on first use: numba takes a second.

``table[r, h, s, m]`` is the least time to add for blocks s … L with m slots of memory left above
what earlier blocks hold; h = 1 if somebody else holds boundary s. The road r says what is on it:

- 0: no boundary has left;
- 1 + p: boundary p left last, and another one will: p is alive until that one is fetched;
- 1 + L + p: boundary p left last: it is alive until forward ends.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)
def fill(table: Any, inside: Any, numbers: Any, roads: Any, weight: float) -> None:
    """Fill ``table`` from the last block to the first.

    Args:
        table: [2 L + 1, planes, L + 1, slots + 1], infinite everywhere.
        inside: the table of `rotor`, for what groups hold.
        numbers: a `rotor.Numbers`.
        roads: a `hybrid.Roads`.
        weight: what a second of repeated work counts for while a transfer overlaps with it.
    """
    count = numbers.forward_s.shape[0]
    for begin in range(count, -1, -1):
        for road in range(2 * count + 1):
            if road and (road - 1) % count >= begin:
                continue
            for held in range(table.shape[1]):
                if begin < count:
                    _bare(table, numbers, roads, weight, road, held, begin)
                    _groups(table, inside, numbers, roads, weight, road, held, begin)
                elif not 1 <= road <= count:
                    table[road, held, count, max(0, numbers.last_need[held, count]) :] = 0.0


@numba.njit(cache=True)
def _bare(
    table: Any, numbers: Any, roads: Any, weight: float, road: int, held: int, begin: int
) -> None:
    row, count = table[road, held, begin], numbers.forward_s.shape[0]
    leaving = roads.down[road - 1 - count] if road > count else 0
    share = weight if 1 <= road <= count else 1.0
    for mode in range(numbers.mode_begin[begin], numbers.mode_begin[begin + 1]):
        need = max(numbers.mode_forward[mode] + leaving, numbers.mode_backward[held, mode])
        taken = numbers.mode_taken[held, mode]
        rest = table[road, min(numbers.mode_holds[mode], table.shape[1] - 1), begin + 1]
        for slots in range(max(0, need, taken), row.shape[0]):
            left = min(slots - taken, row.shape[0] - 1)
            row[slots] = min(row[slots], rest[left] + share * numbers.mode_s[mode])


@numba.njit(cache=True)
def _groups(
    table: Any,
    inside: Any,
    numbers: Any,
    roads: Any,
    weight: float,
    road: int,
    held: int,
    begin: int,
) -> None:
    row, count = table[road, held, begin], numbers.forward_s.shape[0]
    need, own = -(1 << 60), numbers.group_own
    leaving = roads.down[road - 1 - count] if road > count else 0
    share = weight if 1 <= road <= count else 1.0
    back = roads.up[road - 1] if 1 <= road <= count else 0
    for last in range(begin, numbers.reach[begin] + 1):
        working = numbers.unsaved_first[last] if last == begin else numbers.unsaved_next[last]
        need, taken = max(need, working), numbers.group_taken[last]
        within = inside[inside.shape[0] - 1, begin, last]
        rest = table[road, 0, last + 1]
        for slots in range(max(0, need + leaving, taken, own), row.shape[0]):
            row[slots] = min(row[slots], rest[slots - taken] + share * within[slots - own])
        if road <= count and held == 0 and roads.may_leave[begin]:
            waits = stall_s(roads, weight, road - 1, begin, last)
            first, rest = max(need - back, own), table[1 + begin, 0, last + 1]
            _leave(row, within, rest, first, own, taken - back, share, waits)
            waits += roads.transfer_s[begin] + max(
                0.0, roads.transfer_s[begin] - roads.forward_s[count] + roads.forward_s[begin]
            )
            rest, freed = table[1 + count + begin, 0, last + 1], back + roads.up[begin]
            _leave(row, within, rest, first, own, taken - freed, share, waits)


@numba.njit(cache=True)
def _leave(
    row: Any,
    within: Any,
    rest: Any,
    first: int,
    own: int,
    taken: int,
    share: float,
    waits: float,
) -> None:
    for slots in range(max(0, first, taken), row.shape[0]):
        left = min(slots - taken, row.shape[0] - 1)
        row[slots] = min(row[slots], rest[left] + share * within[slots - own] + waits)


@numba.njit(cache=True)
def stall_s(roads: Any, weight: float, earlier: int, begin: int, last: int) -> float:
    """The least wait when boundary ``begin`` leaves and comes, for the ``earlier`` one (−1: none).

    In forward it is known. In backward, the transfer of the earlier one overlaps with repeated work
    R beside at most B of backward: R + wait = max(R, x − B) ≥ weight · R + (1 − weight) · (x − B).
    """
    if earlier < 0:
        return 0.0
    transfer_s = roads.transfer_s[earlier]
    out = max(0.0, transfer_s - roads.forward_s[begin] + roads.forward_s[earlier])
    beside = roads.backward_s[last + 1] - roads.backward_s[earlier + 1]
    return float(out + (1.0 - weight) * max(0.0, transfer_s - beside))


def empty(planes: int, blocks: int, slots: int) -> Any:
    """A table in which nothing fits yet; single precision where it would be large."""
    dtype = np.float64 if blocks <= 50 else np.float32
    return np.full((2 * blocks + 1, planes, blocks + 1, slots + 1), np.inf, dtype=dtype)
