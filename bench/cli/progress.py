"""Progress on stderr: a bar with remaining time in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.store.records import Record

if TYPE_CHECKING:
    from bench.run.sweep import Report


@contextlib.contextmanager
def reporter(total: int) -> Iterator[Report]:
    """A function to call with (done, total, newest record)."""
    if not sys.stderr.isatty():
        yield print_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("cells", total=total)

        def report(done: int, total: int, record: Record) -> None:
            bar.update(task, completed=done, total=total, description=describe(record))

        yield report


def print_line(done: int, total: int, record: Record) -> None:
    """One line a cell."""
    text = f"[{done}/{total}] {describe(record)}: {record.status}"
    if record.reason:
        text += f" ({record.reason})"
    print("; ".join([text, *record.notes]), file=sys.stderr, flush=True)  # noqa: T201


def describe(record: Record) -> str:
    """The cell in a few words."""
    options = record.workload_options
    shape = f" L={options['layers']}" if "layers" in options else ""
    flash = " flash" if options.get("attention") == "flash" else ""
    return f"{record.workload}{shape}{flash} {record.spec}"
