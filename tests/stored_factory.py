"""A little of everything that is stored, and names that would do harm if they were obeyed."""

import study_factory
from test_promises import loop, promise, study_of
from test_report_factory import chain, gpt_options, make

from bench.report.stored import Stored
from bench.store import solvers, timelines

HOSTILE = '</script><img src="x" onerror="window.hit=1"><script>window.hit=1</script>'
MB = 1_000_000
PROVENANCE = {
    "torch_version": "2.13.0",
    "python_version": "3.11.1",
    "machine_id": "m1",
    "machine": {"processor": "beads", "cores": 2},
    "commit": None,
    "dirty": None,
    "started_at_utc": "2026-01-02T03:04:05+00:00",
}
POINTS = {"none": (100, 1.0), "sqrt": (60, 1.2), "every_layer": (40, 1.4)}
"""Peak in MB and step ratio of strategies in the plane that is shown first."""


def timed(strategy, peak_mb, ratio, **changes):
    """A cell of gpt-mini that was timed."""
    steps = {"step_s": [ratio] * 6, "none_step_s": [1.0] * 6, "peak_allocated_bytes": peak_mb * MB}
    shape = {"workload": "gpt-mini", "workload_options": gpt_options(), "plan": "0 1 [2 3]"}
    return make(strategy, **{**shape, **steps, **changes})


def timeline(**changes):
    """Two categories over four moments."""
    fields = {
        "workload": "gpt-mini",
        "workload_options": {"layers": 2},
        "spec": "sqrt",
        "device": "cpu",
        "device_name": "Test CPU",
        "modelled": False,
        "precision": "fp32",
        "optimizer": "none",
        "moment_count": 9,
        "axis": "time_ms",
        "axis_label": "Time, ms",
        "positions": [0.0, 1.0, 2.0, 3.0],
        "alive_by_category": {"parameters": [5, 5, 5, 5], "saved tensors": [0, 8, 9, 0]},
        "phases": [
            timelines.Phase(name="forward", begin=0.0, end=2.0),
            timelines.Phase(name="backward", begin=2.0, end=3.0),
        ],
        "peak": timelines.Peak(
            position=2.0,
            size_bytes=14,
            operator="mm",
            module="h.1",
            phase="backward",
            peak_by_category={"parameters": 5, "saved tensors": 9},
        ),
    }
    return timelines.Study(**PROVENANCE | fields | changes)


def solver_study():
    timings = [
        solvers.Timing(
            solver="optimal",
            blocks=blocks,
            slots=500,
            default_slots=True,
            solve_s=[0.01 * blocks] * 3,
            gap_fraction=0.0,
        )
        for blocks in (4, 8)
    ]
    known = {"numba_version": "0.68", "highspy_version": "1.9"}
    return solvers.Study(
        **PROVENANCE, modes=2, budget_fraction=0.5, timings=timings, compile_s=1.0, **known
    )


def records():
    """Three timed strategies, a chain, a modelled cell, one out of memory, and a hostile one."""
    modelled = {"device": "sim:h100-80gb", "device_name": "NVIDIA H100", "modelled": True}
    return [
        *(timed(name, *point) for name, point in POINTS.items()),
        timed("compressed", 30, 1.3, exact=False, grad_max_rel_err=1e-3),
        timed("none", 70, 1.0, modelled_step_s=1.0, step_s=[], none_step_s=[], **modelled),
        timed("sqrt", 50, 1.0, modelled_step_s=1.5, step_s=[], none_step_s=[], **modelled),
        timed("dear", 90, 1.0, status="oom", reason="12 GB missing", step_s=[], none_step_s=[]),
        timed(
            "hostile",
            20,
            2.0,
            spec=HOSTILE,
            reason=HOSTILE,
            notes=[HOSTILE],
            plan=HOSTILE,
            device_name="Test CPU",
        ),
        *chain("none", (4, 8, 16, 32)),
    ]


def stored(**changes):
    """Everything, as it is read."""
    fields = {
        "records": records(),
        "budgets": [study_factory.study()],
        "solvers": [solver_study()],
        "promises": [study_of(HOSTILE, loop(promise(1000, 990), promise(2000, 1900)))],
        "timelines": [timeline(), timeline(spec=HOSTILE)],
    }
    return Stored(**fields | changes)
