"""The largest batch, or sequence, that fits a simulated device: doubling, then bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.simulate.record import fit_in
from bench.simulate.run import trace_cell

Axis = Literal["batch", "seq"]

# A sequence is searched in steps that tensor cores like; a batch in ones.
STEP: dict[str, int] = {"batch": 1, "seq": 64}
LIMIT = 2**20


def largest(cell: Cell, axis: Axis) -> Cell | None:
    """The cell with the largest ``axis`` that fits its simulated device.

    Args:
        cell: checked, simulated.
        axis: ``batch`` or ``seq``, the latter in multiples of 64.

    Returns:
        The cell with that option set; ``None`` if even the smallest does not fit.

    Raises:
        ValueError: the workload has no such option, or the device is real.
        strategies.Unsupported: the strategy cannot run on this workload.
    """
    check(cell, axis)
    device = accelerators.get(cell.device)

    def fits(steps: int) -> bool:
        probe = sized(cell, axis, steps * STEP[axis])
        recorded = trace_cell(probe).trace
        return fit_in(recorded, device.memory_bytes, recorded.workspaces(device)).status == "ok"

    most_steps = bisect(fits, LIMIT // STEP[axis])
    return sized(cell, axis, most_steps * STEP[axis]) if most_steps else None


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
    positions = cell.make_workload().options().get("positions", value)
    if axis == "seq" and positions < value:
        options["positions"] = value
    return msgspec.structs.replace(cell, options=options)


def bisect(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n ≤ ``limit`` with ``fits(n)``, 0 if not even 1 does.

    Assumes that whatever fits, smaller fits too. Calls ``fits`` about 2·log₂ n times.
    """
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
