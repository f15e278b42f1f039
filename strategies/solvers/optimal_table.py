"""The table of `strategies.solvers.optimal`, compiled. Imported on first use: numba takes a second.

``table[h, rows[s, t], m]`` is the least time to repeat for blocks s … t with m slots of memory left
above what earlier blocks hold and what is alive by the position of t; h = 1 if somebody else holds
boundary s. Rows are shared: see `optimal_stretches`. The recurrences: see `optimal`.

Nearly all of the work is in `_groups`, loops over rows and blocks around one over slots. Its result
does not depend on h, so that it is done once for both; and what it reads lies side by side in
memory, so that the loop over slots runs at the processor's full width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MOST_BYTES = 256_000_000
"""Of a table in double precision."""


@numba.njit(cache=True)
def fill(table: Any, numbers: Any) -> None:
    """Fill ``table``, shortest stretches first.

    Args:
        table: [planes, rows, slots + 1], of any content.
        numbers: an `optimal_numbers.Numbers`.
    """
    groups = np.empty(table.shape[2], table.dtype)
    for number in range(numbers.firsts.shape[0]):
        begin, end = numbers.firsts[number]
        groups[:] = np.inf
        if begin < end:
            _groups(groups, table, numbers, begin, end)
        for held in range(table.shape[0]):
            table[held, numbers.rows[begin, end]] = groups
            if begin == end:
                _last(table, numbers, held, begin)
            else:
                _bare(table, numbers, held, begin, end)


@numba.njit(cache=True)
def _last(table: Any, numbers: Any, held: int, at: int) -> None:
    row = table[held, numbers.rows[at, at]]
    cost = 0.0 if at == numbers.forward_s.shape[0] else numbers.last_s[at]
    for slots in range(max(0, numbers.last_need[held, at]), row.shape[0]):
        row[slots] = cost


@numba.njit(cache=True)
def _bare(table: Any, numbers: Any, held: int, begin: int, end: int) -> None:
    row = table[held, numbers.rows[begin, end]]
    top = end == numbers.forward_s.shape[0]
    repeated = 0.0 if top else numbers.forward_s[begin]
    modes = numbers.mode_begin[begin + 1] if top else numbers.mode_begin[begin] + 1
    for mode in range(numbers.mode_begin[begin], modes):
        need = max(numbers.mode_forward[mode], backward_need(numbers, held, mode, begin, end))
        taken = numbers.mode_taken[held, mode]
        plane = min(numbers.mode_holds[mode], table.shape[0] - 1)
        rest = table[plane, numbers.rows[begin + 1, end]]
        for slots in range(max(0, need, taken), row.shape[0]):
            left = min(slots - taken, row.shape[0] - 1)
            row[slots] = min(row[slots], rest[left] + repeated + numbers.mode_s[mode])


@numba.njit(cache=True)
def backward_need(numbers: Any, held: int, mode: int, begin: int, end: int) -> int:
    """Slots for backward of block ``begin`` above what is alive by position at ``end``."""
    behind_bytes = numbers.around_bytes[begin] - numbers.around_bytes[end]
    need_bytes = numbers.mode_backward_bytes[held, mode] + behind_bytes
    return int(need_bytes // numbers.slot_bytes)


@numba.njit(cache=True)
def inside_less(numbers: Any, last: int, end: int) -> int:
    """What a group that ends at ``last`` has less inside than a stretch that ends at ``end``.

    That is what it keeps besides its input, and what more is alive by its position. It is below
    zero where boundaries shrink.
    """
    behind_bytes = numbers.around_bytes[last] - numbers.around_bytes[end]
    return int((numbers.group_own_bytes + behind_bytes) // numbers.slot_bytes)


@numba.njit(cache=True)
def _groups(row: Any, table: Any, numbers: Any, begin: int, end: int) -> None:
    """The cheapest group begin … last for every number of slots, with the rest behind it."""
    width, blocks, inner = row.shape[0], numbers.forward_s.shape[0], table.shape[0] - 1
    need, repeated = 0, 0.0
    for last in range(begin, min(end, numbers.reach[begin] + 1)):
        working = numbers.unsaved_first[last] if last == begin else numbers.unsaved_next[last]
        need = max(need, working)
        if end < blocks:
            repeated += numbers.forward_s[last]
        taken, less = numbers.group_taken[last], inside_less(numbers, last, end)
        first = max(need, taken, less)
        if first >= width:
            continue
        rest = table[0, numbers.rows[last + 1, end], first - taken : width - taken]
        inside = table[inner, numbers.rows[begin, last]]
        stop = min(width, width + less)
        if first < stop:
            _lower(row[first:stop], rest, inside[first - less : stop - less], repeated)
        for slots in range(max(first, stop), width):  # more room inside than there is at all
            row[slots] = min(row[slots], rest[slots - first] + inside[width - 1] + repeated)


@numba.njit(cache=True)
def _lower(row: Any, rest: Any, inside: Any, repeated: float) -> None:
    again = row.dtype.type(repeated)
    for slots in range(row.shape[0]):
        cost = rest[slots] + inside[slots] + again
        if cost < row[slots]:  # noqa: PLR1730 - `min` minds NaN, and is slower
            row[slots] = cost


def empty(planes: int, rows: int, slots: int) -> Any:
    """A table to fill; single precision where it would be large."""
    shape = (planes, rows, slots + 1)
    double = planes * rows * (slots + 1) * np.dtype(np.float64).itemsize <= MOST_BYTES
    return np.empty(shape, dtype=np.float64 if double else np.float32)
