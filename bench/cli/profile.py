"""``python -m bench profile``: one step's memory as picture, data and a paragraph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench.cli import flags
from bench.cli.flags import TextFormat
from bench.store.json_store import check_writable


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

    Files go to --out, and what `report` shows to --results. With --chain:
    bytes, FLOPs and time of every block, in every mode; equal blocks in one row. Times are measured
    on a real device and modelled on a simulated one.
    """
    if out is None and results is None and not chain:
        raise ValueError("profile needs --out FOLDER for its files, --results FOLDER or --chain")
    from bench.cells.cell import with_parameters
    from bench.cli.profiled import Question, answer
    from bench.run import guarded

    [spec] = with_parameters([strategy], flags.pairs(parameters, "--set"))
    cell = setup.cell(workload, device, spec, rounds=0)
    if results is not None and not chain:
        check_writable(results)
    question = Question(
        cell=cell,
        output=output,
        chain=chain,
        measured=not modelled,
        out=None if out is None else str(out),
        results=None if results is None else str(results),
    )
    typer.echo(guarded.answer(answer, msgspec.json.encode(question), cell).decode())
