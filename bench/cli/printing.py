"""How commands print rows and records."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import typer

from bench.cli.flags import Format, RunFormat
from bench.store.json_store import Provenance
from bench.store.records import Record, encode_line


def print_rows(rows: Sequence[dict[str, Any]], output: Format) -> None:
    """Plain rows as JSON, CSV or Markdown."""
    import pandas as pd

    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    frame = pd.DataFrame(rows)
    if output is Format.csv:
        from bench.report import separated

        typer.echo(separated.csv(frame), nl=False)
    else:
        typer.echo(frame.map(lambda v: str(v).replace("|", "\\|")).to_markdown(index=False))


def print_records(records: Sequence[Record], output: Format) -> None:
    """Records: JSON lines, the CSV of the trade-off table, or the table itself."""
    if output is Format.json:
        for record in records:
            typer.echo(encode_line(record))
        return
    from bench.report import frame as frames
    from bench.report import tables

    frame = frames.build(records)
    if output is Format.csv:
        typer.echo(tables.tradeoff_csv(frame), nl=False)
        return
    typer.echo(tables.tradeoff(frame), nl=False)


def print_studies(
    studies: Sequence[Provenance],
    report: ModuleType,
    encode_line: Callable[[Any], str],
    output: Format,
) -> None:
    """Studies: JSON lines, or the CSV or Markdown table of their kind's report."""
    if output is Format.json:
        for study in studies:
            typer.echo(encode_line(study))
    else:
        text = report.csv(studies) if output is Format.csv else report.markdown(studies)
        typer.echo(text, nl=False)


def settled(output: RunFormat) -> RunFormat:
    """The format that ``auto`` stands for here."""
    if output is not RunFormat.auto:
        return output
    return RunFormat.table if sys.stdout.isatty() else RunFormat.md


def show(records: Sequence[Record], output: RunFormat, fit: str = "") -> None:
    """The trade-off table; of a search for what fits, one line a strategy."""
    output = settled(output)
    if not fit and output is RunFormat.table:
        from rich.console import Console

        from bench.cli import terminal

        terminal.print_table(records, Console())
        return
    printed = Format.md if output is RunFormat.table else Format(output.value)
    if not fit:
        print_records(records, printed)
        return
    rows = [
        {
            "strategy": record.spec,
            f"largest {fit}": record.workload_options[fit] if record.status == "ok" else 0,
            "peak_allocated_bytes": record.peak_allocated_bytes,
            "peak_reserved_bytes": record.peak_reserved_bytes,
            "modelled_step_s": record.modelled_step_s,
            "status": record.status,
            "reason": record.reason or "",
        }
        for record in records
    ]
    print_rows(rows, printed)


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
