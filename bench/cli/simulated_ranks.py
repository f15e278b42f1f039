"""``run`` over simulated ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.cli.flags import Format, RunFormat
from bench.cli.printing import print_records, print_rows, settled
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.cells.cell import Cell


def own_batches(cell: Cell, *, given: bool) -> Cell:
    """The cell as it is, or where no batch is given, with the workload's own on each rank."""
    from bench.ranks.simulated_plan import on_ranks

    return cell if given else on_ranks(cell, cell.ranks)


def run(cells: Sequence[Cell], results: Path | None, output: RunFormat) -> list[Record]:
    """Simulate a rank of each, and print a line a cell; the records.

    Args:
        cells: with ranks, on simulated devices.
        results: to store records in, or not.
        output: how to print.
    """
    from bench.ranks.simulated_record import simulate
    from bench.store.ranks import STORE

    records = []
    for cell in cells:
        records.append(simulate(cell))
        if results:
            STORE.write(records[-1], results)
    if output is RunFormat.json:
        print_records(records, Format.json)
    else:
        printed = settled(output)
        form = Format.csv if printed is RunFormat.csv else Format.md
        print_rows([row(record) for record in records], form)
    for record in records:
        if record.reason:
            typer.echo(f"{record.spec}: {record.status}: {record.reason}", err=True)
    return records


def row(record: Record) -> dict[str, Any]:
    """A simulated rank, in units for people; all is modelled."""
    return {
        "workload": record.workload,
        "strategy": record.spec,
        "ranks": record.ranks,
        "parallel": record.parallel,
        "status": record.status,
        "reserved GB": _of(record.steady_reserved_bytes, 1e9),
        "peak GB": _of(record.peak_allocated_bytes, 1e9),
        "peak is": ", ".join(
            f"{name} {size / 1e9:.1f}"
            for name, size in sorted(record.peak_by_category.items(), key=lambda one: -one[1])[:4]
        ),
        "step s": _of(record.modelled_step_s),
        "waiting s": _of(record.modelled_exposed_s),
        "talked GB": ", ".join(
            f"{kind} {size / 1e9:.1f}" for kind, size in record.communication_bytes.items()
        ),
    }


def _of(value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:.3g}"
