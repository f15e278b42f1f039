"""``run`` and ``validate``: commands that measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from bench.cells import ROUNDS
from bench.cli import flags
from bench.cli.flags import Format, FormatOption, ResultsOption, RunFormat
from bench.cli.printing import print_records, print_studies, show
from bench.cli.progress import reporter
from bench.store.json_store import RESULTS, check_writable
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.cells.cell import Cell


FAILED = ("mismatch", "crash", "timeout")


@flags.with_setup
def run(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: flags.Workload,
    strategy: Annotated[
        list[str], typer.Option(help="Name, or name(parameter=value); may be repeated.")
    ],
    device: Annotated[str, typer.Option(help="See `list devices`; default: the accelerator.")] = "",
    rounds: Annotated[int, typer.Option(help="Timed rounds, an even number.")] = ROUNDS,
    no_time: Annotated[bool, typer.Option("--no-time", help="Memory, FLOPs, gradients.")] = False,
    parameters: flags.Parameters = None,
    fit: Annotated[
        str, typer.Option(help="batch or seq: find the largest that fits a simulated device.")
    ] = "",
    memory_limit_mb: Annotated[
        int | None, typer.Option(help="Let a CPU cell allocate no more (MB = 10⁶ bytes).")
    ] = None,
    ranks: flags.Ranks = None,
    parallel: flags.ParallelOption = "",
    timeout: flags.Timeout = 600.0,
    results: Annotated[
        Path | None, typer.Option(help="Store the records here, and reuse those that are.")
    ] = None,
    output: flags.RunFormatOption = RunFormat.auto,
) -> None:
    """Measure strategies on one workload, each in a process of its own."""
    from bench.cells.cell import with_parameters
    from bench.cli import ranks as shared
    from bench.cli import simulated_ranks

    cells = [
        setup.cell(
            workload,
            device,
            spec,
            rounds=0 if no_time else rounds,
            rounds_limit_s=timeout / 2,
            memory_limit_bytes=memory_limit_mb and memory_limit_mb * 10**6,
            **shared.fields(ranks, parallel),
        )
        for spec in with_parameters(strategy, flags.pairs(parameters, "--set"))
    ]
    if fit and cells[0].parallel:
        raise ValueError("--fit searches on a simulated device, for one rank")
    if fit:
        cells = [fitted(cell, fit, timeout) for cell in cells]
    if results:
        check_writable(results)
    if cells[0].parallel and cells[0].simulated:
        cells = [simulated_ranks.own_batches(cell, given=setup.has("batch")) for cell in cells]
        finish(simulated_ranks.run(cells, results, output))
        return
    if cells[0].parallel:
        finish(shared.run(cells, timeout, results, output))
        return
    records = _measured(cells, timeout, results, output)
    if output is not RunFormat.json:
        show(records, output, fit)
    if output in {RunFormat.json, RunFormat.csv}:  # tables say it below
        complain(records)
    finish(records)


def _measured(
    cells: Sequence[Cell], timeout_s: float, results: Path | None, output: RunFormat
) -> list[Record]:
    """All records; as JSON they are printed as soon as they are there."""
    from bench.run import executor, sweep

    records: list[Record] = []
    with reporter(len(cells)) as progress:
        if results:
            records = sweep.run(cells, results, progress, timeout_s=timeout_s)
            if output is RunFormat.json:
                print_records(records, Format.json)
            return records
        for number, cell in enumerate(cells, 1):
            records.append(executor.run(cell, timeout_s))
            progress(number, len(cells), records[-1])
            if output is RunFormat.json:
                print_records(records[-1:], Format.json)
    return records


def complain(records: Sequence[Record]) -> None:
    """Say on stderr which intervals are not as narrow as they were asked to be."""
    from bench.report import frame, trust

    for sentence in trust.unreached(frame.rows(frame.build(records))):
        typer.echo(sentence, err=True)


@flags.with_setup
def validate(
    setup: flags.Setup,
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    workload: Annotated[
        list[str] | None, typer.Option("--workload", "--model", help="May be repeated.")
    ] = None,
    results: ResultsOption = RESULTS,
    output: FormatOption = Format.md,
) -> None:
    """Simulate and run the same cells side by side; exit 1 if tensor bytes differ.

    Each workload ends as one file under validations/ in the results, and all as one table.
    """
    from bench import devices
    from bench.report import regenerate
    from bench.report import validations as report
    from bench.run import guarded
    from bench.store import validations
    from bench.studies import validation

    device = device or devices.default()
    if device.startswith("sim:"):
        raise ValueError(f"validate compares a real device with its simulation, not {device}")
    check_writable(results)
    done = []
    for name in dict.fromkeys(workload or validation.WORKLOADS):
        cell = setup.cell(name, device, rounds=0)
        answer = guarded.answer(validation.work, msgspec.json.encode(cell), cell)
        done.append(validations.decode(answer))
        validations.write(done[-1], results)  # at once: what is done is not lost
    regenerate.regenerate(results, regenerate.readme_of(results))
    print_studies(done, report, validations.encode_line, output)
    if any(report.differs(row) for one in done for row in one.rows):
        raise typer.Exit(1)


def fitted(cell: Cell, axis: str, timeout_s: float) -> Cell:
    """The cell at the largest size that fits; see `bench.run.fitting`."""
    from bench.run import fitting
    from bench.simulate.fit import STEP, Axis

    if axis not in STEP:
        raise ValueError(f"--fit takes {' or '.join(STEP)}, not {axis!r}")
    return fitting.fitted(cell, cast("Axis", axis), timeout_s)


def finish(records: Sequence[Record]) -> None:
    """Exit 1 if a cell failed in a way that is no answer."""
    if any(record.status in FAILED for record in records):
        raise typer.Exit(1)
