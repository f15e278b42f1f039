"""``python -m bench profile``: one step's memory as picture, data and a paragraph."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags
from bench.cli.flags import TextFormat
from bench.store.json_store import check_writable, write_atomically

if TYPE_CHECKING:
    from bench.cells.cell import Cell
    from bench.store.timeline import Timeline


@flags.with_setup
def profile(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: flags.Workload,
    strategy: Annotated[str, typer.Option(help="Name, or name(parameter=value).")] = "none",
    out: Annotated[Path | None, typer.Option(help="Folder for the PNG, SVG and CSV.")] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="What each block costs, instead of a timeline.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, or a simulated one: sim:h100-80gb.")] = "cpu",
    parameters: flags.Parameters = None,
    modelled: flags.Modelled = False,
    results: Annotated[
        Path | None, typer.Option(help="Store the timeline here, for `report` to show.")
    ] = None,
    output: Annotated[TextFormat, typer.Option("--format", help="How to print.")] = TextFormat.text,
) -> None:
    """Draw the bytes over one step by category, and say where the peak is.

    Runs in this process. Files go to --out, and what `report` shows to --results. With --chain:
    bytes, FLOPs and time of every block, in every mode; equal blocks in one row. Times are measured
    on a real device and modelled on a simulated one.
    """
    if out is None and results is None and not chain:
        raise ValueError("profile needs --out FOLDER for its files, --results FOLDER or --chain")
    from bench.cells.cell import with_parameters
    from bench.run import culprit
    from bench.studies import timeline as profiling

    [spec] = with_parameters([strategy], flags.pairs(parameters, "--set"))
    cell = setup.cell(workload, device, spec, rounds=0)
    if chain:
        with culprit.named(cell):
            text = chain_text(cell, output, measured=not modelled)
        typer.echo(text)
        return
    if results is not None:
        check_writable(results)
    with culprit.named(cell):
        step_profile = profiling.profile_cell(cell)
    paths = [] if out is None else write(step_profile.timeline, out, stem(cell))
    if results is not None:
        from bench.store import timelines
        from bench.studies.timeline_stored import stored

        paths.append(timelines.write(stored(cell, step_profile.timeline), results))
    if output is TextFormat.json:
        facts = {**step_profile.facts, "files": [str(path) for path in paths]}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        typer.echo(step_profile.paragraph())


def chain_text(cell: Cell, output: TextFormat, *, measured: bool) -> str:
    """The chain profile of a cell's workload, as JSON or as a table."""
    import pandas as pd

    from bench.run import planning
    from bench.run.blank import where

    facts = dataclasses.asdict(planning.profile_cell(cell, measured=measured))
    times = planning.times_of(cell, measured=measured)
    if output is TextFormat.json:
        return json.dumps({"device": cell.device, "times": times, **facts}, indent=2)
    groups = itertools.groupby(enumerate(facts.pop("blocks")), key=lambda item: item[1])
    rows = []
    for block, members in groups:
        numbers = [index for index, _ in members]
        name = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        own = {key: value for key, value in block.items() if key != "modes"}
        rows += [{"blocks": name, "mode": m.pop("name"), **m, **own} for m in block["modes"]]
    terms = "\n".join(f"{key}: {value}" for key, value in facts.items())
    table = pd.DataFrame(rows).set_index(["blocks", "mode"]).T.to_markdown(floatfmt="g")
    head = f"{cell.workload} on {where(cell)}; times are {times}"
    return f"{head}\n\n{table}\n\n{terms}"


def stem(cell: Cell) -> str:
    """``timeline-gpt-mini-every-k-k-4-sim-h100-80gb``."""
    return "-".join(map(slug, ("timeline", cell.workload, cell.spec, cell.device)))


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(timeline: Timeline, folder: Path, name: str) -> list[Path]:
    """Picture and data, each file at once or not at all; returns where."""
    from bench.report import timeline as drawing

    files = {**drawing.render(timeline), "csv": drawing.csv(timeline).encode()}
    paths = {folder / f"{name}.{kind}": data for kind, data in files.items()}
    for path, data in paths.items():
        write_atomically(path, data)
    return list(paths)
