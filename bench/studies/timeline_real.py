"""Memory over one real step on this CPU, under two instruments at once.

The profiler tells the allocator's own events, and the tracer what each tensor is. The allocator's
count is the truth; what it has beyond the tensors is kernels' scratch memory.
"""

from __future__ import annotations

import bisect
import dataclasses
import gc
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

import strategies
from bench import devices
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import memory
from bench.simulate.run import parts_of
from bench.simulate.trace import Trace
from bench.simulate.traced_step import trace
from bench.simulate.tracer import Tracer
from bench.store.timeline import Peak, Timeline, Total
from bench.studies.timeline_parts import (
    SCRATCH,
    Profile,
    facts_of,
    heading_of,
    peak_at,
    phases,
    residents,
    series_of,
)
from strategies.profiling.allocator import followed, profiler
from strategies.profiling.quiet import silenced
from strategies.profiling.standing import standing


class TimedTracer(Tracer):
    """Also notes when, on the clock of the profiler's events.

    A storage is seen when its operator is done, but the allocator made it while that ran: its birth
    is dated to the operator's beginning, and so what the allocator has beyond it is scratch.

    Attributes:
        times_ns: of each event; rising.
    """

    def __init__(self, model: torch.nn.Module, blocks: Sequence[torch.nn.Module] = ()) -> None:
        super().__init__(model, blocks)
        self.began_ns = time.time_ns()
        self.times_ns: list[int] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator; note when it began."""
        self.began_ns = time.time_ns()
        return super().__torch_dispatch__(func, types, args, kwargs)

    def born(self, key: int, size_bytes: int) -> None:
        """Open a life."""
        super().born(key, size_bytes)
        self._note(self.began_ns)

    def died(self, key: int, size_bytes: int) -> None:
        """Close it."""
        super().died(key, size_bytes)
        self._note(time.time_ns())

    def _note(self, time_ns: int) -> None:
        self.times_ns.append(max(time_ns, self.times_ns[-1] if self.times_ns else 0))


@dataclasses.dataclass(frozen=True)
class Recording:
    """A real step as both instruments saw it, from the last resident tensor on.

    Attributes:
        trace: what the tracer saw.
        times_ns: of its events.
        allocated: what the allocator had given out after each of its events, residents included.
        allocated_ns: when.
        spans: operators.
    """

    trace: Trace
    times_ns: list[int]
    allocated: list[int]
    allocated_ns: list[int]
    spans: list[memory.Span]


def profile_real(cell: Cell) -> Profile:
    """Run one step of ``cell`` under both instruments; positions are milliseconds."""
    torch.set_num_threads(cell.threads)
    torch.manual_seed(cell.seed)
    step = TrainingStep.build(
        cell.make_workload(), torch.device("cpu"), cell.precision, cell.optimizer
    )
    with strategies.apply(step.model, cell.spec, blocks=step.workload.blocks) as applied:
        step()  # creates the optimizer's state, and whatever kernels make once
        step.drop_gradients()
        recording = _record(step, applied.chain)
        names = applied.chain.names
    timeline = _timeline(cell, recording)
    return Profile(timeline, facts_of(cell, timeline, recording.trace, names))


def _record(step: TrainingStep, chain: strategies.Chain) -> Recording:
    with silenced():
        with profiler():
            pass  # the first one in a process misses events
        gc.collect()
        with profiler() as recorder, followed(standing(step)):
            tracer = TimedTracer(step.model, chain.blocks)
            step_trace = trace(tracer, parts_of(step, as_cuda=False))
    events, spans, _ = memory.events_of(recorder)
    first = residents(step_trace) - 1
    sizes = (event.size_bytes for event in events)
    return Recording(
        trace=step_trace,
        times_ns=tracer.times_ns[first : len(step_trace.events)],
        allocated=list(itertools.accumulate(sizes, initial=step_trace.alive_bytes()[first])),
        allocated_ns=[tracer.times_ns[first], *(event.time_ns for event in events)],
        spans=spans,
    )


def _timeline(cell: Cell, recording: Recording) -> Timeline:
    step_trace = recording.trace
    positions = _milliseconds(recording.times_ns, recording.times_ns[0])
    total = Total(_milliseconds(recording.allocated_ns, recording.times_ns[0]), recording.allocated)
    return Timeline(
        positions=positions,
        series=series_of(step_trace, residents(step_trace) - 1),
        phases=phases(step_trace, positions),
        peak=_real_peak(recording, total),
        axis="time_ms",
        axis_label="Time under the profiler, ms",
        heading=heading_of(cell, f"cpu ({devices.cpu_name()})"),
        allocated=total,
    )


def _milliseconds(times_ns: Sequence[int], begin_ns: int) -> list[float]:
    return [max(0, moment - begin_ns) / 1e6 for moment in times_ns]


def _real_peak(recording: Recording, total: Total) -> Peak:
    """The allocator's peak, and the tensors of that moment; the rest is scratch."""
    counts = recording.allocated
    at = max(range(len(counts)), key=counts.__getitem__)
    index = _event_at(recording, recording.allocated_ns[at], counts[at])
    peak = peak_at(recording.trace, index, position=total.positions[at])
    operator = memory.operator_at(recording.spans, recording.allocated_ns[at]) or peak.operator
    parts = dict(peak.by_category)
    if counts[at] > peak.size_bytes:
        parts[SCRATCH] = counts[at] - peak.size_bytes
    return dataclasses.replace(
        peak,
        size_bytes=counts[at],
        operator=operator.removeprefix("aten::"),
        by_category=parts,
    )


def _event_at(recording: Recording, moment_ns: int, allocated_bytes: int) -> int:
    """The tracer's last event up to a moment, without births that the allocator is yet to make."""
    first = len(recording.trace.events) - len(recording.times_ns)
    alive = recording.trace.alive_bytes()
    index = first + max(1, bisect.bisect_right(recording.times_ns, moment_ns)) - 1
    while index > first and alive[index] > allocated_bytes:
        index -= 1
    return index
