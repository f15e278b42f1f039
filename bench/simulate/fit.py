"""The largest batch, or sequence, that fits a simulated device.

Two small steps tell how every storage grows, and that says which size should be the largest. It is
then traced: if every storage is as large as was told, so are those of the next size, which is too
large. If not, there are three steps to tell it by; and if that does not do, or kernels' scratch
memory, which is not told, is too much for it, sizes around it are traced until two neighbours are
known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.simulate.grown import Growth
from bench.simulate.record import missing_bytes
from bench.simulate.steps import Steps
from bench.simulate.trace import Trace
from strategies.profiling.free_blocks import GRANULE_BYTES

Axis = Literal["batch", "seq"]

# A sequence is searched in steps that tensor cores like; a batch in ones.
STEP: dict[str, int] = {"batch": 1, "seq": 64}
LIMIT = 2**20
SAMPLES, MOST_SAMPLES = 2, 3
"""Steps that tell how storages grow: with a sequence at most with its square, as scores do."""


def largest(
    cell: Cell, axis: Axis, room_bytes: int | None = None, steps: Steps | None = None
) -> Cell | None:
    """The cell with the largest ``axis`` that fits its simulated device.

    Args:
        cell: checked, simulated.
        axis: ``batch`` or ``seq``, the latter in multiples of 64.
        room_bytes: that the peak may take besides; default: all that the device has.
        steps: that other searches share.

    Returns:
        The cell with that option set; ``None`` if even the smallest does not fit.

    Raises:
        ValueError: the workload has no such option, or the device is real.
        strategies.Unsupported: the strategy cannot run on this workload.
    """
    check(cell, axis)
    device, shared = accelerators.get(cell.device), steps or Steps()
    most_bytes = device.memory_bytes if room_bytes is None else room_bytes

    def fitting(recorded: Trace) -> bool:
        within = max(recorded.alive_bytes(GRANULE_BYTES)) <= most_bytes
        workspaces = recorded.workspaces(device)
        return within and not missing_bytes(recorded, device.memory_bytes, workspaces)

    def expected(growth: Growth, limit: int) -> int:
        told = growth.those(fitting)

        def fits(count: int) -> bool:  # the allocator, which takes long, is asked last
            return growth.peak_bytes(count, GRANULE_BYTES) <= most_bytes and told(count)

        return bisect(fits, limit)

    @functools.cache
    def traced(count: int) -> Trace:
        return shared.simulate(sized(cell, axis, count * STEP[axis])).trace

    first, limit = _first(cell, axis), LIMIT // STEP[axis]
    most_steps = _most(traced, fitting, expected, range(first, first + SAMPLES), limit)
    return sized(cell, axis, most_steps * STEP[axis]) if most_steps else None


def _first(cell: Cell, axis: Axis) -> int:
    """Not one, whose tensors need no copies; where positions are learned, all that there are."""
    learned = cell.make_workload().options().get("positions") if axis == "seq" else None
    positions: int = learned or 0
    return max(2, -(-positions // STEP[axis]))


def _most(
    traced: Callable[[int], Trace],
    fitting: Callable[[Trace], bool],
    told: Callable[[Growth, int], int],
    samples: Sequence[int],
    limit: int,
) -> int:
    known, expected = list(samples), 0
    while len(known) <= MOST_SAMPLES:
        growth = Growth.of({steps: traced(steps) for steps in known})
        if growth is None:
            break
        expected = told(growth, limit)
        if expected == 0 or expected in known:
            break
        if growth.tells(expected, traced(expected)) and fitting(traced(expected)):
            return expected  # the next is too large even without kernels' scratch memory
        known.append(expected)
    return around(max(1, expected), lambda steps: fitting(traced(steps)), limit)


def check(cell: Cell, axis: Axis) -> None:
    """Refuse what cannot be searched.

    Raises:
        ValueError: the workload has no such option, or the device is real.
    """
    if not cell.simulated:
        raise ValueError(f"what fits is searched on simulated devices only, not on {cell.device}")
    if axis not in cell.make_workload().option_names():
        raise ValueError(f"workload {cell.workload!r} has no option {axis!r}")


def sized(cell: Cell, axis: Axis, value: int) -> Cell:
    """The cell with one size set; learned positions grow with the sequence."""
    options = {**cell.options, axis: value}
    positions = cell.make_workload().options().get("positions") or value
    if axis == "seq" and positions < value:
        options["positions"] = value
    return msgspec.structs.replace(cell, options=options)


def around(expected: int, fits: Callable[[int], bool], limit: int) -> int:
    """What `bisect` answers, in two calls of ``fits`` where ``expected`` is right."""
    low, high, width = 0, limit + 1, 1
    middle = min(max(expected, 1), limit)
    while high - low > 1:
        if fits(middle):
            low = middle
            middle = min(low + width, high - 1) if high > limit else (low + high) // 2
        else:
            high = middle
            middle = max(high - width, low + 1) if low == 0 else (low + high) // 2
        width *= 2
    return low


def bisect(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n ≤ ``limit`` with ``fits(n)``, 0 if not even 1 does.

    Assumes that whatever fits, smaller fits too. Calls ``fits`` about 2·log₂ n times.
    """
    return around(1, fits, limit)
