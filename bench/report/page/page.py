"""One self-contained page from everything that is stored: the same records, the same bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bench.report import claims, display, families
from bench.report.frame import Row, build, rows
from bench.report.page import cells, charts, sealing
from bench.report.page.environments import environments
from bench.report.page.markup import asset, environment, markdown
from bench.report.page.planes import planes
from bench.report.stored import Stored
from bench.store.clusters import Study

SCRIPTS = (
    "core.js",
    "draw.js",
    "tables.js",
    "plane.js",
    "timelines.js",
    "studies.js",
    "start.js",
)
"""In the order in which they run, as one."""
SECTIONS = {
    "budgets": "Ten budgets against every rule",
    "promises": "Budgets promised to training loops",
    "solvers": "What solvers cost",
}
"""Tables below a chart, by name of their file."""
MORE = {
    "contests": "auto against every contender",
    "published": "Published GPU figures, modelled",
    "clusters": "FSDP alone, and with checkpointing",
    "validations": "The simulation beside real devices",
    "models": "Real architectures, to the bit",
    "peers": "Other people's implementations",
    "pays": "Where checkpointing starts to pay",
    "depth": "Growth with depth",
    "calibration": "The time model against this machine",
    "simulator": "What a simulation costs",
    "coverage": "What intervals cover",
}
"""Tables that stand for themselves."""


def render(stored: Stored) -> bytes:
    """The page.

    Raises:
        ValueError: nothing is stored, or a record whose rounds cannot be paired.
    """
    if stored.empty():
        raise ValueError("nothing is stored to report: measure something first")
    drawing, own = get_plotlyjs(), "".join(map(asset, SCRIPTS))
    own = f'"use strict";(() => {{\n{own}}})();\n'
    frame = build(stored.records)
    measured = cells.ordered(rows(frame)) if stored.records else []
    lines = cells.lines(measured)
    anchors = {row["cell_id"]: line.anchor for row, line in zip(measured, lines, strict=True)}
    text = (
        environment()
        .get_template("page.html")
        .render(
            policy=sealing.policy((own, drawing)),
            style=Markup(asset("style.css")),  # noqa: S704 - a file of ours
            script=Markup(own),  # noqa: S704 - files of ours
            drawing=sealing.packed(drawing),
            data=_data(stored, frame, anchors),
            summary=_summary(stored, measured),
            lines=lines,
            columns=list(cells.COLUMNS),
            numbers=cells.NUMBERS,
            choices=cells.choices(measured),
            claims=_claims(stored.judged(), stored.clusters, anchors) if measured else [],
            environments=environments(stored),
            units=display.UNITS,
            **_tables(stored),
        )
    )
    return text.encode()


def _data(stored: Stored, frame: pd.DataFrame, anchors: Mapping[str, str]) -> dict[str, Any]:
    """What scripts draw."""
    return {
        "planes": [dataclasses.asdict(one) for one in planes(frame, dict(anchors), stored.budgets)],
        "colours": families.COLOUR_OF,
        "timelines": [charts.timeline(study) for study in stored.timelines],
        "budgets": [charts.budget(study) for study in stored.budgets],
        "promises": charts.promise(stored.promises),
        "solvers": [charts.solver(study) for study in stored.solvers],
    }


def _summary(stored: Stored, measured: Sequence[Row]) -> list[tuple[str, str]]:
    """Pairs of a figure and what it counts."""
    statuses = Counter(str(row["status"]) for row in measured)
    counts = [(str(count), f"cells {status}") for status, count in statuses.most_common()]
    modelled = sum(bool(row["modelled"]) for row in measured)
    return [
        *counts,
        (str(modelled), "of them modelled: the device was not there"),
        (str(len(stored.timelines)), "timelines"),
        (str(sum(len(study.budgets) for study in stored.budgets)), "budgets studied"),
    ]


def _claims(
    frame: pd.DataFrame, ranks: Sequence[Study], anchors: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The ledger, each verdict with links to the rows behind it."""
    return [
        claim | {"anchors": [anchors[name] for name in claim["records"] if name in anchors]}  # type: ignore[attr-defined]
        for claim in claims.data(frame, ranks)
    ]


def _tables(stored: Stored) -> dict[str, dict[str, tuple[str, Markup]]]:
    """Tables as they are committed, by name: what they are, and they themselves."""
    texts = {name.removesuffix(".md"): text for name, text in stored.tables().items()}
    return {
        key: {
            name: (title, markdown(texts[name])) for name, title in chosen.items() if name in texts
        }
        for key, chosen in (("sections", SECTIONS), ("more", MORE))
    }
