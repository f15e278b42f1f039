"""`auto` against every contender: a line for each model and budget, the losses named; a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from bench.report import causes, display, separated
from bench.report.bouts import COMPARED, Bout, Outcome, bouts, entry_of, paired
from bench.report.display import MISSING, cell, code, percent, times
from bench.report.stats import Interval
from bench.report.tables import plain
from bench.store.contests import NONE, Budget, Contender, Contest, Entry

HEADER = ("Model", "Loop", "Budget × none", "Peak ÷ budget", "Step × none")
COMPILED_HEADER = (
    "Model",
    "Loop",
    "Budget × none",
    "Peak ÷ budget",
    "Against",
    "Its peak ÷ budget",
    "`auto`'s step ÷ its",
)
LOOPS = {False: "one batch", True: "two batches added up"}
NOTES = (
    "A cell of a contender is `auto`'s step over its step: the Hodges-Lehmann estimate of the "
    "paired ratio in the same round with its 95 % interval; below 1 `auto` is faster. *same plan*: "
    "the contender keeps and recomputes what `auto` does, and was not timed again; *over*: its "
    f"measured peak is above the budget; {MISSING} it cannot run (below). Peaks are of a training "
    "loop with AdamW from before its state exists, by the allocator; `every_k` is the fastest of "
    "all k that fits. A loss is a ratio whose whole interval is above 1; of equal contenders one "
    "in 40 is lost by chance. Models and batches are those of [promised budgets](promises.md); a "
    "contest of other batches tells itself by the peak of `none`, beneath.\n"
)
DISK_NOTE = "Whoever rests boundaries on a disk meets `auto(disk=True)`.\n"
COMPILED_NOTES = (
    "`auto(compile=True)` against `torch.compile` of the whole model with PyTorch's own memory "
    "budget. That is of tensors that the compiler saves, and no promise on the peak; so budgets "
    "are, besides those above, the peaks that it was measured to need, and of what needs more than "
    "a budget the next one above counts, too.\n"
)
_SHORT = {Outcome.same: "same plan", Outcome.over: "over"}


def markdown(contests: Sequence[Contest]) -> str:
    """A summary, the tables, losses with their causes, and who could not run."""
    ended = [contest for contest in contests if contest.entries]
    fought = [bout for contest in ended for bout in bouts(contest)]
    parts = [
        "# `auto` against every contender\n",
        cell(display.where(display.places(contests))) + "\n",
        NOTES,
        *[DISK_NOTE] * any(bout.own is bout.budget.with_disk for bout in fought),
        summary(fought) + "\n",
        _eager([contest for contest in ended if not contest.compiled]),
        _compiled([contest for contest in ended if contest.compiled]),
        _listed("Losses", (_loss(bout) for bout in fought if bout.outcome is Outcome.slower)),
        _listed("Without a plan, or over the budget", _broken(ended)),
        _listed("Cannot run", _refusals(fought)),
        _listed("How far equal ones are apart", (_again(contest) for contest in ended)),
        _listed(
            "Not held", (f"{cell(name_of(c))}: {cell(c.problem)}" for c in contests if c.problem)
        ),
    ]
    return "\n".join(filter(None, parts))


def summary(fought: Sequence[Bout]) -> str:
    """How many ended how, in a sentence."""
    counts = Counter(bout.outcome for bout in fought)
    of = sum(counts[outcome] for outcome in (*COMPARED, Outcome.same))
    return (
        f"Of {of} comparisons `auto` is faster in {counts[Outcome.faster]}, runs the same plan in"
        f" {counts[Outcome.same]}, is as fast within noise in {counts[Outcome.even]}, and is slower"
        f" in {counts[Outcome.slower]}."
    )


def _eager(contests: Sequence[Contest]) -> str:
    """A line a budget, a column a contender."""
    grouped = [(c, _by_budget(c)) for c in contests]
    names = list(dict.fromkeys(b.name for _, g in grouped for found in g for b in found))
    lines = [
        [*_budget_cells(contest, found[0].budget), *(_cell_of(name, found) for name in names)]
        for contest, budgets in grouped
        for found in budgets
    ]
    header = (*HEADER, *(f"`{name}`" for name in names))
    return display.table(header, lines, right=len(header) - 2) if lines else ""


def _by_budget(contest: Contest) -> list[list[Bout]]:
    by_budget: dict[int, list[Bout]] = {}
    for bout in bouts(contest):
        by_budget.setdefault(bout.budget.budget_bytes, []).append(bout)
    return list(by_budget.values())


def _budget_cells(contest: Contest, budget: Budget) -> list[str]:
    ours = _ours(contest, budget)
    step = paired(ours.step_s, contest.entries[NONE].step_s) if ours else None
    return [
        *_names(contest, budget),
        percent(ours.peak_allocated_bytes / budget.budget_bytes) if ours else MISSING,
        times(step.estimate if step else None),
    ]


def _names(contest: Contest, budget: Budget) -> list[str]:
    share = budget.budget_bytes / contest.plain_peak_bytes
    return [cell(label(contest)), LOOPS[contest.accumulation], times(share)]


def label(contest: Contest) -> str:
    """Off the CPU, the device too."""
    return contest.model if contest.device == "cpu" else f"{contest.model} ({contest.device})"


def _ours(contest: Contest, budget: Budget) -> Entry | None:
    return entry_of(contest.entries, budget.ours)


def _cell_of(name: str, found: Sequence[Bout]) -> str:
    texts = [_judged(bout) for bout in found if bout.name == name]
    return texts[0] if texts else MISSING


def _judged(bout: Bout) -> str:
    if bout.ratio is None:
        return _SHORT.get(bout.outcome, MISSING)
    text = _interval(bout.ratio)
    return f"**{text}**" if bout.outcome is Outcome.slower else text


def _interval(ratio: Interval, digits: int = 2) -> str:
    ends = ratio.low, ratio.high
    return display.estimate(ratio.estimate, *ends, unstable=ratio.unstable, digits=digits)


def _compiled(contests: Sequence[Contest]) -> str:
    """A line a bout."""
    fought = [bout for contest in contests for bout in bouts(contest) if bout.theirs and bout.ours]
    lines = [_compiled_cells(bout) for bout in fought if bout.outcome is not Outcome.over]
    if not lines:
        return ""
    table = display.table(COMPILED_HEADER, lines, right=1)
    return f"## Compiled\n\n{COMPILED_NOTES}\n{table}"


def _compiled_cells(bout: Bout) -> list[str]:
    assert bout.ours is not None
    assert bout.theirs is not None
    peaks = [
        one.peak_allocated_bytes / bout.budget.budget_bytes for one in (bout.ours, bout.theirs)
    ]
    ours, theirs = map(percent, peaks)
    return [*_names(bout.contest, bout.budget), ours, code(bout.name), theirs, _judged(bout)]


def _listed(title: str, lines: Iterator[str]) -> str:
    items = [f"- {line}" for line in dict.fromkeys(lines)]
    return f"## {title}\n\n" + "\n".join(items) + "\n" if items else ""


def name_of(contest: Contest) -> str:
    """The model, and what is unusual of the contest."""
    kinds = [LOOPS[True]] if contest.accumulation else []
    kinds += ["compiled"] if contest.compiled else []
    return ", ".join([label(contest), *kinds])


def _within(bout: Bout) -> str:
    share = bout.budget.budget_bytes / bout.contest.plain_peak_bytes
    return f"{cell(name_of(bout.contest))} within {times(share)}"


def _loss(bout: Bout) -> str:
    assert bout.ratio is not None
    ratio = _interval(bout.ratio, digits=3)
    return f"{_within(bout)}, against {code(bout.name)}: {ratio}: {causes.cause(bout)}"


def _problems(contests: Sequence[Contest]) -> Iterator[str]:
    for contest in contests:
        if contest.problem:
            yield f"{cell(name_of(contest))}: {cell(contest.problem)}"


def _broken(contests: Sequence[Contest]) -> Iterator[str]:
    for contest in contests:
        for budget in contest.budgets:
            share = times(budget.budget_bytes / contest.plain_peak_bytes)
            where = f"{cell(name_of(contest))} within {share}"
            for own in budget.own:
                entry = entry_of(contest.entries, own)
                if entry is None:
                    yield f"{where}: {cell(own.reason)}"
                elif entry.peak_allocated_bytes > budget.budget_bytes:
                    over = entry.peak_allocated_bytes / budget.budget_bytes - 1
                    yield f"{where}: `auto`'s peak is {percent(over, 2)} above"


def _refusals(fought: Sequence[Bout]) -> Iterator[str]:
    """Each contender's reasons, and of which models."""
    models: dict[tuple[str, str], dict[str, None]] = {}
    for bout in fought:
        if bout.other.entry is None:
            key = (bout.name, _first(bout.other))
            models.setdefault(key, {})[cell(name_of(bout.contest))] = None
    for (name, reason), where in sorted(models.items()):
        yield f"{code(name)} on {', '.join(where)}: {cell(reason)}"


