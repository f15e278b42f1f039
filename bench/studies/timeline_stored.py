"""A timeline as it is stored: thinned to what a page can show, the peak among what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.cells import machine
from bench.cells.cell import Cell
from bench.report.timeline import thin
from bench.run.blank import device_name
from bench.store import timelines
from bench.store.timeline import Timeline

COLUMNS = 240
"""How finely a stored timeline resolves its axis: files are read by people, too."""


def stored(cell: Cell, timeline: Timeline) -> timelines.Study:
    """What is kept of the timeline of a cell, with where and when it was made."""
    workload, kept = cell.make_workload(), thin(timeline.positions, timeline.totals, COLUMNS)
    given_out = timeline.allocated
    at, counts = (given_out.positions, given_out.size_bytes) if given_out else ((), ())
    theirs = thin(at, counts, COLUMNS).tolist() if counts else []
    provenance = machine.provenance(timelines.SCHEMA_VERSION, cell.seed)
    return timelines.Study(
        **provenance | {"machine_id": cell.machine_id},
        workload=workload.name,
        workload_options=workload.options(),
        spec=cell.spec,
        device=cell.device,
        device_name=device_name(cell),
        modelled=cell.simulated,
        precision=cell.precision,
        optimizer=cell.optimizer,
        moment_count=len(timeline.positions),
        axis=timeline.axis,
        axis_label=timeline.axis_label,
        positions=_floats(timeline.positions, kept.tolist()),
        alive_by_category={
            name: np.asarray(alive, dtype=np.int64)[kept].tolist()
            for name, alive in timeline.series.items()
            if max(alive)
        },
        phases=[timelines.Phase(name=p.name, begin=p.begin, end=p.end) for p in timeline.phases],
        peak=_peak(timeline),
        allocated_positions=_floats(at, theirs),
        allocated_bytes=[int(counts[index]) for index in theirs],
        limit_bytes=timeline.limit_bytes,
    )


def _floats(positions: Sequence[float], kept: Sequence[int]) -> list[float]:
    """Positions of what is kept; a microsecond is as fine as any clock here."""
    return [round(float(positions[index]), 6) for index in kept]


def _peak(timeline: Timeline) -> timelines.Peak:
    peak = timeline.peak
    return timelines.Peak(
        position=peak.position,
        size_bytes=peak.size_bytes,
        operator=peak.operator,
        module=peak.module,
        phase=peak.phase,
        peak_by_category=dict(peak.by_category),
    )
