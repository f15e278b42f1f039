"""The table of `strategies.solvers.rotor`, compiled. Imported on first use: numba takes a second.

``table[h, s, t, m]`` is the least time to repeat for blocks s … t with m slots of memory left above
what earlier blocks hold; h = 1 if somebody else holds boundary s. See `rotor` for the recurrences.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)
def fill(table: Any, numbers: Any) -> None:
    """Fill ``table``, shortest stretches first.

    Args:
        table: [planes, L + 1, L + 1, slots + 1], infinite everywhere.
        numbers: a `rotor.Numbers`.
    """
    blocks = numbers.forward_s.shape[0]
    for end in range(blocks + 1):
        for begin in range(end, -1, -1):
            for held in range(table.shape[0]):
                if begin == end:
                    _last(table, numbers, held, begin)
                else:
                    _bare(table, numbers, held, begin, end)
                    _groups(table, numbers, held, begin, end)


@numba.njit(cache=True)
def _last(table: Any, numbers: Any, held: int, at: int) -> None:
    row = table[held, at, at]
    cost = 0.0 if at == numbers.forward_s.shape[0] else numbers.last_s[at]
    for slots in range(max(0, numbers.last_need[held, at]), row.shape[0]):
        row[slots] = cost


@numba.njit(cache=True)
def _bare(table: Any, numbers: Any, held: int, begin: int, end: int) -> None:
    row = table[held, begin, end]
    top = end == numbers.forward_s.shape[0]
    repeated = 0.0 if top else numbers.forward_s[begin]
    modes = numbers.mode_begin[begin + 1] if top else numbers.mode_begin[begin] + 1
    for mode in range(numbers.mode_begin[begin], modes):
        need = max(
            numbers.around[end] + numbers.mode_forward[mode], numbers.mode_backward[held, mode]
        )
        taken = numbers.mode_taken[held, mode]
        plane = min(numbers.mode_holds[mode], table.shape[0] - 1)
        rest = table[plane, begin + 1, end]
        first = max(0, need, taken)
        for slots in range(first, row.shape[0]):
            left = min(slots - taken, row.shape[0] - 1)
            row[slots] = min(row[slots], rest[left] + repeated + numbers.mode_s[mode])


@numba.njit(cache=True)
def _groups(table: Any, numbers: Any, held: int, begin: int, end: int) -> None:
    row, blocks = table[held, begin, end], numbers.forward_s.shape[0]
    need, repeated = -(1 << 60), 0.0
    inside_plane = table.shape[0] - 1
    for last in range(begin, min(end, numbers.reach[begin] + 1)):
        working = numbers.unsaved_first[last] if last == begin else numbers.unsaved_next[last]
        need = max(need, working)
        if end < blocks:
            repeated += numbers.forward_s[last]
        taken, own = numbers.group_taken[last], numbers.group_own
        rest, inside = table[0, last + 1, end], table[inside_plane, begin, last]
        first = max(0, need + numbers.around[end], taken, own)
        for slots in range(first, row.shape[0]):
            cost = rest[slots - taken] + inside[slots - own] + repeated
            row[slots] = min(row[slots], cost)


def empty(planes: int, blocks: int, slots: int) -> Any:
    """A table in which nothing fits yet; single precision where it would be large."""
    dtype = np.float64 if blocks <= 200 else np.float32
    return np.full((planes, blocks + 1, blocks + 1, slots + 1), np.inf, dtype=dtype)
