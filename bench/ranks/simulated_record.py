"""What the record of a simulated rank says: as that of a simulated cell, and of collectives."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

import msgspec

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.devices.accelerators import Accelerator
from bench.ranks.simulated import RankSimulation, checked, trace_rank
from bench.ranks.simulated_streams import DEFAULT, parts, taken_bytes
from bench.ranks.simulated_time import RankTime, interconnect_of, pipelined, rank_time
from bench.run.blank import blank
from bench.simulate.record import fit_in, parts_of
from bench.simulate.roofline import attained
from bench.store.parts import Exchange, Fit, ModelledExchange, ModelledTimes, Part
from bench.store.records import Record
from strategies import Unsupported
from strategies.profiling.free_blocks import GRANULE_BYTES


def simulate(cell: Cell) -> Record:
    """The record of the first of the cell's ranks, which stands for all; of stages, the largest.

    Raises:
        ValueError: the model cannot be shared so, or the catalogue knows no link between devices.
    """
    started = time.perf_counter()
    try:
        record = blank(cell).with_parts(*_parts(cell))
    except Unsupported as error:
        record = blank(cell, "unsupported", str(error))
    return msgspec.structs.replace(record, duration_s=round(time.perf_counter() - started, 3))


def _parts(cell: Cell) -> list[Part]:
    device = accelerators.get(cell.device)
    interconnect_of(device)
    rank, fit, times = largest(cell, device)
    return [
        fit,
        ModelledTimes(modelled_step_s=times.step_s),
        ModelledExchange(
            modelled_communication_s=times.communication_s, modelled_exposed_s=times.exposed_s
        ),
        exchange_of(rank),
        *parts_of(rank.simulation),
    ]


def largest(cell: Cell, device: Accelerator) -> tuple[RankSimulation, Fit, RankTime]:
    """The rank that reserves most, and the time of all: only stages of a pipeline differ.

    Raises:
        Unsupported: the strategy cannot run on this workload.
        ValueError: see `simulate`.
    """
    parallel = checked(cell)
    ranks = [trace_rank(cell, stage=stage) for stage in range(parallel.pipeline)]
    fits = [_judged(rank, fit_of(rank, device)) for rank in ranks]
    times = [time_of(rank, device) for rank in ranks]
    most = max(range(len(ranks)), key=lambda stage: _need(fits[stage]))
    if len(ranks) == 1:
        return ranks[0], fits[0], times[0]
    simulation = ranks[most].simulation
    notes = [*simulation.prepared.notes, f"of {len(ranks)} stages number {most + 1} reserves most"]
    simulation.prepared = dataclasses.replace(simulation.prepared, notes=notes)
    return ranks[most], fits[most], pipelined(times, parallel.parts)


def _need(fit: Fit) -> tuple[bool, int]:
    """What is no answer comes first."""
    return fit.status == "mismatch", fit.steady_reserved_bytes or 0


def _judged(rank: RankSimulation, fit: Fit) -> Fit:
    """With the parameters that got no gradient."""
    missing = rank.simulation.missing
    reason = f"no gradient for {', '.join(missing)}"
    return msgspec.structs.replace(fit, status="mismatch", reason=reason) if missing else fit


def fit_of(rank: RankSimulation, device: Accelerator) -> Fit:
    """Whether the rank's step fits; what FSDP2's streams reserve is not the default one's."""
    recorded = rank.simulation.trace
    fit = fit_in(
        parts(recorded, rank.streams)[DEFAULT],
        device.memory_bytes,
        recorded.workspaces(device),
        taken_bytes=taken_bytes(recorded, rank.streams),
    )
    return msgspec.structs.replace(
        fit, peak_allocated_bytes=max(recorded.alive_bytes(GRANULE_BYTES))
    )


def time_of(rank: RankSimulation, device: Accelerator) -> RankTime:
    """Seconds of the rank's step.

    Raises:
        ValueError: the catalogue knows no link between such devices.
    """
    work = attained(rank.simulation.trace.work, device)
    return rank_time(work, rank.collectives, rank.unpacked, rank.parallel, device)


def exchange_of(rank: RankSimulation) -> Exchange:
    """Collectives by kind."""
    sizes: Counter[str] = Counter()
    for one in rank.collectives:
        sizes[one.kind] += one.whole_bytes
    again = Counter(one.kind for one in rank.collectives if one.recompute)
    return Exchange(
        communication_calls=dict(Counter(one.kind for one in rank.collectives)),
        communication_bytes=dict(sizes),
        recomputed_collectives=dict(again),
    )
