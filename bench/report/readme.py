"""The table in README.md, between its markers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.report.display import cell
from bench.report.frame import Row
from bench.report.tables import NOTES, group_table, title, tradeoff_groups

BEGIN = "<!-- tradeoff:begin -->"
END = "<!-- tradeoff:end -->"

LINKS = (
    ("every table", "tradeoff"),
    ("growth with depth", "depth"),
    ("the time model against this CPU", "calibration"),
    ("what a simulation costs", "simulator"),
    ("the textbook's claims judged", "claims"),
    ("failures", "failures"),
)
BUDGETS = ("ten budgets against every rule", "budgets")


def main_groups(frame: pd.DataFrame) -> list[list[Row]]:
    """One group a device, measured ones if there are any: that with most cells timed, then run."""
    best: dict[str, list[Row]] = {}
    found = tradeoff_groups(frame)
    measured = [group for group in found if not group[0]["modelled"]]
    for group in measured or found:
        device = group[0]["device"]
        if device not in best or _weight(group) > _weight(best[device]):
            best[device] = group
    return list(best.values())


def _weight(group: Sequence[Row]) -> tuple[int, int]:
    return sum(bool(row["rounds"]) for row in group), len(group)


def block(frame: pd.DataFrame, tables: str, *, studied: bool = False) -> str:
    """The Markdown for the README.

    Args:
        frame: of the records.
        tables: the path of the tables' folder from the README's.
        studied: there is a table of budgets.
    """
    parts = []
    for group in main_groups(frame):
        parts += [f"### {cell(title(group))}\n", group_table(group)]
    named = [*LINKS[:1], *(BUDGETS for _ in range(studied)), *LINKS[1:]]
    links = ", ".join(f"[{text}]({tables}/{name}.md)" for text, name in named)
    return "\n".join([*parts, NOTES, f"More: {links}.\n"])


def inject(text: str, made: str) -> str:
    """``text`` with what is between the markers replaced by ``made``.

    Raises:
        ValueError: not exactly one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README must hold {BEGIN} and, after it, {END}, once each")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{made}\n{END}{tail}"
