"""What the compare gate fails on: ``peak_allocated_bytes:1%``, ``step_ratio:10%``, ``…:1MB``."""

from __future__ import annotations

import dataclasses
import math
import re

from bench.report.metrics import METRICS, Metric, step_interval
from bench.store.records import Record

# Those that one record suffices for; × none and prediction errors compare with something else.
GATED = {
    name: metric
    for name, metric in METRICS.items()
    if metric.better in {"lower", "higher"} and not name.endswith("_x_none")
}
SCALES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
STEP = "step_ratio"
EXAMPLE = "peak_allocated_bytes:1%"

_LIMIT = re.compile(r"(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[kMG]?B)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Limit:
    """How much worse a metric may get: by a part of what it was, or by an amount."""

    metric: Metric
    amount: float
    relative: bool
    text: str

    def exceeded(self, before: float, after: float) -> bool:
        """``after`` is worse than ``before`` by more than the limit."""
        worse = before - after if self.metric.better == "higher" else after - before
        return worse > self.amount * (abs(before) if self.relative else 1)


@dataclasses.dataclass(frozen=True)
class Regression:
    """One metric of one cell that got worse than the gate allows, or a cell that now fails."""

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
    return _limit(metric, float(match["number"]), match["unit"], text)


def _limit(metric: Metric, number: float, unit: str | None, text: str) -> Limit:
    if not math.isfinite(number):
        raise ValueError(f"threshold of {text!r} is too large to be a number")
    if unit == "%":
        return Limit(metric, number / 100, relative=True, text=text)
    if (unit in SCALES) != (metric.unit == "bytes"):
        needed = "B, kB, MB, GB or %" if metric.unit == "bytes" else "% or no unit"
        raise ValueError(f"threshold of {text!r}: {metric.name} takes {needed}")
    return Limit(metric, number * SCALES.get(unit or "", 1.0), relative=False, text=text)


def value(metric: Metric, record: Record) -> float | None:
    """The metric of one record."""
    return metric.compute(record, None)


def regression(limit: Limit, cell: str, before: Record, after: Record) -> Regression | None:
    """Whether ``after`` breaks the limit.

    Step time does so only when the intervals are also apart: its median alone jumps with the
    machine's load. A metric that was measured and now is not breaks any limit.
    """
    old, new = value(limit.metric, before), value(limit.metric, after)
    name = limit.metric.name
    if old is None:
        return None
    if new is None:
        return Regression(cell, name, "was measured before, now it is not")
    if not limit.exceeded(old, new) or (name == STEP and not _apart(before, after)):
        return None
    return Regression(cell, name, f"{old:g} before, {new:g} now; the limit is {limit.text}")


def _apart(before: Record, after: Record) -> bool:
    old, new = step_interval(before), step_interval(after)
    assert old is not None
    assert new is not None
    return new.low > old.high
