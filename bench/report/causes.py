"""Why `auto` lost a bout, as far as predicted and measured steps tell; nothing is guessed."""

from __future__ import annotations

import math
import re

from bench.report.bouts import Bout, paired
from bench.report.display import code, times
from bench.report.rounding import steady
from bench.report.stats import Interval
from bench.store.contests import NONE, Contest, Entry

_CHOSEN = re.compile(r"\d:(?!compiled|partitioned)")
"""In a plan, a block in which operators are chosen: Python dispatches each of them."""


def cause(bout: Bout) -> str:
    """Of a bout that was lost, in a sentence.

    Both steps are put beside those of `none`, predicted by `auto`'s profile and measured. Whose
    step is farther from its prediction is the one that the profile does not know.
    """
    ours, theirs = bout.ours, bout.theirs
    assert ours is not None
    assert theirs is not None
    facts = [_more(bout, theirs), _said("`auto`", bout.contest, ours)]
    facts.append(_said(code(bout.name), bout.contest, theirs))
    return "; ".join(filter(None, (*facts, _blamed(bout, ours, theirs))))


def _more(bout: Bout, theirs: Entry) -> str:
    """A compiler that is not within the budget."""
    over = theirs.peak_allocated_bytes / bout.budget.budget_bytes
    return f"it needs {times(over)} the budget" if over > 1 else ""


def expected(contest: Contest, entry: Entry) -> float | None:
    """Predicted step over that of `none`."""
    none_s = contest.entries[NONE].predicted_step_s
    return entry.predicted_step_s / none_s if entry.predicted_step_s and none_s else None


def taken(contest: Contest, entry: Entry) -> Interval | None:
    """Measured step over that of `none`."""
    return paired(entry.step_s, contest.entries[NONE].step_s)


def _said(name: str, contest: Contest, entry: Entry) -> str:
    before, after = expected(contest, entry), taken(contest, entry)
    measured = times(after.estimate if after else None)
    if before is None:
        return f"{name} took {measured}, and nothing is predicted of it"
    return f"{name} was predicted {times(before)} `none` and took {measured}"


def _blamed(bout: Bout, ours: Entry, theirs: Entry) -> str:
    own, other = _beyond(bout.contest, ours), _beyond(bout.contest, theirs)
    if own is None:
        return ""
    if ours.predicted_step_s and theirs.predicted_step_s and _foreseen(bout, ours, theirs):
        return "the profile foresees it"
    if own > max(0.0, -(other or 0.0)):
        chosen = ", operators chosen from Python" if _CHOSEN.search(ours.plan) else ""
        return f"`auto`'s plan takes longer than its profile says{chosen}"
    if other is not None:
        return "the other's plan takes less than the profile says"
    return "`auto`'s plan takes no longer than its profile says: the other does what no plan does"


def _foreseen(bout: Bout, ours: Entry, theirs: Entry) -> bool:
    assert ours.predicted_step_s is not None
    assert theirs.predicted_step_s is not None
    assert bout.ratio is not None
    low = bout.ratio.low or bout.ratio.estimate
    return steady(ours.predicted_step_s / theirs.predicted_step_s) >= low


def _beyond(contest: Contest, entry: Entry) -> float | None:
    """Logarithm of measured over predicted, both as multiples of `none`; 0: as predicted."""
    before, after = expected(contest, entry), taken(contest, entry)
    return None if before is None or after is None else math.log(after.estimate / before)
