"""The table of `strategies.solvers.optimal`: plain numpy, and compiled where there is much to fill.

``table[h, rows[s, t], m]`` is the least time to repeat for blocks s … t with m slots of memory left
above what earlier blocks hold and what is alive by the position of t; h = 1 if somebody else holds
boundary s. Rows are shared: see `optimal_stretches`. The recurrences: see `optimal`.

Nearly all of the work is in `_groups`, loops over rows and blocks around one over slots. Its result
does not depend on h, so that it is done once for both; and what it reads lies side by side in
memory, so that the loop over slots runs at the processor's full width. Numba, which compiles it,
takes a second and 100 MB to come, so that a short chain is filled without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

MOST_BYTES = 256_000_000
"""Of a table in double precision."""
PLAIN_WORK = 5_000
"""Choices for each slot (`optimal_stretches.Stretches.work`) that are tried without a compiler."""


def filling(work: int) -> Callable[[Any, Any], None]:
    """`fill`, compiled if there are so many choices that it pays."""
    return fill if work <= PLAIN_WORK else compiled()


@functools.cache
def compiled() -> Callable[[Any, Any], None]:
    """`fill`, by numba."""
    import numba  # noqa: PLC0415 - see above
    from numba.extending import register_jitable  # noqa: PLC0415 - as above

    for function in (_last, _bare, _backward_need, inside_less, _groups, _lower):
        register_jitable(function)
    filled: Callable[[Any, Any], None] = numba.njit(cache=True)(fill)
    return filled


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


def _last(table: Any, numbers: Any, held: int, at: int) -> None:
    row = table[held, numbers.rows[at, at]]
    cost = 0.0 if at == numbers.forward_s.shape[0] else numbers.last_s[at]
    row[max(0, numbers.last_need[held, at]) :] = cost


def _bare(table: Any, numbers: Any, held: int, begin: int, end: int) -> None:
    row, width = table[held, numbers.rows[begin, end]], table.shape[2]
    top = end == numbers.forward_s.shape[0]
    repeated = 0.0 if top else numbers.forward_s[begin]
    modes = numbers.mode_begin[begin + 1] if top else numbers.mode_begin[begin] + 1
    for mode in range(numbers.mode_begin[begin], modes):
        need = max(numbers.mode_forward[mode], _backward_need(numbers, held, mode, begin, end))
        taken = numbers.mode_taken[held, mode]
        plane = min(numbers.mode_holds[mode], table.shape[0] - 1)
        rest = table[plane, numbers.rows[begin + 1, end]]
        first, stop = max(0, need, taken), min(width, width + taken)
        again = row.dtype.type(repeated + numbers.mode_s[mode])
        if first < stop:
            _lower(row[first:stop], rest[first - taken : stop - taken], again)
        if max(first, stop) < width:  # it frees more than it takes
            _lower(row[max(first, stop) :], rest[width - 1 :], again)


def _backward_need(numbers: Any, held: int, mode: int, begin: int, end: int) -> int:
    """Slots for backward of block ``begin`` above what is alive by position at ``end``."""
    behind_bytes = numbers.around_bytes[begin] - numbers.around_bytes[end]
    need_bytes = numbers.mode_backward_bytes[held, mode] + behind_bytes
    return int(need_bytes // numbers.slot_bytes)


def inside_less(numbers: Any, last: int, end: int) -> int:
    """What a group that ends at ``last`` has less inside than a stretch that ends at ``end``.

    That is what it keeps besides its input, and what more is alive by its position. It is below
    zero where boundaries shrink.
    """
    behind_bytes = numbers.around_bytes[last] - numbers.around_bytes[end]
    return int((numbers.group_own_bytes + behind_bytes) // numbers.slot_bytes)


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
        again = row.dtype.type(repeated)
        if first < stop:
            own = inside[first - less : stop - less]
            _lower(row[first:stop], rest[: stop - first] + own, again)
        if max(first, stop) < width:  # more room inside than there is at all
            own = inside[width - 1 :]
            _lower(row[max(first, stop) :], rest[max(first, stop) - first :] + own, again)


def _lower(row: Any, rest: Any, again: Any) -> None:
    row[:] = np.minimum(row, rest + again)


def empty(planes: int, rows: int, slots: int) -> Any:
    """A table to fill; single precision where it would be large."""
    shape = (planes, rows, slots + 1)
    double = planes * rows * (slots + 1) * np.dtype(np.float64).itemsize <= MOST_BYTES
    return np.empty(shape, dtype=np.float64 if double else np.float32)
