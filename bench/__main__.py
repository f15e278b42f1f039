"""The command line: ``python -m bench``. Bad input exits 2 with one sentence, never a traceback.

Results go to stdout, everything else to stderr. `run` and `sweep` exit 1 if a cell ended in
``mismatch``, ``crash`` or ``timeout``; ``oom`` and ``unsupported`` are answers.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import typer

from bench import claims as ledger
from bench import (
    commands_budgets,
    commands_frontier,
    commands_plan,
    commands_profile,
    commands_solvers,
    flags,
    records,
    studies,
)
from bench.flags import Format, FormatOption, ResultsOption
from bench.progress import reporter
from bench.records import Record
from bench.report import compare as comparison
from bench.report import frame as frames
from bench.report import regenerate, tables

if TYPE_CHECKING:
    from bench.cells import Cell

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

app.command("profile")(commands_profile.profile)
app.command("plan")(commands_plan.plan)
app.command("solvers")(commands_solvers.solvers)
app.command("budgets")(commands_budgets.budgets)
app.command("frontier")(commands_frontier.frontier)

FAILED = ("mismatch", "crash", "timeout")
INTERRUPTED = 130  # what the command-line library makes of KeyboardInterrupt


class Kind(enum.StrEnum):
    """What to list."""

    strategies = "strategies"
    workloads = "workloads"
    devices = "devices"


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    output: FormatOption = Format.md,
) -> None:
    """List strategies, workloads or devices."""
    from bench import catalogue  # noqa: PLC0415 - imports torch, which `tables` does without

    rows = {
        Kind.strategies: catalogue.strategy_rows,
        Kind.workloads: catalogue.workload_rows,
        Kind.devices: catalogue.device_rows,
    }[kind]()
    print_rows(rows, output)


@app.command()
def run(  # noqa: PLR0917 - one parameter a flag
    workload: flags.Workload,
    strategy: Annotated[
        list[str], typer.Option(help="Name, or name(parameter=value); may be repeated.")
    ],
    device: Annotated[str, typer.Option(help="See `list devices`; default: the accelerator.")] = "",
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 5,
    no_time: Annotated[bool, typer.Option("--no-time", help="Memory, FLOPs, gradients.")] = False,
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
    fit: Annotated[
        str, typer.Option(help="batch or seq: find the largest that fits a simulated device.")
    ] = "",
    memory_limit_mb: Annotated[
        int | None, typer.Option(help="Let a CPU cell allocate no more (MB = 10⁶ bytes).")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one cell.")] = 600.0,
    results: Annotated[
        Path | None, typer.Option(help="Store the records here, and reuse those that are.")
    ] = None,
    output: FormatOption = Format.md,
) -> None:
    """Measure strategies on one workload, each in a process of its own."""
    from bench import cells, devices, executor, sweep  # noqa: PLC0415 - imports torch

    chosen = flags.workload_options(options, layers=layers, seq=seq, batch=batch, dim=dim)
    where = flags.device_name(device, flags.pairs(custom, "--sim")) or devices.default()
    wanted = [
        cells.checked(
            cells.Cell(
                workload=workload,
                options=chosen,
                spec=spec,
                device=where,
                precision=precision,
                optimizer=optimizer,
                rounds=0 if no_time else rounds,
                seed=seed,
                memory_limit_bytes=memory_limit_mb and memory_limit_mb * 10**6,
            )
        )
        for spec in cells.with_parameters(strategy, flags.pairs(parameters, "--set"))
    ]
    if fit:
        wanted = [fitted(cell, fit) for cell in wanted]
    with reporter(len(wanted)) as progress:
        if results:
            found = sweep.run(wanted, results, progress, timeout_s=timeout)
            if output is Format.json:
                print_records(found, output)
        else:
            found = []
            for number, cell in enumerate(wanted, 1):
                found.append(executor.run(cell, timeout))
                progress(number, len(wanted), found[-1])
                if output is Format.json:
                    print_records(found[-1:], output)
    if output is not Format.json:
        show(found, output, fit)
    finish(found)


@app.command()
def sweep(
    profile: Annotated[str, typer.Option(help="smoke, quick, full or simulated.")] = "quick",
    device: Annotated[str, typer.Option(help="See `list devices`; default: the accelerator.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one cell.")] = 600.0,
    results: ResultsOption = records.RESULTS,
) -> None:
    """Measure a whole profile, write tables and figures, print the table.

    Interrupted, it resumes where it stopped. The README's table is written where it belongs, to
    the results that are kept with it.
    """
    from bench import devices, sweep  # noqa: PLC0415 - imports torch

    wanted = sweep.cells_of(profile, device or devices.default())
    with reporter(len(wanted)) as progress:
        found = sweep.run(wanted, results, progress, timeout_s=timeout)
    regenerate.regenerate(results, regenerate.readme_of(results))
    timed = [record for record in found if record.step_s]
    print_records(timed or found, Format.md)
    finish(found)


@app.command()
def validate(
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    workload: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    output: FormatOption = Format.md,
) -> None:
    """Simulate and run the same cells side by side; exit 1 if tensor bytes differ."""
    from bench import devices, validation  # noqa: PLC0415 - imports torch

    chosen = tuple(workload or validation.WORKLOADS)
    found = list(validation.rows(device or devices.default(), chosen))
    print_rows(validation.as_dicts(found), output)
    if any(row.tensor_peak_error or row.after_forward_error for row in found):
        raise typer.Exit(1)


@app.command("tables")
def tables_(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if stale.")
    ] = False,
    readme: Annotated[Path, typer.Option(help="File with the table's markers.")] = Path(
        "README.md"
    ),
    results: ResultsOption = records.RESULTS,
) -> None:
    """Regenerate every table and figure from the stored records."""
    if not any((results / name).is_dir() for name in ("raw", studies.FOLDER)):
        raise ValueError(f"{results} holds no raw/ folder; run `python -m bench sweep` first")
    lines = regenerate.regenerate(results, readme if readme.exists() else None, check=check)
    for line in lines:
        typer.echo(line)
    if check and lines:
        raise typer.Exit(1)


@app.command()
def claims(output: FormatOption = Format.md, results: ResultsOption = records.RESULTS) -> None:
    """Judge the textbook's claims by the stored records."""
    frame = frames.build(records.read_all(results))
    if output is Format.csv:
        print_rows(ledger.data(frame), output)
    else:
        typer.echo((ledger.as_json if output is Format.json else ledger.markdown)(frame), nl=False)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A record, a folder of records, or JSON lines.")],
    after: Annotated[Path, typer.Argument(help="The same, to compare with it.")],
    fail_on: Annotated[
        list[str] | None, typer.Option(help="metric:limit, as peak_allocated_bytes:1%.")
    ] = None,
) -> None:
    """Compare two sets of records; exit 1 if one of the limits is exceeded."""
    result = comparison.compare(before, after, fail_on or [])
    typer.echo(result.markdown(), nl=False)
    if result.regressions:
        raise typer.Exit(1)


