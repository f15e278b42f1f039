"""``python -m bench coverage``: how often do the intervals of a step ratio hold the true one?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.store import coverage as studies
from bench.store.json_store import RESULTS

if TYPE_CHECKING:
    from bench.store.coverage import Case

SAMPLES = 40_000


def coverage(
    samples: Annotated[int, typer.Option(help="Of each kind of noise and number of rounds.")] = (
        SAMPLES
    ),
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    results: Annotated[
        Path, typer.Option("--results", help="The folder to store the study in.")
    ] = RESULTS,
) -> None:
    """Simulate noisy rounds and count how often intervals hold the true ratio; store the counts.

    Takes some minutes. `tables` makes the table and the figure.
    """
    if not 1 <= samples <= 10**7:
        raise ValueError(f"coverage takes 1 to 10,000,000 samples, not {samples}")
    if seed < 0:
        raise ValueError(f"a seed is at least 0, not {seed}")
    from bench.studies import coverage as bench

    study = bench.study(samples, seed, lambda case: typer.echo(line(case, samples), err=True))
    typer.echo(f"wrote {studies.write(study, results)}")


def line(case: Case, samples: int) -> str:
    """One case, for the person who waits."""
    interval, bootstrap = (
        f"{100 * method.covered / samples:.1f} %" for method in (case.interval, case.bootstrap)
    )
    return f"{case.noise}, {case.rounds} rounds: {interval}; bootstrap {bootstrap}"
