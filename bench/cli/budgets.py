"""``python -m bench budgets``: are budgets kept, what do they cost, and would a rule do better?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import flags
from bench.cli.flags import Format
from bench.cli.printing import print_studies
from bench.store import budgets as studies
from bench.store.json_store import RESULTS, check_writable

if TYPE_CHECKING:
    from bench.cells.cell import Cell

# One step takes 0.1 to 0.4 s on two cores: a chain with attention core as a mode, one with grouped
# queries, one of images, and one of unlike blocks in four containers.
WORKLOADS: dict[str, dict[str, Any]] = {
    "gpt-mini": {},
    "llama-mini": {},
    "vit-mini": {"layers": 8, "dim": 192, "image": 128},
    "resnet50": {"dim": 32, "batch": 12, "image": 96},
}
ROUNDS = 10
TIMEOUT_S = 1800.0


@flags.with_setup
def budgets(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", "--model", help=f"May be repeated; default: {', '.join(WORKLOADS)}."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    rounds: Annotated[int, typer.Option(help="Timed rounds, an even number.")] = ROUNDS,
    timeout: flags.Timeout = TIMEOUT_S,
    results: flags.ResultsOption = RESULTS,
    output: flags.FormatOption = Format.md,
) -> None:
    """Measure `optimal` at ten budgets beside every plan that a rule gives; write table and figure.

    Each workload runs in a process of its own and ends as one file under budgets/ in the results.
    """
    if rounds < 1:
        raise ValueError(f"a budget study needs at least 1 round, not {rounds}")
    names = dict.fromkeys(workload or WORKLOADS)
    cells = [cell_of(setup, name, device, rounds) for name in names]
    check_writable(results)
    outcomes = [study for cell in cells if (study := measured(cell, timeout, results)) is not None]
    if outcomes:
        _show(outcomes, results, output)
    if len(outcomes) < len(cells):
        raise typer.Exit(1)


def cell_of(setup: flags.Setup, workload: str, device: str, rounds: int) -> Cell:
    """What to study.

    Raises:
        ValueError: an unknown or impossible part of it, or a simulated device.
    """
    cell = setup.cell(workload, device, defaults=WORKLOADS.get(workload), rounds=rounds)
    if cell.interval_width is not None:
        raise ValueError("a budget study has a fixed number of rounds: give --rounds")
    if cell.simulated:
        raise ValueError(f"budgets are measured, and {device} is not here; see `frontier`")
    return cell


def measured(cell: Cell, timeout_s: float, results: Path) -> studies.Study | None:
    """The study of a cell, stored; ``None``, with a sentence on stderr, if it came to nothing."""
    import msgspec

    from bench.run import executor
    from bench.run.endings import Ending
    from bench.studies import budgets as bench

    typer.echo(
        f"{cell.workload}: profile, {bench.BUDGETS} budgets, {cell.rounds} rounds …", err=True
    )
    answer = executor.in_process(bench.work, msgspec.json.encode(cell), timeout_s)
    if isinstance(answer, Ending):
        typer.echo(f"{cell.workload}: {answer.status}: {answer.reason}", err=True)
        return None
    study = studies.decode(answer)
    typer.echo(
        f"{cell.workload}: {study.duration_s:.0f} s; wrote {studies.write(study, results)}",
        err=True,
    )
    return study


def _show(outcomes: list[studies.Study], results: Path, output: Format) -> None:
    from bench.report import budgets as report
    from bench.report import regenerate

    regenerate.regenerate(results, regenerate.readme_of(results))
    print_studies(outcomes, report, studies.encode_line, output)
