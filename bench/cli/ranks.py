"""``run`` over several ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.flags import Format, RunFormat
from bench.cli.printing import print_records, print_rows, settled
from bench.cli.progress import reporter
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.cells.cell import Cell

_STARTED = "TORCHELASTIC_RUN_ID"  # is set by torchrun


def fields(ranks: int | None, parallel: str) -> dict[str, Any]:
    """Of a `bench.cells.cell.Cell`; none, where one process is asked for.

    Raises:
        ValueError: another number of ranks than torchrun has started.
    """
    started = int(os.environ["WORLD_SIZE"]) if _STARTED in os.environ else None
    if ranks is None and started is None and not parallel:
        return {}
    if started is not None and ranks not in {None, started}:
        raise ValueError(f"torchrun has started {started} ranks, so --ranks is not {ranks}")
    count = started if ranks is None else ranks
    return {"ranks": 1 if count is None else count, "parallel": parallel or "fsdp2"}


def run(
    cells: Sequence[Cell], timeout_s: float, results: Path | None, output: RunFormat
) -> list[Record]:
    """Measure each on its ranks, and print a line a cell; under torchrun, on rank 0.

    Args:
        cells: with ranks.
        timeout_s: for one of them.
        results: to store records in, and to take them from; or not.
        output: ``json`` prints the records of all ranks, too.

    Returns:
        A record a cell, of all its ranks together; nothing on other ranks than the first.
    """
    from bench.ranks import launch, stored

    torchrun = _STARTED in os.environ
    first = not torchrun or os.environ["RANK"] == "0"
    cells = [launch.checked(cell) for cell in cells]
    measure = launch.run_as_rank if torchrun else launch.run
    together: list[Record] = []
    with reporter(len(cells)) as progress:
        for number, cell in enumerate(cells, 1):
            records = stored.run(cell, timeout_s, results, measure)
            if not first:
                continue
            together.append(records[0])
            progress(number, len(cells), records[0])
            if output is RunFormat.json:
                print_records(records, Format.json)
    if first and output is not RunFormat.json:
        _show(together, output)
    return together


def _show(together: Sequence[Record], output: RunFormat) -> None:
    from bench.report import shared

    printed = Format.csv if settled(output) is RunFormat.csv else Format.md
    print_rows([shared.row(record) for record in together], printed)
