"""Memory over a simulated step: traced on fake tensors, each storage as its allocator rounds it."""

from __future__ import annotations

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.simulate.peak import peak_event
from bench.simulate.record import fit_in
from bench.simulate.resized import rounded
from bench.simulate.run import trace_cell
from bench.store.parts import merged
from bench.store.timeline import Timeline
from bench.studies.timeline_parts import (
    Profile,
    facts_of,
    heading_of,
    peak_at,
    phases,
    residents,
    series_of,
)
from strategies.profiling.free_blocks import GRANULE_BYTES


def profile_simulated(cell: Cell) -> Profile:
    """Trace one step of ``cell``; positions are events, in order.

    Raises:
        ValueError: a parameter gets no gradient, or the simulation refuses the model.
    """
    simulation = trace_cell(cell)
    if simulation.missing:
        raise ValueError(f"{cell.spec}: no gradient for {', '.join(simulation.missing)}")
    device = accelerators.get(cell.device)
    step = rounded(simulation.trace, GRANULE_BYTES)
    first = residents(step) - 1
    index = peak_event(step)
    peak = peak_at(step, index, position=index - first)
    timeline = Timeline(
        positions=range(len(step.events) - first),
        series=series_of(step, first),
        phases=phases(step, range(len(step.events) - first)),
        peak=peak,
        axis="event",
        axis_label="Allocations and frees, in order (modelled: a count, not a time)",
        heading=heading_of(cell, f"{cell.device} ({device.product})"),
        limit_bytes=device.memory_bytes,
    )
    facts = facts_of(cell, timeline, step, simulation.blocks)
    workspaces = simulation.trace.workspaces(device)
    fit = fit_in(simulation.trace, device.memory_bytes, workspaces)
    return Profile(timeline, facts | merged(fit))
