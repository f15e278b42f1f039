"""What a reader should know before relying on step times: sentences, made from the records."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.report import display
from bench.report.display import percent
from bench.report.frame import ATTENTION, FLASH, REFERENCE, Row
from bench.report.stats import FEW, FEWEST, LEVEL

BUSY = 0.10
"""Part of the processors' time that others may take before it is said."""


def remarks(group: Sequence[Row]) -> list[str]:
    """Of a table: rounds, the A/A test, intervals that were not reached, a busy machine.

    Empty where nothing was timed.
    """
    timed = [row for row in group if row["step_ratio"] is not None]
    return [
        *of_rounds({row["rounds"] for row in timed}),
        *(_equal(row) for row in timed if is_equal(row)),
        *(_unreached(row) for row in timed if not reached(row)),
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


def holds(row: Row, ratio: float = 1.0) -> bool:
    """Whether a row's interval has the ratio, or there is no interval."""
    low, high = row["step_ratio_low"], row["step_ratio_high"]
    return low is None or bool(low <= ratio <= high)


def _equal(row: Row) -> str:
    """The A/A test."""
    said = f"A/A test: {REFERENCE} against itself reads {display.interval(row)}"
    if row["step_ratio_low"] is None:
        return f"{said}, which tests nothing."
    if holds(row):
        return f"{said}, which holds 1: passed."
    return (
        f"{said}, which does not hold 1: failed, as 1 in {round(1 / (1 - LEVEL))} does by chance. "
        "Differences as small as this one mean nothing here."
    )


def reached(row: Row) -> bool:
    """Whether the interval is as narrow as it was asked to be."""
    return row["interval_width"] is None or width(row) <= row["interval_width"]


def width(row: Row) -> float:
    """Of the interval, as a part of the ratio."""
    if row["step_ratio_low"] is None:
        return float("inf")
    return float((row["step_ratio_high"] - row["step_ratio_low"]) / row["step_ratio"])


def _unreached(row: Row) -> str:
    wanted, rounds = row["interval_width"], row["rounds"]
    said = f"{row['label']}: an interval of {percent(wanted)} was asked for"
    if row["step_ratio_low"] is None:
        return f"{said}, and {rounds} rounds have none."
    needed = rounds * (width(row) / wanted) ** 2
    return (
        f"{said}; after {rounds:,} rounds it is {percent(width(row))}. This machine cannot in the "
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
