"""Records in a terminal: a narrow table, in units that a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.report import display, summary, trust
from bench.report.frame import ATTENTION, Row, build
from bench.report.rounding import steady
from bench.report.tables import tradeoff_groups

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bench.store.records import Record

STRATEGY, PLAN = 17, 15
"""Characters of a specification, and of a plan, in a line: with both the table fits into 80."""

PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}


def print_table(records: Sequence[Record], console: Console) -> None:
    """A table for each workload and device, and below it what failed and what to know of times."""
    for group in tradeoff_groups(build(records)):
        shape = display.options(group[0], without=(ATTENTION,))
        console.print(f"{group[0]['workload']} on {display.where(group)}", style="bold", **PLAIN)
        console.print(f"{shape}; {group[0]['precision']}", style="dim", **PLAIN)
        console.print(_table(group))
        for line in (*_failures(group), *trust.remarks(group)):
            console.print(line, **PLAIN)


def _table(group: Sequence[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0, header_style="bold")
    for name, width in zip(summary.HEADER, (STRATEGY, PLAN), strict=False):
        table.add_column(name, overflow="fold", max_width=width)
    step = "Step\n(95 %)" if any(row["step_ratio"] for row in group) else "Step"
    for name in ("Peak (× none)", "Extra", step, "Gradients"):
        table.add_column(name, justify="right" if name != "Gradients" else "left", no_wrap=True)
    for row in group:
        table.add_row(*map(Text, _cells(row)))
    return table


def _cells(row: Row) -> Iterator[str]:
    """Text as it is: brackets of a plan are no markup."""
    yield broken(row["label"])
    yield summary.plan(row) or display.MISSING
    yield _peak(row)
    yield display.percent(row["recompute_of_forward"])
    yield _step(row)
    yield _outcome(row)


def broken(label: str) -> str:
    """A specification in lines of at most `STRATEGY` characters, if its words allow it."""
    lines = [""]
    for word in re.split(r"(?<=[=,(])|(?= )", label):
        if lines[-1] and len(lines[-1] + word) > STRATEGY:
            lines.append("  ")
        lines[-1] += word if lines[-1].strip() else word.lstrip()
    return "\n".join(lines)


def _peak(row: Row) -> str:
    count, ratio = row["peak_allocated_bytes"], row["peak_x_reference"]
    if count is None:
        return display.MISSING
    return display.sized(count) + ("" if ratio is None else f" ({display.times(ratio)})")


def _step(row: Row) -> str:
    """``1.31× †``, and in a line below its interval, ``1.28–1.35``, where it was measured."""
    if row["step_ratio"] is None:
        return summary.step(row)
    low, high = row["step_ratio_low"], row["step_ratio_high"]
    if low is None:
        return f"{summary.step(row)}\n[none]"
    decimals = 2 if high < 10 else 1 if high < 100 else 0  # nine characters
    return f"{summary.step(row)}\n{low:.{decimals}f}–{high:.{decimals}f}"


def _outcome(row: Row) -> str:
    """``bitwise``, the largest relative error, or how the cell failed."""
    if row["status"] != "ok":
        return str(row["status"])
    if row["grads_missing"]:
        return "missing"
    if row["grads_bitwise_equal"]:
        return "bitwise"
    error = row["grad_max_rel_err"]
    return display.MISSING if error is None else f"±{steady(error):.0e}"


def _failures(group: Sequence[Row]) -> Iterator[str]:
    for row in group:
        if row["status"] != "ok":
            yield f"{row['label']}: {row['status']}: {row['reason']}"
