"""Records to one table: raw fields, derived metrics, and what each row is compared with."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from math import isnan
from typing import Any

import msgspec
import pandas as pd

from bench.report.metrics import (
    METRICS,
    modelled_step_over_none,
    peak_over_none,
    saved_over_none,
    step_interval,
)
from bench.store.records import Record

Row = dict[str, Any]

ATTENTION = "attention"
FLASH = "flash"
REFERENCE = "none"
# Two cells are comparable when these agree; options come on top.
SETTING = (
    "workload",
    "device",
    "device_name",
    "machine_id",
    "precision",
    "optimizer",
    "torch_version",
    "modelled",
    "threads",
    "memory_limit_bytes",
)
_NULLABLE: dict[Any, str] = {int | None: "Int64", float | None: "Float64", bool | None: "boolean"}


_DERIVED = dict.fromkeys(METRICS, "Float64") | {"rounds": "Int64", "unstable": "boolean"}


def key_of(record: Record, *, without: tuple[str, ...] = ()) -> str:
    """The setting and workload options of ``record``, without some options, as sorted JSON."""
    options = {k: v for k, v in record.workload_options.items() if k not in without}
    setting = {name: getattr(record, name) for name in SETTING}
    return json.dumps(setting | {"options": options}, sort_keys=True, default=str)


def family_of(record: Record) -> str:
    """One table's worth: the same setting and workload shape, whatever the attention kernel."""
    return key_of(record, without=(ATTENTION,))


def attention_of(record: Record) -> str | None:
    """The attention that the workload was asked for; ``None`` where it has no such option."""
    return record.workload_options.get(ATTENTION)


def label_of(record: Record) -> str:
    """The specification as a user types it, and the attention kernel where it is not math."""
    return f"{record.spec} (flash attention)" if attention_of(record) == FLASH else record.spec


def latest(records: Iterable[Record]) -> list[Record]:
    """One record a cell: the latest of each cell, then of each question asked by several cells.

    The same question (setting, options, spec, seed) has two cell ids when the code changed in
    between, or when one run was timed and one was not. Newer code wins; then a timed run does.
    """
    cells: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: r.started_at_utc):
        cells[record.machine_id, record.cell_id] = record
    questions: dict[tuple[str, str, int], list[Record]] = {}
    for record in sorted(cells.values(), key=lambda r: (r.started_at_utc, r.cell_id)):
        questions.setdefault((key_of(record), record.spec, record.seed), []).append(record)
    return [_newest(asked) for asked in questions.values()]


def _newest(asked: list[Record]) -> Record:
    current = [record for record in asked if record.code_hash == asked[-1].code_hash]
    return next((r for r in reversed(current) if r.step_s), current[-1])


def references(records: Iterable[Record]) -> tuple[dict[str, Record], dict[str, Record]]:
    """The `none` cell of each setting with options, and of each family (math attention)."""
    none = [r for r in records if r.strategy == REFERENCE and r.status == "ok"]
    same = {key_of(r): r for r in none}
    return same, {family_of(r): r for r in none if attention_of(r) != FLASH}


def build(records: Iterable[Record]) -> pd.DataFrame:
    """One row a cell, in a stable order, with every field of the schema and every metric.

    Further columns: ``label``, ``family`` (rows of one table), ``peak_x_reference``,
    ``saved_x_reference`` and ``modelled_step_x_reference`` (over the family's `none` with math
    attention, or its own `none` where there is no such), ``rounds`` and ``unstable`` (of the
    step ratio).
    """
    kept = sorted(latest(records), key=lambda r: (key_of(r), label_of(r), r.cell_id))
    same, family = references(kept)
    rows = [_row(r, none := same.get(key_of(r)), family.get(family_of(r), none)) for r in kept]
    return _typed(pd.DataFrame(rows, columns=None if rows else list(Record.__struct_fields__)))


def _row(record: Record, none: Record | None, reference: Record | None) -> Row:
    interval = step_interval(record)
    return msgspec.structs.asdict(record) | {
        "label": label_of(record),
        "family": family_of(record),
        "peak_x_reference": peak_over_none(record, reference),
        "saved_x_reference": saved_over_none(record, reference),
        "modelled_step_x_reference": modelled_step_over_none(record, reference),
        "rounds": interval.rounds if interval else None,
        "unstable": interval.unstable if interval else None,
        **{name: metric.compute(record, none) for name, metric in METRICS.items()},
    }


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers stay whole where some are missing (pandas would make them floats)."""
    types = {field.name: field.type for field in msgspec.structs.fields(Record)}
    for name in frame.columns:
        kind = _NULLABLE.get(types.get(name), _DERIVED.get(str(name)))
        if kind is not None:
            frame[name] = frame[name].astype(kind)  # type: ignore[call-overload]
    return frame


def rows(frame: pd.DataFrame) -> list[Row]:
    """Rows as dictionaries, with ``None`` for every kind of missing value.

    Every claim, table and figure asks for those of the same frame, which is not changed once it is
    built: they are read out of it once.
    """
    key = id(frame)
    if key not in _ROWS:
        _ROWS[key] = _read(frame)
        weakref.finalize(frame, _ROWS.pop, key, None)
    return [dict(row) for row in _ROWS[key]]


_ROWS: dict[int, list[Row]] = {}
"""By identity of the frame, as long as it lives."""


def _read(frame: pd.DataFrame) -> list[Row]:
    columns = {
        str(name): [None if _missing(value) else value for value in frame[name].tolist()]
        for name in frame.columns
    }
    every = zip(*columns.values(), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in every]


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and isnan(value))


def groups(frame: pd.DataFrame) -> list[list[Row]]:
    """The rows of each family: measured before modelled, then by device, workload and options."""
    by_family: dict[str, list[Row]] = {}
    for row in rows(frame):
        by_family.setdefault(row["family"], []).append(row)
    families = by_family.values()
    return sorted(families, key=lambda g: (g[0]["modelled"], g[0]["device"], g[0]["family"]))
