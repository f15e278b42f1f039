"""``python -m bench profile``: one step's memory as picture, data and a paragraph."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import flags, records

if TYPE_CHECKING:
    from bench.cells import Cell
    from bench.report.timeline import Timeline


class Format(enum.StrEnum):
    """How to print."""

    text = "text"
    json = "json"


def profile(  # noqa: PLR0917 - one parameter a flag
    workload: flags.Workload,
    strategy: Annotated[str, typer.Option(help="Name, or name(parameter=value).")],
    out: Annotated[Path, typer.Option(help="Folder for the PNG, SVG and CSV.")],
    device: Annotated[str, typer.Option(help="cpu, or a simulated one: sim:h100-80gb.")] = "cpu",
    parameters: flags.Parameters = None,
    options: flags.Options = None,
    layers: flags.Layers = None,
    seq: flags.Seq = None,
    batch: flags.Batch = None,
    dim: flags.Dim = None,
    precision: flags.Precision = "fp32",
    optimizer: flags.Optimizer = "none",
    seed: flags.Seed = 0,
    custom: flags.Custom = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.text,
) -> None:
    """Draw the bytes over one step by category, and say where the peak is.

    Runs in this process. Nothing is stored but the files under --out.
    """
    from bench import cells, profiling  # noqa: PLC0415 - imports torch

    [spec] = cells.with_parameters([strategy], flags.pairs(parameters, "--set"))
    cell = cells.checked(
        cells.Cell(
            workload=workload,
            options=flags.workload_options(options, layers=layers, seq=seq, batch=batch, dim=dim),
            spec=spec,
            device=flags.device_name(device, flags.pairs(custom, "--sim")),
            precision=precision,
            optimizer=optimizer,
            rounds=0,
            seed=seed,
        )
    )
    made = profiling.profile_cell(cell)
    paths = write(made.timeline, out, stem(cell))
    if output is Format.json:
        facts = {**made.facts, "files": [str(path) for path in paths]}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        typer.echo(made.paragraph())


def stem(cell: Cell) -> str:
    """``timeline-gpt-mini-every-k-k-4-sim-h100-80gb``."""
    return "-".join(
        re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        for text in ("timeline", cell.workload, cell.spec, cell.device)
    )


def write(timeline: Timeline, folder: Path, name: str) -> list[Path]:
    """Picture and data, each file at once or not at all; returns where."""
    from bench.report import timeline as drawing  # noqa: PLC0415 - imports matplotlib

    files = {**drawing.render(timeline), "csv": drawing.csv(timeline).encode()}
    paths = {folder / f"{name}.{kind}": data for kind, data in files.items()}
    for path, data in paths.items():
        records.write_atomically(path, data)
    return list(paths)
