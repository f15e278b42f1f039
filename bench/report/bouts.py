"""Who won: `auto` against one contender within one budget, judged by paired rounds."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence

from bench.report.stats import Interval, paired_ratio
from bench.store.contests import Budget, Contender, Contest, Entry


class Outcome(enum.StrEnum):
    """How a bout ended, for `auto`."""

    faster = "faster"
    even = "within noise"
    slower = "slower"
    same = "same plan"
    over = "needs more than the budget"
    refused = "cannot run"
    absent = "auto has no plan"


_ON_DISK = "]@disk"
"""In a plan, a boundary that rests there."""
CLOSE = 0.01
"""Budgets of a compiler's contest, and peaks, that are nearer than this part are one."""
COMPARED = (Outcome.faster, Outcome.even, Outcome.slower)
"""With seconds of both."""


@dataclasses.dataclass(frozen=True)
class Bout:
    """One comparison.

    Attributes:
        contest: that it is of.
        budget: that `auto` was given.
        own: `auto`, as it met the other.
        other: whom it met.
        outcome: for `auto`.
        ratio: its step over the other's, of `COMPARED`.
    """

    contest: Contest
    budget: Budget
    own: Contender
    other: Contender
    outcome: Outcome
    ratio: Interval | None = None

    @property
    def ours(self) -> Entry | None:
        """What `auto` ran."""
        return entry_of(self.contest.entries, self.own)

    @property
    def theirs(self) -> Entry | None:
        """What the other ran."""
        return entry_of(self.contest.entries, self.other)

    @property
    def name(self) -> str:
        """The other's: of a compiler with its parameters, else the strategy's alone."""
        return self.other.spec if self.contest.compiled else self.other.spec.partition("(")[0]


def entry_of(entries: Sequence[Entry], contender: Contender) -> Entry | None:
    """What a contender ran, if it could."""
    return None if contender.entry is None else entries[contender.entry]


def rests_on_disk(entries: Sequence[Entry], contender: Contender) -> bool:
    """Whether what a contender ran sends boundaries to a disk."""
    entry = entry_of(entries, contender)
    return entry is not None and _ON_DISK in entry.plan


def own_of(entries: Sequence[Entry], budget: Budget, other: Contender) -> Contender:
    """`auto`, as it meets another: with a disk, where the other uses one."""
    if budget.with_disk is not None and rests_on_disk(entries, other):
        return budget.with_disk
    return budget.ours


def paired(steps_s: Sequence[float], others_s: Sequence[float]) -> Interval | None:
    """The ratio in the rounds of both: a contender leaves when all is known of it."""
    count = min(len(steps_s), len(others_s))
    return paired_ratio(steps_s[:count], others_s[:count])


def met(entries: Sequence[Entry], budget: Budget, *, compiled: bool) -> list[Contender]:
    """Those that `auto` meets within a budget, and whose steps are timed.

    Their measured peak is at most the budget. A compiler keeps no budget of the peak, so of those
    that need more than it, the one that needs least counts, too, if that is no less than `auto`'s,
    and so do those that are `CLOSE` to it: its solvers differ by less.
    """
    ours = entry_of(entries, budget.ours)
    if ours is None:
        return []
    peaks = {
        other.spec: entry.peak_allocated_bytes
        for other in budget.others
        if (entry := entry_of(entries, other)) is not None
    }
    most_bytes = budget.budget_bytes
    if compiled:
        above = [peak for peak in peaks.values() if peak >= ours.peak_allocated_bytes]
        most_bytes = max(most_bytes, int(min(above, default=0) * (1 + CLOSE)))
    return [other for other in budget.others if peaks.get(other.spec, most_bytes + 1) <= most_bytes]


def bouts(contest: Contest) -> Iterator[Bout]:
    """Every one of a contest, budget by budget."""
    for budget in contest.budgets:
        present = met(contest.entries, budget, compiled=contest.compiled)
        for other in budget.others:
            yield _judged(contest, budget, other, meets=other in present)


def _judged(contest: Contest, budget: Budget, other: Contender, *, meets: bool) -> Bout:
    own = own_of(contest.entries, budget, other)
    if own.entry is None:
        return Bout(contest, budget, own, other, Outcome.absent)
    if other.entry is None:
        return Bout(contest, budget, own, other, Outcome.refused)
    if other.entry == own.entry:
        return Bout(contest, budget, own, other, Outcome.same)
    if not meets:
        return Bout(contest, budget, own, other, Outcome.over)
    entries = contest.entries
    ratio = paired(entries[own.entry].step_s, entries[other.entry].step_s)
    return Bout(contest, budget, own, other, _outcome(ratio), ratio)


def _outcome(ratio: Interval | None) -> Outcome:
    if ratio is None or ratio.low is None or ratio.high is None or ratio.holds(1.0):
        return Outcome.even
    return Outcome.slower if ratio.low > 1 else Outcome.faster
