"""``python -m bench models``: are real architectures trained to the bit, and in less memory?"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import flags
from bench.cli.answers import answer_of
from bench.cli.flags import Format
from bench.cli.printing import print_studies
from bench.store import models as studies
from bench.store.json_store import RESULTS, check_writable

TIMEOUT_S = 600.0
PRELOAD = ("bench.studies.models", "transformers.modeling_utils")


def models(
    only: Annotated[
        list[str] | None, typer.Option(help="A model; may be repeated; default: all.")
    ] = None,
    library: Annotated[
        list[str] | None, typer.Option(help="Models of this library; may be repeated.")
    ] = None,
    timeout: flags.Timeout = TIMEOUT_S,
    results: flags.ResultsOption = RESULTS,
    output: flags.FormatOption = Format.md,
) -> None:
    """Train every architecture of the catalogue under strategies, tiny; write the table.

    Each runs in a process of its own and ends as one file under models/ in the results. Exit code 1
    if one is wrong or ends in an error; refusals, and what is not installed, are answers.
    """
    from bench import architectures

    names = architectures.named(only or (), library or ())
    check_writable(results)
    outcomes = [studied(name, timeout, results) for name in names]
    _show(outcomes, results, output)
    if any(study.bad for study in outcomes):
        raise typer.Exit(1)


def studied(name: str, timeout_s: float, results: Path) -> studies.Study:
    """The study of a model, stored; a process that ends without one is a study that says so."""
    from bench.studies import models as bench

    blank, read = functools.partial(bench.blank, name), studies.decode
    study = answer_of(bench.work, name.encode(), timeout_s, PRELOAD, blank=blank, decode=read)
    if study.installed or not studies.path_of(study, results).exists():
        studies.write(study, results)  # an environment that lacks a library knows nothing new of it
    typer.echo(f"{name}: {_sentence(study)}", err=True)
    return study


def _sentence(study: studies.Study) -> str:
    if not study.installed:
        return f"{study.library} is not installed"
    ours = [one for one in study.outcomes if one.spec != studies.OWN]
    verdicts = [f"{one.spec} {one.verdict}" for one in ours if one.verdict != "bitwise"]
    return study.problem or ", ".join(verdicts) or "bitwise under all"


def _show(outcomes: list[studies.Study], results: Path, output: Format) -> None:
    from bench.report import models as report
    from bench.report import regenerate

    regenerate.regenerate(results, regenerate.readme_of(results))
    print_studies(outcomes, report, studies.encode_line, output)
