"""Records of ranks on disk: all of a cell's, or none that is trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.cells.cell import Cell
from bench.run.blank import blank
from bench.store.ranks import STORE
from bench.store.records import Record


def run(
    cell: Cell,
    timeout_s: float,
    results: Path | None,
    measure: Callable[[Cell, float], list[Record]],
) -> list[Record]:
    """Measure a cell that has no records yet: one of all ranks together, then one of each.

    The record of all is written last, so that it is there only if the others are.

    Args:
        cell: checked.
        timeout_s: for all passes.
        results: the folder; ``None``: nothing is stored.
        measure: gives the records; nothing, on a rank that does not collect them.
    """
    records = existing(cell, results) if results else None
    if records is not None:
        return records
    records = measure(cell, timeout_s)
    if results:
        for record in [*records[1:], *records[:1]]:
            STORE.write(record, results)
    return records


def existing(cell: Cell, results: Path) -> list[Record] | None:
    """The cell's records, if all of them are there and can be trusted."""
    empty = blank(cell)
    asked = [None, *range(cell.ranks)]
    paths = [STORE.path_of(msgspec.structs.replace(empty, rank=r), results) for r in asked]
    if not all(path.is_file() for path in paths):
        return None
    found = [record for record in map(STORE.read, paths) if record is not None]
    same = all(r.cell_id == empty.cell_id for r in found)
    return found if same and [record.rank for record in found] == asked else None