def _first(other: Contender) -> str:
    """The first line of its reason, without the specification, which holds the budget."""
    return next(iter(other.reason.splitlines()), "").removeprefix(f"{other.spec}: ")


def _again(contest: Contest) -> str:
    again = paired(contest.none_again_step_s, contest.entries[NONE].step_s)
    assert again is not None
    passed = "passed" if again.holds(1) else "**failed**"
    text = f"{cell(name_of(contest))}: none against itself {_interval(again, 3)}: {passed}"
    text += f"; {contest.rounds} rounds, {_busy(contest)}"
    text += f"; its peak is {display.sized(contest.plain_peak_bytes)}"
    if contest.compiled_again_count:
        text += f"; **{contest.compiled_again_count} graphs were compiled in timed rounds**"
    return text


def _busy(contest: Contest) -> str:
    share = percent(contest.other_cpu_share)
    return f"in which other processes took {share} of the processors"


def csv(contests: Sequence[Contest]) -> str:
    """Every bout: raw bytes, ratios and their intervals."""
    data = [_row(bout) for contest in contests if contest.entries for bout in bouts(contest)]
    return separated.csv(pd.DataFrame(data, dtype=object))


def _row(bout: Bout) -> dict[str, object]:
    contest, ours, theirs, ratio = bout.contest, bout.ours, bout.theirs, bout.ratio
    row = {
        "model": contest.model,
        "device": contest.device,
        "torch_version": contest.torch_version,
        "machine_id": contest.machine_id,
        "compiled": contest.compiled,
        "accumulation": contest.accumulation,
        "budget_bytes": bout.budget.budget_bytes,
        "contender": bout.other.spec,
        "outcome": str(bout.outcome),
        "auto_peak_allocated_bytes": ours.peak_allocated_bytes if ours else None,
        "peak_allocated_bytes": theirs.peak_allocated_bytes if theirs else None,
        "ratio": ratio.estimate if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "rounds": contest.rounds,
        "auto_plan": ours.plan if ours else None,
        "plan": theirs.plan if theirs else None,
        "reason": _first(bout.other) or None,
    }
    return {name: plain(value) for name, value in row.items()}
