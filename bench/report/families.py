"""Families of strategies: what each does with memory, told from what its cells did."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.display import COLOURS, MARKERS, REFERENCE, Look
from bench.report.frame import Row

BUDGET, STORED, COMPILED = "by budget", "smaller or elsewhere", "compiled"
INSIDE, GROUPS, NOTHING = "parts of blocks", "whole blocks", "nothing again"

COLOUR_OF = dict(zip((GROUPS, BUDGET, STORED, INSIDE, COMPILED), COLOURS, strict=False))
"""In the order of the legend."""


def family(row: Row) -> str:
    """Of which family a cell's strategy is."""
    if row["plan"] is None:
        return COMPILED
    if "budget" in row["params"]:
        return BUDGET
    if row["storage"]:
        return STORED
    if "[" in row["plan"]:
        return GROUPS
    return INSIDE if row["recompute_flops"] else NOTHING


def families(points: Sequence[Row]) -> dict[str, str]:
    """The family of each strategy, that of most of its cells; the reference is of none."""
    kinds: dict[str, list[str]] = {}
    for row in points:
        if row["strategy"] != REFERENCE:
            kinds.setdefault(row["strategy"], []).append(family(row))
    return {name: max(sorted(set(all_)), key=all_.count) for name, all_ in sorted(kinds.items())}


def looks(points: Sequence[Row]) -> dict[str, Look]:
    """The colour of its family and a marker of its own in it for each strategy, by family."""
    look = {REFERENCE: Look("#000000", "*")}
    of = families(points)
    for kind, colour in {**COLOUR_OF, NOTHING: "#000000"}.items():
        for index, name in enumerate(name for name, its in of.items() if its == kind):
            look[name] = Look(colour, MARKERS[index % len(MARKERS)])
    return look
