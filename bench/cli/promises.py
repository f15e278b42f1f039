"""``python -m bench promises``: is the peak of a real training loop within its budget?"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags
from bench.cli.answers import answer_of
from bench.cli.flags import Format
from bench.cli.printing import print_studies
from bench.store import promises as studies
from bench.store.json_store import RESULTS, check_writable

if TYPE_CHECKING:
    from bench.studies.promises import Question

TIMEOUT_S = 1800.0
"""For one model."""
PRELOAD = ("bench.studies.promises",)


def promises(
    only: Annotated[
        list[str] | None,
        typer.Option(help="A workload or a model of `bench models`; default: thirteen of both."),
    ] = None,
    budgets: Annotated[int, typer.Option(help="How many, from the smallest to all.")] = 10,
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    results: flags.ResultsOption = RESULTS,
    output: flags.FormatOption = Format.md,
) -> None:
    """Promise budgets to training loops as people write them, and measure what they need.

    Each model runs in a process of its own and ends as one file under promises/ in the results.
    Exit code 1 if a budget was exceeded, or a model came to nothing.
    """
    from bench import devices
    from bench.studies import subjects
    from bench.studies.promises import Question

    if budgets < 1:
        raise ValueError(f"at least 1 budget, not {budgets}")
    names = list(dict.fromkeys(only or subjects.NAMES))
    for name in names:
        subjects.library_of(name)
    place = device or devices.default()
    devices.get(place)
    questions = [Question(name, place, budgets) for name in names]
    check_writable(results)
    outcomes = [studied(question, results) for question in questions]
    _show(outcomes, results, output)
    if any(study.problem or exceeded(study) for study in outcomes):
        raise typer.Exit(1)


def studied(question: Question, results: Path) -> studies.Study:
    """The study of a model, stored; a process that ends without one is a study that says so."""
    import msgspec

    from bench.studies import promises as bench

    payload, blank = msgspec.json.encode(question), functools.partial(bench.blank, question)
    read = studies.decode
    study = answer_of(bench.work, payload, TIMEOUT_S, PRELOAD, blank=blank, decode=read)
    studies.write(study, results)
    typer.echo(f"{question.model}: {_sentence(study)}", err=True)
    return study


def exceeded(study: studies.Study) -> int:
    """How many budgets."""
    promises = (promise for loop in study.loops for promise in loop.promises)
    return sum(one.peak_allocated_bytes > one.budget_bytes for one in promises)


def _sentence(study: studies.Study) -> str:
    count = sum(len(loop.promises) for loop in study.loops)
    return study.problem or f"{count - exceeded(study)} of {count} budgets kept"


def _show(outcomes: list[studies.Study], results: Path, output: Format) -> None:
    from bench.report import promises as report
    from bench.report import regenerate

    regenerate.regenerate(results, regenerate.readme_of(results))
    print_studies(outcomes, report, studies.encode_line, output)
