"""``python -m bench clusters``: where does FSDP alone fit, and where is checkpointing needed?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.store import clusters as studies
from bench.store.json_store import RESULTS

if TYPE_CHECKING:
    from bench.store.clusters import Rank


def clusters(
    device: Annotated[str, typer.Option(help="Simulated.")] = "sim:h100-80gb",
    ranks: Annotated[list[int] | None, typer.Option(help="Sizes of clusters.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Even what is stored.")] = False,
    results: Annotated[
        Path, typer.Option("--results", help="The folder to store the study in.")
    ] = RESULTS,
) -> None:
    """Simulate a rank of clusters of several sizes, without and with checkpointing; store it.

    Takes some ten minutes; interrupted, it resumes where it stopped. `tables` makes the table and
    the figure.
    """
    if any(count < 2 for count in ranks or ()):
        raise ValueError(f"a cluster has at least 2 ranks, not {min(ranks or [])}")
    from bench.studies import clusters as bench

    known = [one for one in studies.read_all(results) if one.device == device and not again]
    points = [point for one in known for point in one.points]

    def said(one: Rank) -> None:
        typer.echo(line(one), err=True)

    for study in bench.studies(device, ranks or bench.RANKS, points, said):
        path = studies.write(study, results)
    typer.echo(f"wrote {path}")


def line(one: Rank) -> str:
    """One rank, for the person who waits."""
    fits = "fits" if one.fits else "does not fit"
    return (
        f"{one.workload}, {one.ranks} ranks, {one.spec}: reserves"
        f" {one.reserved_bytes / 1e9:.1f} GB, {fits}; {one.modelled_step_s:.2f} s a step (modelled)"
    )
