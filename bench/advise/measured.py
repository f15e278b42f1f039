"""Candidates on a device that is here, from their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import strategies
from bench.advise.candidates import BUDGETED, NONE
from bench.advise.facts import Candidate
from bench.report.frame import build, rows
from bench.store.records import Record

Measure = Callable[[str], Record]


def measured(measure: Measure, specs: Sequence[str], room_bytes: int) -> Iterator[Candidate]:
    """Candidates on a device that is here, one measurement each.

    Args:
        measure: gives the record of a specification.
        specs: besides `NONE`, which is the first, and a budget where that does not fit.
        room_bytes: what each may take.
    """
    plain = measure(NONE)
    yield _of_record(plain, plain, room_bytes)
    peak_bytes = plain.peak_allocated_bytes
    tight = peak_bytes is None or peak_bytes > room_bytes
    budget = [strategies.get(BUDGETED, budget=str(room_bytes)).spec()] if tight else []
    for spec in (*specs, *budget):
        yield _of_record(measure(spec), plain, room_bytes)


def _of_record(record: Record, plain: Record, room_bytes: int) -> Candidate:
    frame = build([plain, record])
    row: dict[str, Any] = next(row for row in rows(frame) if row["spec"] == record.spec)
    peak_bytes = record.peak_allocated_bytes
    over = record.status == "ok" and peak_bytes is not None and peak_bytes > room_bytes
    return Candidate(
        spec=record.spec,
        status="oom" if over else record.status,
        reason=f"needs {peak_bytes:,} bytes of {room_bytes:,}" if over else record.reason,
        plan=record.plan,
        peak_allocated_bytes=peak_bytes,
        peak_reserved_bytes=record.peak_reserved_bytes,
        recompute_of_forward=row["recompute_of_forward"],
        step_ratio=row["step_ratio"],
        notes=tuple(record.notes),
    )
