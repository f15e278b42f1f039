"""What the compare gate fails on: ``peak_allocated_bytes:1%``, ``step_ratio:10%``, ``…:1MB``.

What is exact is judged by itself: exactly so much more as the limit allows passes. Step time is
judged by its interval, and where that cannot tell, the answer is a `Doubt`, which is no pass.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from bench.report.display import percent
from bench.report.metrics import METRICS, Metric, step_ratios
from bench.report.stats import POWER, Change, change
from bench.store.records import Record

# Those that one record suffices for; × none and prediction errors compare with something else.
GATED = {
    name: metric
    for name, metric in METRICS.items()
    if metric.better in {"lower", "higher"} and not name.endswith("_x_none")
}
SCALES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
STEP = "step_ratio"
MOST = 10**300
EXAMPLE = "peak_allocated_bytes:1%"

_LIMIT = re.compile(r"(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[kMG]?B)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Limit:
    """How much worse a metric may get: by a part of what it was, or by an amount."""

    metric: Metric
    amount: Fraction
    relative: bool
    text: str

    def exceeded(self, before: float, after: float) -> bool:
        """``after`` is worse than ``before`` by more than the limit: exactly the limit is allowed.

        In fractions: a hundredth of a number of bytes is no float.
        """
        old, new = Fraction(before), Fraction(after)
        worse = old - new if self.metric.better == "higher" else new - old
        return worse > self.amount * (abs(old) if self.relative else 1)


@dataclasses.dataclass(frozen=True)
class Regression:
    """One metric of one cell that got worse than the gate allows, or a cell that now fails."""

    cell: str
    metric: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A step time of which the rounds cannot tell whether it is within the limit."""

    cell: str
    metric: str
    reason: str


def parse(text: str) -> Limit:
    """``metric:threshold``: a percentage, an amount with B, kB, MB or GB, or a plain number.

    Raises:
        ValueError: an unknown metric, or a threshold that does not suit it; names what is valid.
    """
    name, separator, threshold = text.partition(":")
    metric = GATED.get(name.strip())
    if metric is None or not separator:
        valid = ", ".join(sorted(GATED))
        raise ValueError(
            f"cannot fail on {text!r}: write metric:threshold, such as {EXAMPLE}, with a metric of "
            f"{valid}"
        )
    match = _LIMIT.fullmatch(threshold.strip())
    if match is None:
        raise ValueError(f"threshold {threshold!r} of {name} is not like 1%, 1MB or 0.05")
    return _limit(metric, Fraction(match["number"]), match["unit"], text)


def _limit(metric: Metric, number: Fraction, unit: str | None, text: str) -> Limit:
    if number > MOST:
        raise ValueError(f"threshold of {text!r} is too large to be a number")
    if unit == "%":
        return Limit(metric, number / 100, relative=True, text=text)
    if (unit in SCALES) != (metric.unit == "bytes"):
        needed = "B, kB, MB, GB or %" if metric.unit == "bytes" else "% or no unit"
        raise ValueError(f"threshold of {text!r}: {metric.name} takes {needed}")
    return Limit(metric, number * SCALES.get(unit or "", 1), relative=False, text=text)


def value(metric: Metric, record: Record) -> float | None:
    """The metric of one record."""
    return metric.compute(record, None)


def step_change(before: Record, after: Record) -> Change | None:
    """How the step ratio changed; ``None`` where one of the two was not measured."""
    old, new = step_ratios(before), step_ratios(after)
    return change(old, new) if old and new else None


def judge(limit: Limit, cell: str, before: Record, after: Record) -> Regression | Doubt | None:
    """Whether ``after`` breaks the limit, or may.

    A metric that was measured and now is not breaks any limit.
    """
    old, new = value(limit.metric, before), value(limit.metric, after)
    name = limit.metric.name
    if old is None:
        return None
    if new is None:
        return Regression(cell, name, "was measured before, now it is not")
    if name == STEP:
        return _judge_time(limit, cell, before, after)
    if not limit.exceeded(old, new):
        return None
    return Regression(cell, name, f"{old:g} before, {new:g} now; the limit is {limit.text}")


def _judge_time(
    limit: Limit, cell: str, before: Record, after: Record
) -> Regression | Doubt | None:
    """A step that is slower beyond doubt must be shown to be within the limit.

    One that is not must be shown to be within it, too; or the rounds must be so many that a
    slowdown as large as the limit would have been seen.
    """
    old, found = value(limit.metric, before), step_change(before, after)
    assert old is not None
    assert found is not None
    allowed = float(limit.amount) if limit.relative else float(limit.amount) / old
    if found.high is not None and found.high <= allowed:
        return None
    said = f"{changed(found)}; the limit is {limit.text}"
    if found.slower:
        return Regression(cell, limit.metric.name, f"slower beyond doubt: {said}")
    if found.detectable is None:
        return Doubt(cell, limit.metric.name, f"too few rounds for an interval: {said}")
    if found.detectable <= allowed:
        return None
    rounds = found.rounds_for(allowed)
    more = f"about {rounds:,} rounds in each would" if rounds else "no number of rounds would"
    return Doubt(cell, limit.metric.name, f"cannot tell: {said}; {more} show such a slowdown")


def changed(found: Change) -> str:
    """``+1.5 % [-0.3 %, +3.2 %], could have detected +4.1 %``."""
    text = percent(found.estimate, sign="+")
    if found.low is None or found.high is None:
        return f"{text} from {found.rounds[0]} and {found.rounds[1]} rounds"
    ends = f"[{percent(found.low, sign='+')}, {percent(found.high, sign='+')}]"
    return f"{text} {ends}, could have detected {percent(found.detectable, sign='+')}"


POWER_NOTE = (
    "Step time changes by the ratio of the two step ratios, with its 95 % interval. It could have "
    f"detected a slowdown that would be called slower beyond doubt {100 * POWER:.0f} times in 100."
)
