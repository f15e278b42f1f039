"""Memory over one step of a cell, moment by moment: where is the peak, and what makes it up?

A simulated step is traced on fake tensors, each storage rounded up as its allocator would. On this
CPU a real step runs under two instruments at once: the profiler, for the allocator's own events,
and the tracer, for what each tensor is. The allocator's count is the truth; what it has beyond the
tensors is kernels' scratch memory.
"""

from __future__ import annotations

import bisect
import dataclasses
import gc
import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import strategies
from bench import devices
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.devices import accelerators
from bench.measure import memory
from bench.report.display import sized
from bench.simulate.peak import advice, floor, peak_event
from bench.simulate.run import GRANULE_BYTES, fit_in, parts_of, trace_cell
from bench.simulate.trace import BACKWARD, FORWARD, Event, Trace
from bench.simulate.traced_step import trace
from bench.simulate.tracer import Tracer
from bench.store.parts import merged
from bench.store.timeline import Heading, Peak, Phase, Timeline, Total
from strategies.profiling.quiet import silenced

SCRATCH = "kernels' scratch"

_SHOWN = 0.001  # of the peak: what is less goes unsaid


@dataclasses.dataclass(frozen=True)
class Profile:
    """One cell's step.

    Attributes:
        timeline: to draw.
        facts: about the peak, by the names that records use.
    """

    timeline: Timeline
    facts: dict[str, Any]

    def paragraph(self) -> str:
        """How high the peak is, where, what makes it up, and what could lower it."""
        facts, peak = self.facts, self.timeline.peak
        kind = "modelled" if self.timeline.heading.modelled else "measured"
        parts = sorted(facts["peak_by_category"].items(), key=lambda part: -part[1])
        shown = [part for part in parts if part[1] >= _SHOWN * peak.size_bytes]
        makeup = ", ".join(f"{name} {sized(count)}" for name, count in shown)
        who = f"{facts['workload']} under {facts['spec']} on {facts['device']}"
        where = f"at {peak.operator} in {peak.module} ({peak.phase})"
        sentences = (
            f"{who}: the {kind} peak is {sized(peak.size_bytes)}, {where}.",
            f"It is made up of {makeup}.",
            f"The floor is {sized(facts['peak_floor_bytes'])}: {facts['advice']}.",
            self._verdict(),
        )
        return " ".join(filter(None, sentences))

    def _verdict(self) -> str:
        if self.timeline.limit_bytes is None:
            return ""
        limit, reserved = self.timeline.limit_bytes, self.facts["peak_reserved_bytes"]
        if self.facts["status"] == "ok":
            return f"It fits: the allocator reserves {sized(reserved)} of {sized(limit)}."
        return f"It does not fit: it {self.facts['reason']}."


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


def profile_cell(cell: Cell) -> Profile:
    """Profile one step of ``cell`` in this process.

    Args:
        cell: checked; on the CPU or simulated.

    Raises:
        ValueError: another device, or a model that the strategy or the simulation refuses.
    """
    if cell.simulated:
        return _simulated(cell)
    if cell.device != "cpu":
        raise ValueError(f"profile takes cpu or a simulated device, not {cell.device}")
    return _real(cell)


# Simulated.


def _simulated(cell: Cell) -> Profile:
    made = trace_cell(cell)
    if made.missing:
        raise ValueError(f"{cell.spec}: no gradient for {', '.join(made.missing)}")
    device = accelerators.get(cell.device)
    step = rounded(made.trace, GRANULE_BYTES)
    first = residents(step) - 1
    index = peak_event(step)
    peak = _peak(step, index, position=index - first)
    timeline = Timeline(
        positions=range(len(step.events) - first),
        series=_series(step, first),
        phases=phases(step, range(len(step.events) - first)),
        peak=peak,
        axis="event",
        axis_label="Allocations and frees, in order (modelled: a count, not a time)",
        heading=_heading(cell, f"{cell.device} ({device.product})"),
        limit_bytes=device.memory_bytes,
    )
    facts = _facts(cell, timeline, step, made.blocks)
    return Profile(timeline, facts | merged(fit_in(made.trace, device.memory_bytes)))


