"""What the page draws of studies: plain data, a chart each; the drawing is the page's own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.report import budgets, display, promises, solvers
from bench.report import timeline as drawing
from bench.report.rounding import steady
from bench.report.stats import Interval
from bench.store import budgets as budget_studies
from bench.store import promises as promise_studies
from bench.store import solvers as solver_studies
from bench.store import timelines

Data = dict[str, Any]


def timeline(study: timelines.Study) -> Data:
    """One step: bytes by category, phases, the peak, and what must be said with them."""
    peak = study.peak
    row = {name: getattr(study, name) for name in study.__struct_fields__}
    parts = sorted(peak.peak_by_category.items(), key=lambda part: -part[1])
    return {
        "title": f"{study.workload}, {study.spec}, {study.device}",
        "facts": f"{display.where([row])}. {display.options(row)}. "
        f"Precision {study.precision}, optimizer {study.optimizer}.",
        "modelled": study.modelled,
        "axis": study.axis_label,
        "positions": study.positions,
        "series": [
            {"name": name, "colour": drawing.COLOURS.get(name, "#888888"), "bytes": counts}
            for name, counts in study.alive_by_category.items()
        ],
        "phases": [
            {**msgspec.structs.asdict(phase), "colour": _phase_colour(phase.name)}
            for phase in study.phases
        ],
        "allocated": {"positions": study.allocated_positions, "bytes": study.allocated_bytes},
        "limit_bytes": study.limit_bytes,
        "peak": {
            "position": peak.position,
            "bytes": peak.size_bytes,
            "where": f"{peak.operator} in {peak.module}, {peak.phase}",
            "parts": [{"name": name, "bytes": count} for name, count in parts],
        },
        "kept": f"{len(study.positions)} of {study.moment_count} moments",
    }


def _phase_colour(name: str) -> str:
    return drawing.PHASE_COLOURS.get(name, "#888888")


def budget(study: budget_studies.Study) -> Data:
    """Measured and predicted step ratios at each budget, and those of the best rule that fits."""
    lines = budgets.lines(study)
    return {
        "title": f"{study.workload} on {study.device}",
        "facts": display.where([budgets.heading(study)]),
        "budgets": [one.budget.budget_bytes for one in lines],
        "optimal": [_interval(one.step) for one in lines],
        "predicted": [steady(one.predicted_ratio) for one in lines],
        "rule": [_interval(one.best_step) for one in lines],
        "rules": [budgets.rule(one.best) if one.best else None for one in lines],
        "plans": [display.abbreviate(one.chosen.plan, 60) for one in lines],
        "verdicts": [one.verdict for one in lines],
    }


def _interval(one: Interval | None) -> Data | None:
    if one is None:
        return None
    return {"ratio": one.estimate, "low": one.low, "high": one.high}


def promise(studies: Sequence[promise_studies.Study]) -> list[Data]:
    """A point for each promised budget."""
    return [
        {
            "model": promises.label(study),
            "loop": promises.LOOPS[loop.accumulation],
            "used": steady(promises.used(one)),
            "kept": promises.kept(one),
            "budget_bytes": one.budget_bytes,
            "peak_bytes": one.peak_allocated_bytes,
        }
        for study in studies
        for loop in study.loops
        for one in loop.promises
    ]


def solver(study: solver_studies.Study) -> Data:
    """Seconds over blocks of one machine, a line a solver."""
    names = sorted({solvers.label(timing) for timing in study.timings})
    return {
        "title": solvers.device(study),
        "facts": f"{solvers.versions(study)}; {solvers.shape(study)}.",
        "lines": [
            {"name": name, "points": [_timing(t) for t in _of(study, name)]} for name in names
        ],
    }


def _of(study: solver_studies.Study, name: str) -> list[solver_studies.Timing]:
    own = [timing for timing in study.timings if solvers.label(timing) == name]
    return sorted(own, key=lambda timing: timing.blocks)


def _timing(timing: solver_studies.Timing) -> Data:
    times = timing.solve_s
    return {
        "blocks": timing.blocks,
        "median_s": statistics.median(times),
        "low_s": min(times),
        "high_s": max(times),
    }
