"""The table of all cells: what a row shows, what it is sorted and filtered by, and its details."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bench.report import display, tables
from bench.report.display import MISSING
from bench.report.frame import Row
from bench.report.page.markup import inline

Key = float | str | None
FILTERS = ("workload", "device", "strategy", "status")
"""Fields that a reader chooses by."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a row: as it is read, and as it is sorted; what has no key comes last."""

    text: str
    key: Key


@dataclasses.dataclass(frozen=True)
class Line:
    """One cell.

    Attributes:
        anchor: that links lead to.
        label: the strategy as it is typed.
        filters: by name of the field, what it is chosen by.
        figures: one a column.
        details: pairs of a name and a text, the environment among them.
    """

    anchor: str
    label: str
    filters: dict[str, str]
    figures: list[Figure]
    details: list[tuple[str, str]]


def _text(name: str) -> Callable[[Row], Figure]:
    return lambda row: Figure(str(row[name]), str(row[name]))


def _bytes(name: str) -> Callable[[Row], Figure]:
    return lambda row: Figure(display.megabytes(row[name]), row[name])


def _times(name: str) -> Callable[[Row], Figure]:
    return lambda row: Figure(display.times(row[name]), row[name])


def _step(row: Row) -> Figure:
    ratio = row["step_ratio"]
    key = row["modelled_step_x_reference"] if ratio is None else ratio
    return Figure(display.interval(row), key)


def _device(row: Row) -> Figure:
    text = f"{row['device']}, modelled" if row["modelled"] else str(row["device"])
    return Figure(text, text)


def _extra(row: Row) -> Figure:
    return Figure(display.percent(row["recompute_of_forward"]), row["recompute_of_forward"])


def _gradients(row: Row) -> Figure:
    key = 0.0 if row["grads_bitwise_equal"] else row["grad_max_rel_err"]
    text = tables.gradient(row) if row["status"] == "ok" else MISSING
    return Figure(inline(text), key)


def _date(row: Row) -> Figure:
    return Figure(str(row["started_at_utc"])[:10], str(row["started_at_utc"]))


COLUMNS: dict[str, Callable[[Row], Figure]] = {
    "Workload": _text("workload"),
    "Device": _device,
    "Status": _text("status"),
    "Peak, MB": _bytes("peak_allocated_bytes"),
    "Peak × none": _times("peak_x_reference"),
    "Saved after forward, MB": _bytes("saved_after_forward_bytes"),
    "Extra compute, % of forward": _extra,
    "Step × none [95 %]": _step,
    "Gradients": _gradients,
    "torch": _text("torch_version"),
    "Date": _date,
}
"""After the strategy, which is a row's heading. Seconds are of one machine, and in none of them."""
NUMBERS = frozenset(name for name in COLUMNS if name.endswith(("MB", "none", "forward", "[95 %]")))
"""Columns that are set to the right."""


def lines(cells: Sequence[Row]) -> list[Line]:
    """A line for each cell, as ordered."""
    return [_line(number, row) for number, row in enumerate(cells)]


def ordered(cells: Sequence[Row]) -> list[Row]:
    """What has a step time comes first, measured before modelled; else as the frame has them."""
    return sorted(cells, key=lambda row: (_step(row).key is None, row["modelled"]))


def _line(number: int, row: Row) -> Line:
    return Line(
        anchor=f"cell-{number}",
        label=str(row["label"]),
        filters={name: str(row[name]) for name in FILTERS},
        figures=[figure(row) for figure in COLUMNS.values()],
        details=[(name, text) for name, text in _details(row) if text],
    )


def _details(row: Row) -> list[tuple[str, str]]:
    return [
        ("Reason", row["reason"] or ""),
        ("Plan", row["plan"] or ""),
        ("Storage", row["storage"] or ""),
        ("Attention", row["attention_kernel"] or ""),
        ("Textbook", ", ".join(filter(None, (row["textbook_memory"], row["textbook_compute"])))),
        ("Where the peak is", _peak(row)),
        ("Notes", " · ".join(row["notes"])),
        ("Advice", row["advice"] or ""),
        ("Options", display.options(row)),
        ("Setting", f"precision {row['precision']}, optimizer {row['optimizer']}"),
        ("Environment", environment(row)),
        ("Cell", str(row["cell_id"])),
    ]


def _peak(row: Row) -> str:
    if not row["peak_operator"]:
        return ""
    parts = sorted(row["peak_by_category"].items(), key=lambda part: -part[1])
    makeup = ", ".join(f"{name} {display.sized(count)}" for name, count in parts if count)
    place = [row["peak_module"] and f"in {row['peak_module']}", row["peak_phase"]]
    where = ", ".join(filter(None, (row["peak_operator"], *place)))
    return f"{where}: {makeup}" if makeup else where


def environment(row: Row) -> str:
    """Device, versions, machine, commit and date: what a figure is worth nothing without."""
    commit = f"commit {row['commit'][:12]}" if row["commit"] else "no commit known"
    changed = " with changes" if row["dirty"] else ""
    facts = (
        display.where([row]),
        f"Python {row['python_version']}",
        f"machine {row['machine_id']}",
        f"threads {row['threads']}",
        f"seed {row['seed']}",
        commit + changed,
    )
    return "; ".join(facts)


def choices(cells: Sequence[Row]) -> dict[str, list[str]]:
    """What there is to choose of each of `FILTERS`, sorted."""
    return {name: sorted({str(row[name]) for row in cells}) for name in FILTERS}