def fitted(cell: Cell, axis: str) -> Cell:
    """The cell at the largest size that fits; as it is where nothing does or it cannot run."""
    from bench.simulate.fit import STEP, Axis, largest, sized  # noqa: PLC0415 - imports torch
    from strategies import Unsupported  # noqa: PLC0415

    if axis not in STEP:
        raise ValueError(f"--fit takes {' or '.join(STEP)}, not {axis!r}")
    chosen = cast("Axis", axis)
    try:
        return largest(cell, chosen) or sized(cell, chosen, STEP[axis])
    except Unsupported:
        return cell


def print_rows(rows: Sequence[dict[str, Any]], output: Format) -> None:
    """Plain rows as JSON, CSV or Markdown."""
    import pandas as pd  # noqa: PLC0415 - slow to import, and not always needed

    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    frame = pd.DataFrame(rows)
    if output is Format.csv:
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(frame.map(lambda v: str(v).replace("|", "\\|")).to_markdown(index=False))


def print_records(found: Sequence[Record], output: Format) -> None:
    """Records: JSON lines, the CSV of the trade-off table, or the table itself."""
    if output is Format.json:
        for record in found:
            typer.echo(records.encode_line(record))
        return
    frame = frames.build(found)
    if output is Format.csv:
        typer.echo(tables.tradeoff_csv(frame), nl=False)
        return
    typer.echo(tables.tradeoff(frame), nl=False)


def show(found: Sequence[Record], output: Format, fit: str) -> None:
    """The trade-off table; of a search for what fits, one line a strategy."""
    if not fit:
        print_records(found, output)
        return
    rows = [
        {
            "strategy": record.spec,
            f"largest {fit}": record.workload_options[fit] if record.status == "ok" else 0,
            "peak_allocated_bytes": record.peak_allocated_bytes,
            "peak_reserved_bytes": record.peak_reserved_bytes,
            "modelled_step_s": record.modelled_step_s,
            "status": record.status,
            "reason": record.reason or "",
        }
        for record in found
    ]
    print_rows(rows, output)


def finish(found: Sequence[Record]) -> None:
    """Exit 1 if a cell failed in a way that is no answer."""
    if any(record.status in FAILED for record in found):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors of the user end in one sentence and exit code 2."""
    # Before torch is imported: threads that spin while they wait make timed steps slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
    try:
        code = app(standalone_mode=False, prog_name="python -m bench")
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        sys.exit(_complain(str(error)))
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the command-line library
            raise
        sys.exit(_complain(error.format_message()))
    if code == INTERRUPTED:
        print("interrupted; run the same command again to resume", file=sys.stderr)  # noqa: T201
    sys.exit(code or 0)


def _complain(sentence: str) -> int:
    if sentence:  # none where the help was printed instead
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    main()
