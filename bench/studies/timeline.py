"""Memory over one step of a cell, moment by moment: where is the peak, and what makes it up?

Where the answer comes from: `bench.studies.timeline_simulated`, `bench.studies.timeline_real`.
"""

from __future__ import annotations

from bench.cells.cell import Cell
from bench.studies.timeline_parts import Profile
from bench.studies.timeline_real import profile_real
from bench.studies.timeline_simulated import profile_simulated


def profile_cell(cell: Cell) -> Profile:
    """Profile one step of ``cell`` in this process.

    Args:
        cell: checked; on the CPU or simulated.

    Raises:
        ValueError: another device, or a model that the strategy or the simulation refuses.
    """
    if cell.simulated:
        return profile_simulated(cell)
    if cell.device != "cpu":
        raise ValueError(f"profile takes cpu or a simulated device, not {cell.device}")
    return profile_real(cell)
