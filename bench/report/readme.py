"""What README.md has between its markers: the narrow table, the verdicts, the links."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from bench.report import claims, display, summary, trust
from bench.report.display import cell
from bench.report.frame import Row
from bench.report.tables import title, tradeoff_groups

BEGIN = "<!-- tradeoff:begin -->"
END = "<!-- tradeoff:end -->"

LINKS = (
    ("every table", "tradeoff"),
    ("ten budgets against every rule", "budgets"),
    ("budgets promised to training loops", "promises"),
    ("`auto` against every contender", "contests"),
    ("published GPU figures, modelled", "published"),
    ("the simulation beside real devices", "validations"),
    ("real architectures, to the bit", "models"),
    ("growth with depth", "depth"),
    ("the time model against this CPU", "calibration"),
    ("what a simulation costs", "simulator"),
    ("the textbook's claims judged", "claims"),
    ("other people's implementations", "peers"),
    ("where checkpointing starts to pay", "pays"),
    ("failures", "failures"),
    ("what solvers cost", "solvers"),
    ("what intervals cover", "coverage"),
)
STUDIES = frozenset(
    {
        *("budgets", "coverage", "models", "pays", "peers", "promises", "published", "solvers"),
        *("contests", "validations"),
    }
)
"""Tables that are not made from records."""


def main_groups(frame: pd.DataFrame) -> list[list[Row]]:
    """One group a device, measured ones if there are any: that with most cells timed, then run."""
    best: dict[str, list[Row]] = {}
    groups = tradeoff_groups(frame)
    measured = [group for group in groups if not group[0]["modelled"]]
    for group in measured or groups:
        device = group[0]["device"]
        if device not in best or _weight(group) > _weight(best[device]):
            best[device] = group
    return list(best.values())


def _weight(group: Sequence[Row]) -> tuple[int, int]:
    return sum(bool(row["rounds"]) for row in group), len(group)


def block(
    frame: pd.DataFrame, tables: str, studies: Collection[str] = (), said: Sequence[str] = ()
) -> str:
    """The Markdown for the README.

    Args:
        frame: of the records.
        tables: the path of the tables' folder from the README's.
        studies: which of `STUDIES` there are.
        said: sentences of studies.
    """
    parts = []
    for group in main_groups(frame):
        rows = summary.of_textbook(group)
        parts += [f"### {cell(title(group))}\n", f"{cell(display.where(rows or group))}.\n"]
        parts += [summary.table(rows), *(f"{cell(one)}\n" for one in trust.remarks(rows))]
    verdicts = "\n".join(f"- {line}" for line in claims.textbook_rows(frame))
    judged = f"The textbook's table, judged by the records:\n\n{verdicts}\n"
    named = [(text, name) for text, name in LINKS if name not in STUDIES or name in studies]
    links = ", ".join(f"[{text}]({tables}/{name}.md)" for text, name in named)
    sentences = [f"{sentence}\n" for sentence in said]
    return "\n".join([*parts, f"{summary.NOTES}\n", judged, *sentences, f"More: {links}.\n"])


def inject(text: str, block: str) -> str:
    """``text`` with what is between the markers replaced by ``block``.

    Raises:
        ValueError: not exactly one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README must hold {BEGIN} and, after it, {END}, once each")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{block}\n{END}{tail}"
