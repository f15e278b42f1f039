"""The table of `strategies.solvers.optimal`, compiled. Imported on first use: numba takes a second.

``table[h, s, t, m]`` is the least time to repeat for blocks s … t with m slots of memory left above
what earlier blocks hold; h = 1 if somebody else holds boundary s. The recurrences: see `optimal`.

Nearly all of the work is in `_groups`, three loops over blocks around one over slots. Its result
does not depend on h, so that it is done once for both; and what it reads lies side by side in
memory, so that the loop over slots runs at the processor's full width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)
def fill(table: Any, numbers: Any) -> None:
    """Fill ``table``, shortest stretches first.

    Args:
        table: [planes, L + 1, L + 1, slots + 1], of any content; what is below its diagonal stays.
        numbers: an `optimal_numbers.Numbers`.
    """
    planes, blocks, width = table.shape[0], numbers.forward_s.shape[0], table.shape[3]
    behind = np.empty((blocks + 1, width), table.dtype)  # table[0, :, end], side by side
    groups = np.empty(width, table.dtype)
    for end in range(blocks + 1):
        for begin in range(end, -1, -1):
            groups[:] = np.inf
            if begin < end:
                _groups((groups, table[planes - 1, begin], behind), numbers, begin, end)
            for held in range(planes):
                table[held, begin, end] = groups
                if begin == end:
                    _last(table, numbers, held, begin)
                else:
                    _bare(table, numbers, held, begin, end)
            behind[begin] = table[0, begin, end]


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
def _groups(rows: Any, numbers: Any, begin: int, end: int) -> None:
    """The cheapest group begin … last for every number of slots, with the rest behind it.

    Args:
        rows: ``row`` [slots + 1], which is lowered; ``inside`` [L + 1, slots + 1], the table's
            value of begin … last; ``behind`` [L + 1, slots + 1], that of last + 1 … end.
        numbers: an `optimal_numbers.Numbers`.
        begin: s.
        end: t.
    """
    row, inside, behind = rows
    width, blocks = row.shape[0], numbers.forward_s.shape[0]
    need, repeated = -(1 << 60), 0.0
    for last in range(begin, min(end, numbers.reach[begin] + 1)):
        working = numbers.unsaved_first[last] if last == begin else numbers.unsaved_next[last]
        need = max(need, working)
        if end < blocks:
            repeated += numbers.forward_s[last]
        taken, own = numbers.group_taken[last], numbers.group_own
        first = max(0, need + numbers.around[end], taken, own)
        if first < width:
            rest = behind[last + 1, first - taken : width - taken]
            _lower(row[first:], rest, inside[last, first - own : width - own], repeated)


@numba.njit(cache=True)
def _lower(row: Any, rest: Any, inside: Any, repeated: float) -> None:
    again = row.dtype.type(repeated)
    for slots in range(row.shape[0]):
        cost = rest[slots] + inside[slots] + again
        if cost < row[slots]:  # noqa: PLR1730 - `min` minds NaN, and is slower
            row[slots] = cost


def empty(planes: int, blocks: int, slots: int) -> Any:
    """A table to fill; single precision where it would be large."""
    dtype = np.float64 if blocks <= 200 else np.float32
    return np.empty((planes, blocks + 1, blocks + 1, slots + 1), dtype=dtype)
