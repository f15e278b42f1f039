"""``python -m bench solvers``: what finding a plan costs, against the number of blocks."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.store import solvers as solver_records
from bench.store.json_store import RESULTS, check_writable

if TYPE_CHECKING:
    from bench.store.solvers import Timing


def solvers(
    most_blocks: Annotated[int, typer.Option(help="Length of the longest chain.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the synthetic chains.")] = 0,
    results: Annotated[
        Path, typer.Option("--results", help="The folder to store the study in.")
    ] = RESULTS,
) -> None:
    """Time the solvers on synthetic chains of unlike blocks, and store the raw seconds.

    Takes some minutes for 1,000 blocks. `tables` makes the table and the figure.
    """
    from bench.studies import solvers as solver_study

    check_writable(results)
    study = solver_study.study(most_blocks, seed, lambda t: typer.echo(line(t), err=True))
    typer.echo(f"wrote {solver_records.write(study, results)}")


def line(timing: Timing) -> str:
    """One case, for the person who waits."""
    slots = f", {timing.slots:,} slots" if timing.slots else ""
    median_s = statistics.median(timing.solve_s)
    return f"{timing.solver}: {timing.blocks:,} blocks{slots}: {median_s:.3g} s"
