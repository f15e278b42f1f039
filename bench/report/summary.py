"""The narrow table: what the textbook names, in six columns, for the README and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import display
from bench.report.claims import LEDGER
from bench.report.display import percent, times
from bench.report.frame import Row
from bench.report.tables import gradient

HEADER = ("Strategy", "Plan", "Peak × none", "Extra compute", "Step × none", "Gradients")
ROWS = 12
CHOOSES = "auto"
"""The strategy that stands for all that keep a budget: it chooses among them."""

NOTES = (
    "Peak: most bytes allocated at once in a step. Extra compute: counted FLOPs that are done "
    "again, of one forward. Step: the paired ratio to `none` in the same round with its "
    "95 % interval, † where that is too wide to rank close strategies. Both × `none` are over "
    "`none` with math attention."
)


def of_textbook(group: Sequence[Row]) -> list[Row]:
    """At most `ROWS` of a table's rows, in its order: what the textbook's chapter names.

    A formula O(…) has to be one that the ledger of claims quotes; what the chapter has in words
    (compression, offloading) counts too. Of points of one strategy that differ in a number, such
    as ``k``, that with the lowest peak; points that differ in a word are different things, and are
    all there, unless the chapter says which (FP16, INT8). Budgets are not in the chapter: `CHOOSES`
    stands for them.
    """
    named = [row for row in group if _named(row)]
    kinds: dict[tuple[object, ...], Row] = {}
    for row in sorted(named, key=lambda row: row["peak_allocated_bytes"] or float("inf")):
        kinds.setdefault(_kind(row), row)
    cell_ids = {row["cell_id"] for row in kinds.values()}
    return [row for row in named if row["cell_id"] in cell_ids][:ROWS]


def _named(row: Row) -> bool:
    formula = row["textbook_memory"]
    if formula is None or "budget" in row["params"]:
        return bool(row["strategy"] == CHOOSES)
    if not formula.startswith("O("):
        return _one_of_those_named(row, formula)
    quoted = formula.partition(", ")[0].replace("·", " × ")
    return any(f" {quoted} " in claim.source for claim in LEDGER)


def _one_of_those_named(row: Row, formula: str) -> bool:
    """The formula has a word of the row's parameters in brackets, or has no such words at all."""
    words = {word.strip("()").lower() for word in formula.split() if word.startswith("(")}
    return not words or not words.isdisjoint(map(str, row["params"].values()))


def _kind(row: Row) -> tuple[object, ...]:
    """What the points of a strategy that differ in a number share."""
    words = sorted((k, v) for k, v in row["params"].items() if isinstance(v, str))
    return row["strategy"], row["label"] == row["spec"], str(words)


def table(group: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return display.table(HEADER, [[_strategy(row), *_rest(row)] for row in group])


def _strategy(row: Row) -> str:
    return display.cell(row["label"])


def _rest(row: Row) -> list[str]:
    return [
        display.code(plan(row)),
        times(row["peak_x_reference"]),
        percent(row["recompute_of_forward"]),
        display.interval(row),
        gradient(row),
    ]


def plan(row: Row) -> str | None:
    """The plan, abbreviated; ``None`` without one."""
    return display.abbreviate(row["plan"]) if row["plan"] else None


def step(row: Row) -> str:
    """``1.31×``, ``1.31× †`` where it is unstable, ``1.31× modelled`` where it was not measured."""
    if row["step_ratio"] is None:
        return display.interval(row)
    return times(row["step_ratio"]) + (" †" if row["unstable"] else "")
