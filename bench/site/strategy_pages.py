"""One page a strategy: its docstring, its parameters, its plans drawn, its rows of the tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.report import display, summary
from bench.report.display import MISSING, cell, code
from bench.report.frame import ATTENTION, Row
from bench.report.readme import main_groups
from bench.report.tables import gradient, title, tradeoff_groups
from bench.site import docstrings, pictures
from strategies import Budgeted, Strategy
from strategies.contract.registry import classes
from strategies.schedules import plan as plans
from strategies.schedules.schedule import Schedule

FOLDER = "strategies"
HEADER = (
    *("Workload", "Strategy", "Peak × none", "Extra compute", "Step × none", "Gradients"),
    "Date",
)
MODELLED_HEADER = (
    *("Workload", "Strategy", "Peak, MB (× none)", "Reserved, MB", "Extra compute"),
    *("Step × none", "Fits"),
)


def pages(frame: pd.DataFrame) -> dict[str, str | bytes]:
    """Every page and picture, by its path in the site.

    Args:
        frame: of the records.
    """
    files: dict[str, str | bytes] = {}
    for name, cls in classes().items():
        shown = drawn(name, frame)
        drawings = {spec: f"{name}-{number}.svg" for number, spec in enumerate(shown)}
        files |= {
            f"{FOLDER}/{drawings[spec]}": pictures.svg(
                functools.partial(pictures.plan, row["plan"])
            )
            for spec, row in shown.items()
        }
        files[f"{FOLDER}/{name}.md"] = page(cls, frame, shown, drawings)
    return files


def drawn(name: str, frame: pd.DataFrame) -> dict[str, Row]:
    """A measured row for each distinct plan of a strategy, by specification."""
    by_plan: dict[str, Row] = {}
    for row in (row for group in main_groups(frame) for row in _of(name, group)):
        if row["plan"]:
            by_plan.setdefault(row["plan"], row)
    return {row["label"]: row for row in by_plan.values()}


def _of(name: str, group: Sequence[Row]) -> list[Row]:
    return [row for row in group if row["strategy"] == name]


def page(
    cls: type[Strategy],
    frame: pd.DataFrame,
    shown: Mapping[str, Row],
    drawings: Mapping[str, str],
) -> str:
    """The page of one strategy, as Markdown.

    Args:
        cls: of the strategy.
        frame: of the records.
        shown: rows whose plans are drawn.
        drawings: the file of each, beside the page.
    """
    parts = [f"# {cls.name()}\n", f"{docstrings.prose(cls)}\n", _facts(cls), _usage(cls)]
    parts += ["## Parameters\n", _parameters(cls)]
    if shown:
        parts.append("## What it keeps\n")
        parts += [_drawing(row, drawings[spec]) for spec, row in shown.items()]
    parts += ["## Measured\n", *_measured(cls.name(), frame)]
    parts += ["## Modelled\n", *_modelled(cls.name(), frame)]
    return "\n".join(parts)


def _facts(cls: type[Strategy]) -> str:
    strategy = cls()
    promise = "bitwise those of `none`" if strategy.exact else "close to those of `none`"
    facts = {
        "Gradients": promise,
        "Needs an example": "yes, to see what blocks cost" if cls.needs_profile else "no",
        "Memory, in theory": cell(cls.textbook_memory),
        "Extra compute, in theory": cell(cls.textbook_compute),
        "Source": ", ".join(docstrings.papers(cls)) or MISSING,
    }
    return "".join(f"- {name}: {text}\n" for name, text in facts.items() if text != MISSING)


def _usage(cls: type[Strategy]) -> str:
    budget = ', budget="8GB"' if issubclass(cls, Budgeted) else ""
    example = ", example=batch" if cls.needs_profile else ""
    lines = ["import strategies\n", f'strategies.apply(model, "{cls.name()}"{budget}{example})']
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _parameters(cls: type[Strategy]) -> str:
    words = docstrings.attributes(cls)
    body = [
        [code(field.name), code(repr(field.default)), words.get(field.name, MISSING)]
        for field in dataclasses.fields(cls)
    ]
    return display.table(("Parameter", "Default", "Meaning"), body) if body else "None.\n"


def _drawing(row: Row, file: str) -> str:
    kept = Schedule.parse(row["plan"])
    count = sum(1 for node in kept.plan for _ in plans.leaves(node))
    saved = display.amount(row["saved_after_forward_bytes"], row["saved_x_reference"])
    facts = [
        f"boundaries kept: {len(groups_of(kept))}; blocks kept: {bare_of(kept)} of {count}",
        f"{saved} MB saved after forward (× none)",
        f"{display.percent(row['recompute_of_forward'])} of a forward done again",
    ]
    text = f"`{row['label']}` on {row['workload']}: {'; '.join(facts)}."
    return f"{text}\n\n![{row['label']} drawn: {row['plan']}]({file})\n"


def groups_of(schedule: Schedule) -> list[Any]:
    """Top-level recompute groups, each of which keeps its input."""
    return [node for node in schedule.plan if not isinstance(node, int)]


def bare_of(schedule: Schedule) -> int:
    """How many blocks are not recomputed as a whole."""
    return len(schedule.plan) - len(groups_of(schedule))


def _measured(name: str, frame: pd.DataFrame) -> list[str]:
    """Its rows on every workload and device that was there, in one table."""
    rows = [row for group in tradeoff_groups(frame) for row in _of(name, group)]
    rows = [row for row in rows if not row["modelled"]]
    if not rows:
        return ["Not measured yet.\n"]
    table = display.table(HEADER, map(_line, rows))
    return [f"{cell(display.where(rows))}.\n", table, f"{summary.NOTES}\n"]


def _line(row: Row) -> list[str]:
    return [
        cell(row["workload"]),
        cell(row["label"]),
        display.times(row["peak_x_reference"]),
        display.percent(row["recompute_of_forward"]),
        display.interval(row),
        gradient(row),
        display.dates([row]),
    ]


def _modelled(name: str, frame: pd.DataFrame) -> list[str]:
    """Its rows on accelerators that were not there, in one table; of each workload the most."""
    best: dict[str, list[Row]] = {}
    for group in tradeoff_groups(frame):
        key = title(group)
        if group[0]["modelled"] and len(group) > len(best.get(key, ())):
            best[key] = group
    chosen = {key: _of(name, group) for key, group in best.items()}
    rows = [row for group in chosen.values() for row in group]
    if not rows:
        return ["Not modelled yet.\n"]
    table = display.table(MODELLED_HEADER, map(_modelled_line, rows))
    settings = [_setting(group[0]) for group in chosen.values() if group]
    return [table, "MB is 10⁶ bytes.\n", "".join(f"- {cell(text)}\n" for text in settings)]


def _modelled_line(row: Row) -> list[str]:
    fits = "yes" if row["status"] == "ok" else f"**{cell(row['status'])}**: {cell(row['reason'])}"
    return [
        cell(title([row])),
        cell(row["label"]),
        display.amount(row["peak_allocated_bytes"], row["peak_x_reference"]),
        display.megabytes(row["peak_reserved_bytes"]),
        display.percent(row["recompute_of_forward"]),
        display.times(row["modelled_step_x_reference"]),
        fits,
    ]


def _setting(row: Row) -> str:
    shape = display.options(row, without=(ATTENTION,))
    return f"{title([row])}: {display.where([row])}; {shape}; {row['precision']}"
