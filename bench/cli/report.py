"""``tables``, ``claims``, ``compare`` and ``report``: commands that read records."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.flags import Format, FormatOption, ResultsOption
from bench.cli.printing import print_rows
from bench.store import budgets, clusters, peers, records
from bench.store.json_store import RESULTS, write_atomically

CANNOT_TELL = 3
"""Exit code of a comparison that is no regression for certain, and no pass."""
PAGE = RESULTS / "report.html"


def tables(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if stale.")
    ] = False,
    readme: Annotated[Path, typer.Option(help="File with the table's markers.")] = Path(
        "README.md"
    ),
    results: ResultsOption = RESULTS,
) -> None:
    """Regenerate every table and figure from the stored records."""
    from bench.report import regenerate

    if not any((results / name).is_dir() for name in ("raw", budgets.FOLDER)):
        raise ValueError(f"{results} holds no raw/ folder; run `python -m bench sweep` first")
    lines = regenerate.regenerate(results, readme if readme.exists() else None, check=check)
    for line in lines:
        typer.echo(line)
    if check and lines:
        raise typer.Exit(1)


def claims(output: FormatOption = Format.md, results: ResultsOption = RESULTS) -> None:
    """Judge the textbook's claims by the stored records."""
    from bench.report import claims as ledger
    from bench.report import frame as frames
    from bench.report import pays

    if not (results / records.STORE.folder).is_dir():
        raise ValueError(f"{results} holds no raw/ folder; run `python -m bench sweep` first")
    ranks = list(clusters.read_all(results))
    apart = (records.read_all(place) for place in (peers.within(results), pays.within(results)))
    frame = frames.build([*records.read_all(results), *itertools.chain(*apart)])
    if output is Format.csv:
        print_rows(ledger.data(frame, ranks), output)
    else:
        said = ledger.as_json if output is Format.json else ledger.markdown
        typer.echo(said(frame, ranks), nl=False)


def compare(
    before: Annotated[Path, typer.Argument(help="A record, a folder of records, or JSON lines.")],
    after: Annotated[Path, typer.Argument(help="The same, to compare with it.")],
    fail_on: Annotated[
        list[str] | None, typer.Option(help="metric:limit, as peak_allocated_bytes:1%.")
    ] = None,
) -> None:
    """Compare two sets of records; exit 1 if a limit is exceeded, 3 if rounds cannot tell."""
    from bench.report import compare as comparison

    result = comparison.compare(before, after, fail_on or [])
    typer.echo(result.markdown(), nl=False)
    if result.regressions:
        raise typer.Exit(1)
    if result.doubts:
        raise typer.Exit(CANNOT_TELL)


def report(
    output: Annotated[Path, typer.Option(help="The file to write.")] = PAGE,
    results: ResultsOption = RESULTS,
) -> None:
    """Write one HTML page of everything that is stored: tables, charts, claims, environments."""
    from bench.report import stored
    from bench.report.page.page import render

    if not results.is_dir():
        raise ValueError(f"there is no folder {results}; run `python -m bench sweep` first")
    if output.is_dir():
        raise ValueError(f"--output names a file, and {output} is a folder")
    data = render(stored.read(results))
    write_atomically(output, data)
    typer.echo(f"wrote {output} ({len(data) / 1e6:.1f} MB)")
