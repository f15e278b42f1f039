"""The memory–time front of one workload: modelled points hollow, measured ones filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report import canvas, display, plane, separated
from bench.report.display import Look
from bench.report.frame import Row, build, rows
from bench.report.tables import CELL_COLUMNS, plain
from bench.store.records import Record

BUDGET = "budget"
MEASURED = "measured"
MODELLED = "modelled"

COLUMNS = (
    *CELL_COLUMNS,
    "exact",
    "status",
    "reason",
    "budget_bytes",
    "plan",
    "predicted_peak_bytes",
    "peak_allocated_bytes",
    "modelled_step_ratio",
    "step_ratio",
    "step_ratio_low",
    "step_ratio_high",
    "rounds",
    "unstable",
    "on_modelled_front",
    "on_modelled_exact_front",
    "on_measured_front",
    "on_measured_exact_front",
    "cell_id",
)


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row for every cell, failures included, with its place on the fronts."""
    cells = rows(build(records))
    ids = {
        f"on_{name}_front": {row["cell_id"] for row in front}
        for kind in (MODELLED, MEASURED)
        for name, front in zip(
            (kind, f"{kind}_exact"), fronts_of(points_of(cells, kind)), strict=True
        )
    }
    return [
        row
        | {
            "budget_bytes": _budget_bytes(row),
            "modelled_step_ratio": row["modelled_step_x_reference"],
            **{name: row["cell_id"] in members for name, members in ids.items()},
        }
        for row in cells
    ]


