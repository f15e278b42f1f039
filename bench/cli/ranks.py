"""``run`` over several ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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
    return {"ranks": started or ranks or 1, "parallel": parallel or "fsdp2"}


def run(cells: Sequence[Cell], timeout_s: float, results: Path | None, output: RunFormat) -> None:
    """Measure each on its ranks, and print a line a cell; under torchrun, on rank 0.

    Args:
        cells: with ranks.
        timeout_s: for one of them.
        results: to store records in, and to take them from; or not.
        output: ``json`` prints the records of all ranks, too.
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
    if first:
        finish(together, output)


def finish(together: Sequence[Record], output: RunFormat) -> None:
    """Print the rows, and exit 1 if a cell failed in a way that is no answer."""
    from bench.cli.measure import finish as exit_code
    from bench.report import shared

    if output is not RunFormat.json:
        printed = settled(output)
        rows = [shared.row(record) for record in together]
        print_rows(rows, Format.csv if printed is RunFormat.csv else Format.md)
    for record in together:
        if record.reason:
            typer.echo(f"{record.spec}: {record.status}: {record.reason}", err=True)
    exit_code(together)
