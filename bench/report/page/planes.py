"""Memory against time: one plane a setting, with its front, its budgets, and what to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.report import budgets, display, families, frontier, tables
from bench.report.frame import ATTENTION, FLASH, Row
from bench.report.page.markup import inline
from bench.store.budgets import Contender, Study

SAME = ("workload", "workload_options", "device", "device_name", "precision", "optimizer")
"""What a budget study and cells have in common that its budgets are drawn among."""
BY_BUDGET = "optimal"
"""That chooses the plans of a budget study."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One strategy in a plane.

    Attributes:
        label: its name.
        family: of strategies, which is its colour.
        line: that applies it.
        peak_bytes: measured; modelled in a modelled plane.
        ratio: of its step to that of `none`.
        low: end of the interval of the ratio; ``None``: there is none.
        high: its other end.
        unstable: the interval is too wide to rank close strategies.
        exact: its gradients are those of `none`, to the bit.
        plan: abbreviated.
        gradients: how they compare with those of `none`; empty: not compared.
        anchor: of its row in the table; empty: it has none.
    """

    label: str
    family: str
    line: str
    peak_bytes: int
    ratio: float
    low: float | None
    high: float | None
    unstable: bool
    exact: bool
    plan: str
    gradients: str
    anchor: str = ""


@dataclasses.dataclass(frozen=True)
class Plane:
    """Points that may be compared: of one workload, machine and setting.

    Attributes:
        title: of what.
        facts: device, versions, date, options.
        modelled: whether the device was not there.
        points: by peak.
        front: indices of points that none beats in both, from the lowest peak.
        exact_front: the same among exact ones.
        budgets: in bytes, that were asked for.
    """

    title: str
    facts: str
    modelled: bool
    points: list[Point]
    front: list[int]
    exact_front: list[int]
    budgets: list[int]


def planes(frame: pd.DataFrame, anchors: dict[str, str], studies: Sequence[Study]) -> list[Plane]:
    """A plane for each table of cells and for each budget study.

    What is measured comes first, of that cells, and of those what has most points.

    Args:
        frame: of records.
        anchors: of rows in the page's table, by cell.
        studies: of budgets.
    """
    groups = tables.tradeoff_groups(frame) if len(frame) else []
    of_cells = [_of_cells(group, anchors, studies) for group in groups]
    most_first = sorted(of_cells, key=lambda one: (-len(one.points), one.title))
    every = [*most_first, *map(_of_study, studies)]
    return sorted((one for one in every if one.points), key=lambda one: one.modelled)


def _of_cells(group: Sequence[Row], anchors: dict[str, str], studies: Sequence[Study]) -> Plane:
    first = group[0]
    kind = frontier.MODELLED if first["modelled"] else frontier.MEASURED
    points = frontier.points_of(group, kind)
    of = families.families(points)
    asked = [study for study in studies if _same(first, study)]
    return _plane(
        tables.title(group),
        [_point(row, of.get(row["strategy"], families.NOTHING), anchors) for row in points],
        facts=f"{display.where(group)}. {_setting(first)}",
        modelled=bool(first["modelled"]),
        asked=sorted({one.budget_bytes for study in asked for one in study.budgets}),
    )


def _plane(title: str, points: list[Point], *, asked: list[int], **others: Any) -> Plane:
    """With its fronts."""
    plane = [
        {"peak_allocated_bytes": one.peak_bytes, "step_ratio": one.ratio, "exact": one.exact}
        | {"index": index}
        for index, one in enumerate(points)
    ]
    front, exact = ([row["index"] for row in rows] for rows in frontier.fronts_of(plane))
    return Plane(title, points=points, front=front, exact_front=exact, budgets=asked, **others)


def _setting(row: Row) -> str:
    shape = display.options(row, without=(ATTENTION,))
    return f"{shape}. Precision {row['precision']}, optimizer {row['optimizer']}."


def _same(row: Row, study: Study) -> bool:
    return not row["modelled"] and all(row[name] == getattr(study, name) for name in SAME)


def _point(row: Row, family: str, anchors: dict[str, str]) -> Point:
    measured = not row["modelled"]
    return Point(
        label=str(row["label"]),
        family=family,
        line=_line(row),
        peak_bytes=row["peak_allocated_bytes"],
        ratio=row["step_ratio"],
        low=row["step_ratio_low"] if measured else None,
        high=row["step_ratio_high"] if measured else None,
        unstable=measured and bool(row["unstable"]),
        exact=bool(row["exact"]),
        plan=display.abbreviate(row["plan"] or "", 60),
        gradients=_gradients(row),
        anchor=anchors.get(row["cell_id"], ""),
    )


def _gradients(row: Row) -> str:
    text = tables.gradient(row)
    return "" if text == display.MISSING else inline(text).striptags()


def _line(row: Row) -> str:
    example = ", example=batch" if frontier.BUDGET in row["params"] else ""
    flash = row["workload_options"].get(ATTENTION) == FLASH
    remark = "  # and flash attention in the model" if flash else ""
    return f"strategies.apply(model, {row['spec']!r}{example}){remark}"


def _of_study(study: Study) -> Plane:
    row = budgets.heading(study)
    ordered = sorted(study.contenders, key=lambda one: one.peak_allocated_bytes)
    points = [_contender(study, one) for one in ordered]
    asked = sorted(one.budget_bytes for one in study.budgets)
    return _plane(
        f"{study.workload} on {study.device}: {len(asked)} budgets",
        points,
        facts=f"{display.where([row])}. {_setting(row)}",
        modelled=False,
        asked=asked,
    )


def _contender(study: Study, one: Contender) -> Point:
    interval = budgets.ratio(one, study.contenders[0])
    exact = one.grads_bitwise_equal
    return Point(
        label=_name(study, one),
        family=families.NOTHING if one == study.contenders[0] else _family(one),
        line=_applied(study, one),
        peak_bytes=one.peak_allocated_bytes,
        ratio=interval.estimate,
        low=interval.low,
        high=interval.high,
        unstable=interval.unstable,
        exact=exact,
        plan=display.abbreviate(one.plan, 60),
        gradients="bitwise equal" if exact else "not bitwise equal",
    )


def _budget_bytes(study: Study, one: Contender) -> int | None:
    """The largest budget that it was chosen for."""
    asked = (b.budget_bytes for b in study.budgets if study.contenders[b.contender] == one)
    return max(asked, default=None)


def _name(study: Study, one: Contender) -> str:
    """The rule, or the budget that its plan was made for."""
    asked_bytes = _budget_bytes(study, one)
    if one.heuristics or asked_bytes is None:
        return budgets.rule(one)
    return f"{BY_BUDGET}(budget={asked_bytes})"


def _applied(study: Study, one: Contender) -> str:
    name = _name(study, one)
    example = "" if one.heuristics else ", example=batch"
    return f"strategies.apply(model, {name!r}{example})" if name != one.plan else ""


def _family(one: Contender) -> str:
    return families.GROUPS if one.heuristics else families.BUDGET
