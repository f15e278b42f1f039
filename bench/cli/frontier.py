"""``python -m bench frontier``: everything that can be done about one workload, in one picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import flags
from bench.cli.flags import Format
from bench.cli.printing import slug
from bench.cli.progress import reporter
from bench.store.json_store import check_writable, write_atomically

if TYPE_CHECKING:
    from bench.store.records import Record

OUT = Path("frontier")
ROUNDS = 6  # dozens of cells


@flags.with_setup
def frontier(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: flags.Workload,
    device: Annotated[str, typer.Option(help="See `list devices`; default: the accelerator.")] = "",
    budgets: Annotated[int, typer.Option(help="Of each strategy that keeps one.")] = 10,
    rounds: Annotated[int, typer.Option(help="Timed rounds, an even number.")] = ROUNDS,
    out: Annotated[Path, typer.Option(help="Folder for the PNG, SVG and CSV.")] = OUT,
    results: Annotated[
        Path | None, typer.Option(help="Keep the records here, and reuse them; default: --out.")
    ] = None,
    timeout: flags.Timeout = 600.0,
    output: flags.FormatOption = Format.md,
) -> None:
    """Draw the whole front of memory and time for one workload.

    Every strategy's grid, and every budgeted strategy at budgets from its smallest to what `none`
    needs. Modelled on any device; on a real one measured as well.
    """
    from bench.run import sweep
    from bench.studies import frontier as bench

    if budgets < 1:
        raise ValueError(f"a front needs at least 1 budget, not {budgets}")
    base = setup.cell(workload, device, rounds=rounds, rounds_limit_s=timeout / 2)
    cells = bench.planned(base, budgets, timeout)
    for folder in {out, results or out}:
        check_writable(folder)
    with reporter(len(cells)) as progress:
        records = sweep.run(cells, results or out, progress, timeout_s=timeout)
    show(records, out, f"frontier-{slug(base.workload)}-{slug(base.device)}", output)


def show(records: list[Record], out: Path, name: str, output: Format) -> None:
    """Write the files and print the front."""
    from bench.report import frontier as report

    rows = report.rows_of(records)
    paths = {out / f"{name}.{kind}": data for kind, data in report.render(rows).items()}
    for path, data in paths.items():
        write_atomically(path, data)
        print(f"wrote {path}", file=sys.stderr)  # noqa: T201
    if output is Format.json:
        facts: dict[str, Any] = {"files": list(map(str, paths)), "rows": report.as_dicts(rows)}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        typer.echo((report.csv if output is Format.csv else report.markdown)(rows), nl=False)
