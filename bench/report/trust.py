"""What a reader should know before relying on step times: sentences, made from the records."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.report import display
from bench.report.display import percent
from bench.report.frame import ATTENTION, FLASH, REFERENCE, Row
from bench.report.stats import FEW, FEWEST, LEVEL, Interval

BUSY = 0.10
"""Part of the processors' time that others may take before it is said."""


def remarks(group: Sequence[Row]) -> list[str]:
    """Of a table: rounds, the A/A test, intervals that were not reached, a busy machine.

    Empty where nothing was timed.
    """
    timed = [row for row in group if row["step_ratio"] is not None]
    return [
        *of_rounds({row["rounds"] for row in timed}),
        *(equal(interval_of(row)) for row in timed if is_equal(row)),
        *unreached(timed),
        *_busy(timed),
    ]


def of_rounds(counts: Collection[int]) -> list[str]:
    """What numbers of rounds do to an estimate and its interval."""
    odd = sorted(count for count in counts if count % 2)
    few = sorted(count for count in counts if FEWEST <= count < FEW)
    said = []
    if odd:
        said.append(
            f"An odd number of rounds ({_listed(odd)}): of two equal contenders the second in a "
            "round is faster by some percent, and this does not cancel."
        )
    if few:
        said.append(
            f"Fewer than {FEW} rounds ({_listed(few)}): the interval supposes normal noise; "
            f"one that supposes less covers less than {100 * LEVEL:.0f} %."
        )
    return said


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def is_equal(row: Row) -> bool:
    """Whether both contenders of a row are the same: `none` against itself."""
    return bool(row["spec"] == REFERENCE and row["workload_options"].get(ATTENTION) != FLASH)


def interval_of(row: Row) -> Interval:
    """The step ratio of a row that was timed."""
    ends = row["step_ratio_low"], row["step_ratio_high"]
    return Interval(row["step_ratio"], *ends, row["rounds"])


def equal(ratio: Interval) -> str:
    """The A/A test: what two equal contenders read, and whether that may be 1."""
    ends = ratio.estimate, ratio.low, ratio.high
    shown = display.estimate(*ends, unstable=ratio.unstable)
    said = f"A/A test: {REFERENCE} against itself reads {shown}"
    if ratio.low is None:
        return f"{said}, which tests nothing."
    if ratio.holds(1):
        return f"{said}, which holds 1: passed."
    return (
        f"{said}, which does not hold 1: failed, as 1 in {round(1 / (1 - LEVEL))} does by chance. "
        "Differences as small as this one mean nothing here."
    )


def reached(row: Row) -> bool:
    """Whether the interval is as narrow as it was asked to be."""
    return row["interval_width"] is None or interval_of(row).width <= row["interval_width"]


def unreached(rows: Sequence[Row]) -> list[str]:
    """Of rows whose interval is not as narrow as it was asked to be, what this would need."""
    timed = [row for row in rows if row["step_ratio"] is not None]
    return [_unreached(row) for row in timed if not reached(row)]


def _unreached(row: Row) -> str:
    wanted, rounds, width = row["interval_width"], row["rounds"], interval_of(row).width
    said = f"{row['label']}: an interval of {percent(wanted)} was asked for"
    if row["step_ratio_low"] is None:
        return f"{said}, and {rounds} rounds have none."
    needed = rounds * (width / wanted) ** 2
    return (
        f"{said}; after {rounds:,} rounds it is {percent(width)}. This machine cannot in the "
        f"time there was: it would need about {needed:,.0f} rounds."
    )


def _busy(timed: Sequence[Row]) -> list[str]:
    shares = [row["other_cpu_share"] for row in timed if row["other_cpu_share"] is not None]
    said = []
    if shares and max(shares) > BUSY:
        said.append(f"Other processes took up to {percent(max(shares), 0)} of the processors.")
    throttled = [row["label"] for row in timed if row["throttled_s"] or row["thermal_throttles"]]
    if throttled:
        said.append(f"The processors were throttled under {', '.join(throttled)}.")
    return said
