"""``sweep``: a whole suite, here or in jobs."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags
from bench.cli.flags import ResultsOption, RunFormat
from bench.cli.measure import finish
from bench.cli.printing import show
from bench.cli.progress import reporter
from bench.store.json_store import RESULTS, check_writable
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.sweeps.submission import Plan


class Executor(enum.StrEnum):
    """Where cells run."""

    here = "here"
    local = "local"
    slurm = "slurm"


def sweep(  # noqa: PLR0917 - one parameter a flag
    suite: Annotated[
        str,
        typer.Option(
            "--suite", "--profile", help="smoke, quick, standard, full, simulated or peers."
        ),
    ] = "quick",
    device: Annotated[str, typer.Option(help="See `list devices`; default: the accelerator.")] = "",
    timeout: flags.Timeout = 600.0,
    executor: Annotated[
        Executor, typer.Option(help="here; or in jobs, on this machine or on Slurm's.")
    ] = Executor.here,
    jobs: Annotated[
        int, typer.Option(help="At most so many of a kind; 0: as many as suit the executor.")
    ] = 0,
    minutes: Annotated[
        int, typer.Option(help="Until Slurm queues a job again; 0: what its cells take at most.")
    ] = 0,
    memory_gb: Annotated[float, typer.Option(help="Of a job on Slurm.")] = 16.0,
    cores: Annotated[int, typer.Option(help="Of a job on Slurm.")] = 2,
    gres: Annotated[str, typer.Option(help="Accelerators of a job on Slurm: gpu:1.")] = "",
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Another flag: partition=gpu; may be repeated.")
    ] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Measure a whole suite, write tables and figures, print the table.

    Interrupted, it resumes where it stopped. The README's table is written where it belongs, to
    the results that are kept with it.
    """
    from bench.report import regenerate

    if executor is Executor.here:
        records = _here(suite, device, timeout, results)
    else:
        from bench.sweeps.resources import Resources
        from bench.sweeps.submission import Cluster, Plan

        more = {k: str(v) for k, v in flags.pairs(sbatch, "--sbatch").items()}
        resources = Resources(minutes, memory_gb, cores, gres, more)
        cluster: Cluster = "slurm" if executor is Executor.slurm else "local"
        plan = Plan(suite, device, results, cluster, jobs, timeout, resources)
        records = _in_jobs(plan)
    regenerate.regenerate(results, regenerate.readme_of(results))
    timed = [record for record in records if record.step_s]
    show(timed or records, RunFormat.auto)
    finish(records)


def _here(suite: str, device: str, timeout_s: float, results: Path) -> Sequence[Record]:
    from bench import devices
    from bench.run import sweep

    cells = sweep.cells_of(suite, device or devices.default())
    check_writable(results)
    with reporter(len(cells)) as progress:
        return sweep.run(cells, results, progress, timeout_s=timeout_s)


def _in_jobs(plan: Plan) -> Sequence[Record]:
    from bench.sweeps import submission

    cells = plan.cells()
    check_writable(plan.results)
    try:
        with reporter(len(cells)) as progress:
            return submission.run(plan, cells, progress)
    except submission.LostError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
