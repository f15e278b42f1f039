"""``python -m bench contest``: is `auto` ever slower than anyone else within the same budget?"""

from __future__ import annotations

import enum
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags, numbers
from bench.cli.answers import answer_of
from bench.cli.flags import Format
from bench.cli.followed import followed
from bench.cli.printing import print_studies
from bench.store import contests
from bench.store.json_store import RESULTS, check_writable

if TYPE_CHECKING:
    from bench.studies.ring import Question

MODELS = (
    *("gpt-mini", "llama-mini", "vit-mini", "resnet50"),
    *("t5", "nn.Transformer", "mixtral", "U-Net"),
)
COMPILED = ("gpt-mini", "llama-mini", "U-Net")
"""A model is compiled for every fraction and solver, half a minute each."""
LIMIT_S = 90.0
TIMEOUT_S = 1800.0
"""For one model."""
PRELOAD = ("bench.studies.contest",)


class Kind(enum.StrEnum):
    """What `auto` is held against."""

    eager = "eager"
    compiled = "compiled"
    both = "both"


def contest(  # noqa: PLR0917 - one parameter a flag
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"A model of `promises`; default: {', '.join(MODELS)}."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All models of `promises`.")] = False,
    kind: Annotated[
        Kind,
        typer.Option(
            help="eager: checkpointing of all kinds. compiled: torch.compile under PyTorch's memory"
            f" budget. both: of compiled ones {', '.join(COMPILED)} alone."
        ),
    ] = Kind.both,
    budgets: Annotated[int, typer.Option(help="How many of the ten of `promises`.")] = 3,
    fraction: Annotated[
        list[float] | None,
        typer.Option(help="Of the compiler's budget, from 0 to 1; default: 1 and 0.5."),
    ] = None,
    accumulation: Annotated[
        bool, typer.Option("--accumulation", help="Steps add to gradients that exist.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Timed rounds at least, an even number.")] = 6,
    precision: Annotated[
        str, typer.Option(help="Rounds follow until no interval is wider than that.")
    ] = "2%",
    limit: Annotated[float, typer.Option(help="Seconds after which none follows.")] = LIMIT_S,
    device: Annotated[str, typer.Option(help="Real; default: the accelerator.")] = "",
    timeout: flags.Timeout = TIMEOUT_S,
    results: flags.ResultsOption = RESULTS,
    output: flags.FormatOption = Format.md,
) -> None:
    """Let `auto` meet every contender within the same budgets, interleaved; write table and figure.

    Each model runs in a process of its own and ends as one file under contests/ in the results.
    What is stored of the same question, code and versions is not measured again. Exit code 1 if
    `auto` found no plan or broke a budget, or a model came to nothing; a loss is an answer.
    """
    from bench import devices
    from bench.studies import subjects
    from bench.studies.ring import FRACTIONS, Question

    names = list(dict.fromkeys(only or (subjects.NAMES if every else MODELS)))
    _check(budgets, rounds, limit, fraction or [])
    width = numbers.part(precision)
    if not 0 < width <= 1:
        raise ValueError(f"--precision takes more than 0 % and at most 100 %, not {precision}")
    for name in names:
        subjects.library_of(name)
    place = device or devices.default()
    devices.get(place)
    questions = [
        Question(
            model=name,
            device=place,
            budgets=budgets,
            accumulation=accumulation,
            compiled=compiled,
            fractions=tuple(dict.fromkeys(fraction or FRACTIONS)),
            rounds=rounds,
            interval_width=width,
            rounds_limit_s=limit,
        )
        for compiled in (False, True)
        for name in _chosen(names, kind, compiled=compiled, named=bool(only))
    ]
    check_writable(results)
    outcomes = [held(question, timeout, results) for question in questions]
    _show(outcomes, results, output)
    if any(one.problem or failures(one) for one in outcomes):
        raise typer.Exit(1)


def _check(budgets: int, rounds: int, limit_s: float, fractions: list[float]) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: says what does.
    """
    if not 1 <= budgets <= 10:
        raise ValueError(f"from 1 to 10 budgets, not {budgets}")
    if rounds < 2 or rounds % 2:
        raise ValueError(f"an even number of rounds, at least 2, not {rounds}")
    if not limit_s > 0:
        raise ValueError(f"--limit takes more than 0 seconds, not {limit_s:g}")
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise ValueError(f"--fraction takes 0 to 1, not {fraction:g}")


def _chosen(names: list[str], kind: Kind, *, compiled: bool, named: bool) -> list[str]:
    """Who is in a contest of one kind."""
    if kind is not Kind.both:
        whole = names if named or not compiled else list(COMPILED)
        return whole if compiled is (kind is Kind.compiled) else []
    return [name for name in names if name in COMPILED] if compiled else names


def held(question: Question, timeout_s: float, results: Path) -> contests.Contest:
    """The contest of a model, stored now or before; a process that ends without one says so."""
    import msgspec

    from bench.studies import contest as bench

    blank = functools.partial(bench.blank, question)
    known = contests.stored(blank(), results)
    if known is not None:
        typer.echo(f"{question.model}: stored already", err=True)
        return known
    with followed() as progress:
        payload = msgspec.json.encode(bench.Order(question, progress))
        read = contests.decode
        contest = answer_of(bench.work, payload, timeout_s, PRELOAD, blank=blank, decode=read)
    contests.write(contest, results)
    typer.echo(f"{question.model}: {_sentence(contest)}", err=True)
    return contest


def failures(contest: contests.Contest) -> int:
    """Budgets without a plan of `auto`, or broken by it."""
    from bench.report.bouts import entry_of

    own = [(b, entry_of(contest.entries, one)) for b in contest.budgets for one in b.own]
    return sum(e is None or e.peak_allocated_bytes > b.budget_bytes for b, e in own)


def _sentence(contest: contests.Contest) -> str:
    from bench.report import bouts
    from bench.report import contests as report

    return contest.problem or report.summary(list(bouts.bouts(contest)))


def _show(outcomes: list[contests.Contest], results: Path, output: Format) -> None:
    from bench.report import contests as report
    from bench.report import regenerate

    regenerate.regenerate(results, regenerate.readme_of(results))
    print_studies(outcomes, report, contests.encode_line, output)