def rounded(made: Trace, granule_bytes: int) -> Trace:
    """The trace with every storage rounded up to a multiple of ``granule_bytes``."""

    def up(size_bytes: int) -> int:
        return -(-size_bytes // granule_bytes) * granule_bytes

    def rounded_event(event: Event) -> Event:
        size_bytes = up(abs(event.delta_bytes))
        delta_bytes = size_bytes if event.delta_bytes > 0 else -size_bytes
        return dataclasses.replace(event, delta_bytes=delta_bytes)

    return dataclasses.replace(
        made,
        lives=[dataclasses.replace(life, size_bytes=up(life.size_bytes)) for life in made.lives],
        events=[rounded_event(event) for event in made.events],
    )


# What both have.


def residents(made: Trace) -> int:
    """How many events only note what was there before the step."""
    return sum(1 for _ in itertools.takewhile(lambda event: not event.operator, made.events))


def phases(made: Trace, positions: Sequence[float]) -> list[Phase]:
    """Stretches of one phase, without gaps, from the first position to the last.

    Args:
        made: the step.
        positions: of its events, from the last resident one on.
    """
    first = len(made.events) - len(positions)
    names = [phase_of(made, first + n) for n in range(len(positions))]
    begins = [n for n in range(len(names)) if n == 0 or names[n] != names[n - 1]]
    ends = [positions[n] for n in begins[1:]] + [positions[-1]]
    return [Phase(names[n], positions[n], end) for n, end in zip(begins, ends, strict=True)]


def phase_of(made: Trace, index: int) -> str:
    """The phase of an event; what happens around the engine's run is backward too."""
    phase = made.events[index].phase
    return BACKWARD if phase == FORWARD and index >= made.forward_events else phase


def _series(made: Trace, first: int) -> dict[str, list[int]]:
    return {name: counts[first:] for name, counts in made.series().items()}


def _peak(made: Trace, index: int, position: float) -> Peak:
    event = made.events[index]
    parts = made.by_category(index)
    return Peak(
        position=position,
        size_bytes=sum(parts.values()),
        operator=event.operator or "nothing yet",
        module=event.module or "the model",
        phase=phase_of(made, index),
        by_category=parts,
    )


def _heading(cell: Cell, device: str) -> Heading:
    workload = cell.make_workload()
    shape = ", ".join(f"{key}={value}" for key, value in sorted(workload.options().items()))
    return Heading(
        title=f"{workload.name}, {cell.spec}: memory over one step",
        device=device,
        torch_version=str(torch.__version__),
        date=datetime.now(UTC).date().isoformat(),
        setting=f"{shape}; {cell.precision}; optimizer {cell.optimizer}",
        modelled=cell.simulated,
    )


def _facts(cell: Cell, timeline: Timeline, made: Trace, blocks: Sequence[str]) -> dict[str, Any]:
    peak = timeline.peak
    floor_bytes, where = floor(made, blocks)
    tensors = {name: count for name, count in peak.by_category.items() if name != SCRATCH}
    return {
        "workload": cell.workload,
        "workload_options": cell.make_workload().options(),
        "spec": cell.spec,
        "device": cell.device,
        "modelled": cell.simulated,
        "precision": cell.precision,
        "optimizer": cell.optimizer,
        "peak_allocated_bytes": peak.size_bytes,
        "peak_phase": peak.phase,
        "peak_module": peak.module,
        "peak_operator": peak.operator,
        "peak_by_category": dict(peak.by_category),
        "peak_floor_bytes": floor_bytes,
        "advice": advice(sum(tensors.values()), floor_bytes, where, tensors),
    }


# Real.


@dataclasses.dataclass(frozen=True)
class _Recording:
    """A real step as both instruments saw it, from the last resident tensor on.

    Attributes:
        made: what the tracer saw.
        times_ns: of its events.
        allocated: what the allocator had given out after each of its events, residents included.
        allocated_ns: when.
        spans: operators.
    """

    made: Trace
    times_ns: list[int]
    allocated: list[int]
    allocated_ns: list[int]
    spans: list[memory.Span]


def _real(cell: Cell) -> Profile:
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
    return Profile(timeline, _facts(cell, timeline, recording.made, names))


def _record(step: TrainingStep, chain: strategies.Chain) -> _Recording:
    with silenced():
        with _profiler():
            pass  # the first one in a process misses events
        gc.collect()
        with _profiler() as profiler:
            tracer = TimedTracer(step.model, chain.blocks)
            made = trace(tracer, parts_of(step, as_cuda=False))
    events, spans, _ = memory.events_of(profiler)
    first = residents(made) - 1
    sizes = (event.size_bytes for event in events)
    return _Recording(
        made=made,
        times_ns=tracer.times_ns[first : len(made.events)],
        allocated=list(itertools.accumulate(sizes, initial=made.alive_bytes()[first])),
        allocated_ns=[tracer.times_ns[first], *(event.time_ns for event in events)],
        spans=spans,
    )


def _profiler() -> profile:
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True)


def _timeline(cell: Cell, recording: _Recording) -> Timeline:
    made = recording.made
    positions = _milliseconds(recording.times_ns, recording.times_ns[0])
    total = Total(_milliseconds(recording.allocated_ns, recording.times_ns[0]), recording.allocated)
    return Timeline(
        positions=positions,
        series=_series(made, residents(made) - 1),
        phases=phases(made, positions),
        peak=_real_peak(recording, total),
        axis="time_ms",
        axis_label="Time under the profiler, ms",
        heading=_heading(cell, f"cpu ({devices.cpu_name()})"),
        allocated=total,
    )


def _milliseconds(times_ns: Sequence[int], begin_ns: int) -> list[float]:
    return [max(0, moment - begin_ns) / 1e6 for moment in times_ns]


def _real_peak(recording: _Recording, total: Total) -> Peak:
    """The allocator's peak, and the tensors of that moment; the rest is scratch."""
    counts = recording.allocated
    at = max(range(len(counts)), key=counts.__getitem__)
    index = _event_at(recording, recording.allocated_ns[at], counts[at])
    peak = _peak(recording.made, index, position=total.positions[at])
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


def _event_at(recording: _Recording, moment_ns: int, allocated_bytes: int) -> int:
    """The tracer's last event up to a moment, without births that the allocator is yet to make."""
    first = len(recording.made.events) - len(recording.times_ns)
    alive = recording.made.alive_bytes()
    index = first + max(1, bisect.bisect_right(recording.times_ns, moment_ns)) - 1
    while index > first and alive[index] > allocated_bytes:
        index -= 1
    return index