def fronts_of(points: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The Pareto front of all points, and that of strategies whose gradients are exact."""
    return plane.pareto(points), plane.pareto([row for row in points if row["exact"]])


def _budget_bytes(row: Row) -> int | None:
    """The budget of a strategy that keeps one, if it was given in bytes."""
    text = str(row["params"].get(BUDGET, ""))
    return int(text) if text.isdigit() else None


def points_of(cells: Sequence[Row], kind: str) -> list[Row]:
    """Where cells that ended well are in the plane, by peak.

    Args:
        cells: rows of cells.
        kind: ``measured``; or ``modelled``: on a device that is here the plan interpreter's peak
            and the roofline's time, on a simulated one the simulator's.
    """
    if kind == MEASURED:
        return plane.points_of([r for r in cells if not r["modelled"] and r["status"] == "ok"])
    return plane.points_of([_as_modelled(row) for row in cells if row["status"] == "ok"])


def _as_modelled(row: Row) -> Row:
    ratio = row["modelled_step_x_reference"]
    peak = "peak_allocated_bytes" if row["modelled"] else "predicted_peak_bytes"
    return row | {
        "peak_allocated_bytes": row[peak],
        **dict.fromkeys(("step_ratio", "step_ratio_low", "step_ratio_high"), ratio),
    }


def csv(cells: Sequence[Row]) -> str:
    """Every cell: raw bytes, ratios to six decimals."""
    data = [{name: plain(row[name]) for name in COLUMNS} for row in cells]
    frame = pd.DataFrame(data, columns=list(COLUMNS), dtype=object)
    return separated.csv(frame)


def as_dicts(cells: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [{name: row[name] for name in COLUMNS} for row in cells]


def markdown(cells: Sequence[Row]) -> str:
    """Heading, the cells on a front, and what ended badly with its reason."""
    header = ("Strategy", "Plan", "Peak, MB", "Step time × none [95 %]", "Front")
    body = [
        _line(row, name)
        for kind in (MODELLED, MEASURED)
        for name, front in _named_fronts(points_of(cells, kind), kind).items()
        for row in front
    ]
    text = display.table(header, body) if body else "Nothing ended well.\n"
    failed = "".join(f"- {display.cell(line)}\n" for line in failures(cells))
    head = f"{cells[0]['workload']} on {display.where(cells)}. {display.UNITS}."
    return f"{display.cell(head)}\n\n{text}" + (f"\nNot on it:\n\n{failed}" if failed else "")


def _named_fronts(points: Sequence[Row], kind: str) -> dict[str, list[Row]]:
    """``measured`` and ``measured, exact gradients``; one of them where they are the same."""
    every, exact = fronts_of(points)
    if every == exact:
        return {kind: every} if every else {}
    return {kind: every, f"{kind}, exact gradients": exact}


def _line(row: Row, kind: str) -> list[str]:
    return [
        display.cell(row["spec"]),
        display.code(display.abbreviate(row["plan"] or "")),
        display.megabytes(row["peak_allocated_bytes"]),
        display.interval(row) if kind.startswith(MEASURED) else display.times(row["step_ratio"]),
        kind,
    ]


def failures(cells: Sequence[Row]) -> list[str]:
    """``none: oom: 12 GB missing``, a line each."""
    return [f"{r['spec']}: {r['status']}: {r['reason']}" for r in cells if r["status"] != "ok"]


def figure(cells: Sequence[Row], look: Mapping[str, Look]) -> Figure:
    """Every cell that ended well, and the Pareto front of each kind."""
    figure, [axes] = canvas.new(10, 6.8)
    modelled, measured = points_of(cells, MODELLED), points_of(cells, MEASURED)
    plane.draw_hollow(axes, modelled, look)
    if measured:
        plane.draw(axes, measured, look)
    fronts = {**_named_fronts(modelled, MODELLED), **_named_fronts(measured, MEASURED)}
    _draw_fronts(axes, fronts)
    _legend(axes, cells, measured=bool(measured))
    axes.set(xlabel=_peak_label(cells), ylabel="Step time × none")
    _note(figure, cells)
    canvas.head(figure, "the memory–time front", cells)
    named, others = (measured, modelled) if measured else (modelled, [])
    labelled = _labelled(named)
    silent = [row for row in named if row not in labelled]
    plane.label(axes, labelled, list(fronts.values()), [*silent, *others])
    return figure


def _draw_fronts(axes: Axes, fronts: Mapping[str, Sequence[Row]]) -> None:
    """Dotted where modelled; darker where gradients are exact, if that makes a difference."""
    for name, front in fronts.items():
        line = ":" if name.startswith(MODELLED) else "-"
        colour = "0.35" if "exact" in name else "0.75"
        label = f"Pareto front, {name}"
        plane.draw_front(axes, front, label, linestyle=line, color=colour, linewidth=1.2)


def _legend(axes: Axes, cells: Sequence[Row], *, measured: bool) -> None:
    dots: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": "0.4"}
    keys = [Line2D([], [], markerfacecolor="white", label=_modelled_label(cells), **dots)]
    if measured:
        keys.append(Line2D([], [], label="measured, with its 95 % interval", **dots))
    lines, _ = axes.get_legend_handles_labels()
    axes.legend(
        handles=[*keys, *lines],
        frameon=False,
        loc="upper right",
        fontsize=8,
        title=plane.note_on(cells),
        title_fontsize=8,
    )


def _modelled_label(cells: Sequence[Row]) -> str:
    if cells[0]["modelled"]:
        return "modelled"
    return "modelled: predicted peak, roofline time"


def _peak_label(cells: Sequence[Row]) -> str:
    return f"{'Modelled peak' if cells[0]['modelled'] else 'Peak'}, MB (10⁶ bytes)"


def _labelled(points: Sequence[Row]) -> list[Row]:
    """Every point, but of one strategy at many budgets that with the lowest peak alone."""
    strategies: set[str] = set()
    labelled = []
    for row in points:
        if row.get("budget_bytes") is None:
            labelled.append(row)
        elif row["strategy"] not in strategies:
            strategies.add(row["strategy"])
            labelled.append(row | {"label": f"{row['strategy']}, by budget"})
    return labelled


def _note(figure: Figure, cells: Sequence[Row]) -> None:
    """What is not drawn, and why, under the picture."""
    failed: dict[str, list[str]] = {}
    for row in cells:
        if row["status"] != "ok":
            failed.setdefault(row["status"], []).append(row["spec"])
    if failed:
        text = "; ".join(f"{status}: {', '.join(specs)}" for status, specs in failed.items())
        figure.supxlabel(
            canvas.wrap(f"Not drawn: {text}."), fontsize=7.5, color="0.3", x=0.06, ha="left"
        )


def render(cells: Sequence[Row]) -> dict[str, bytes]:
    """PNG, SVG and CSV, by kind of file."""
    look = display.looks(str(row["strategy"]) for row in cells)
    with canvas.style():
        return {**canvas.render(figure(cells, look)), "csv": csv(cells).encode()}
