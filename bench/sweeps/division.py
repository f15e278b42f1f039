"""Which cells of a suite go into which job. Every machine that divides a suite divides it alike."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence

from bench.cells.cell import Cell


class Part(enum.StrEnum):
    """What a job's cells need: they differ in what may go on beside them."""

    timed = "timed"
    measured = "measured"
    simulated = "simulated"


def part_of(cell: Cell) -> Part:
    """The part of the suite that a cell belongs to."""
    if cell.simulated:
        return Part.simulated
    return Part.timed if cell.rounds else Part.measured


def divided(cells: Sequence[Cell], part: Part, jobs: int) -> list[list[Cell]]:
    """The cells of one part by job; no job is empty.

    Timed cells of one table stay together: seconds that stand side by side are of one machine.

    Args:
        cells: of the suite, in its order.
        part: whose cells are wanted.
        jobs: at most so many.
    """
    groups: dict[Hashable, list[Cell]] = {}
    for place, cell in enumerate(cells):
        if part_of(cell) is part:
            table = (cell.workload, cell.precision, cell.optimizer)
            groups.setdefault(table if part is Part.timed else place, []).append(cell)
    shares: list[list[Cell]] = [[] for _ in range(min(jobs, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return [share for share in shares if share]
