"""``python -m bench peers``: everyone else's checkpointing beside ours, on the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags
from bench.cli.measure import finish
from bench.cli.progress import reporter
from bench.store import peers as runs
from bench.store.json_store import RESULTS, check_writable
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.cells.cell import Cell

WORKLOADS = ("gpt-mini", "gpt2-transformers")
ROUNDS = 10
TIMEOUT_S = 1800.0
ANSWERED = ("ok", "mismatch")
"""Steps of these can be timed; the others say why they cannot run."""


@flags.with_setup
def peers(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: Annotated[
        list[str] | None, typer.Option(help=f"May be repeated; default: {', '.join(WORKLOADS)}.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A strategy beside `none`; default: all peers.")
    ] = None,
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    rounds: Annotated[int, typer.Option(help="Timed rounds, an even number.")] = ROUNDS,
    timeout: flags.Timeout = TIMEOUT_S,
    results: flags.ResultsOption = RESULTS,
) -> None:
    """Measure peers beside our own strategies: version, peak, step and gradients; write the table.

    Memory and gradients are measured in a process each; steps of all in the same rounds of one.
    Everything is stored under peers/ in the results. Exit code 1 if one crashed or ran out of time.
    """
    from bench.report import regenerate
    from bench.run import sweep

    if rounds < 1:
        raise ValueError(f"peers are timed in at least 1 round, not {rounds}")
    specs = ["none", *(only or sweep.peer_specs())]
    cells = {
        name: [setup.cell(name, device, spec, rounds=rounds) for spec in dict.fromkeys(specs)]
        for name in dict.fromkeys(workload or WORKLOADS)
    }
    check_writable(results)
    records = []
    for same in cells.values():
        records += measured(same, timeout, results)
    regenerate.regenerate(results, regenerate.readme_of(results))
    typer.echo((results / regenerate.TABLES / "peers.md").read_text(), nl=False)
    finish([record for record in records if record.status != "mismatch"])


def measured(cells: list[Cell], timeout_s: float, results: Path) -> list[Record]:
    """The records of a workload's cells, and the run that times those that can be timed, stored."""
    import msgspec

    from bench.run import executor, sweep
    from bench.run.endings import Ending
    from bench.studies import peers as study

    if cells[0].simulated or cells[0].interval_width is not None:
        raise ValueError("peers are timed in a fixed number of rounds on a device that is here")
    untimed = [msgspec.structs.replace(cell, rounds=0) for cell in cells]
    with reporter(len(cells)) as progress:
        records = sweep.run(untimed, runs.within(results), progress, timeout_s=timeout_s)
    specs = [record.spec for record in records if record.status in ANSWERED]
    asked = msgspec.json.encode(study.Asked(cell=cells[0], specs=specs))
    answer = executor.in_process(study.work, asked, timeout_s)
    if isinstance(answer, Ending):
        raise typer.Exit(_failed(cells[0].workload, answer.reason))
    path = runs.write(runs.decode(answer), runs.within(results))
    typer.echo(f"wrote {path}", err=True)
    return records


def _failed(workload: str, reason: str) -> int:
    """Say that nothing was timed; the exit code of that."""
    typer.echo(f"{workload}: no step was timed: {reason}", err=True)
    return 1
