"""What a real and a simulated timeline have in common: phases, the peak, the heading, the facts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from bench.cells.cell import Cell
from bench.report.display import sized
from bench.simulate.peak import advice, floor
from bench.simulate.trace import BACKWARD, FORWARD, Trace
from bench.store.timeline import Heading, Peak, Phase, Timeline

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


def residents(trace: Trace) -> int:
    """How many events only note what was there before the step."""
    return sum(1 for _ in itertools.takewhile(lambda event: not event.operator, trace.events))


def phases(trace: Trace, positions: Sequence[float]) -> list[Phase]:
    """Stretches of one phase, without gaps, from the first position to the last.

    Args:
        trace: the step.
        positions: of its events, from the last resident one on.
    """
    first = len(trace.events) - len(positions)
    names = [phase_of(trace, first + n) for n in range(len(positions))]
    begins = [n for n in range(len(names)) if n == 0 or names[n] != names[n - 1]]
    ends = [positions[n] for n in begins[1:]] + [positions[-1]]
    return [Phase(names[n], positions[n], end) for n, end in zip(begins, ends, strict=True)]


def phase_of(trace: Trace, index: int) -> str:
    """The phase of an event; what happens around the engine's run is backward too."""
    phase = trace.events[index].phase
    return BACKWARD if phase == FORWARD and index >= trace.forward_events else phase


def series_of(trace: Trace, first: int) -> dict[str, list[int]]:
    """Bytes alive of each category after every event from ``first`` on."""
    return {name: counts[first:] for name, counts in trace.series().items()}


def peak_at(trace: Trace, index: int, position: float) -> Peak:
    """What is alive after event ``index``, by the tracer's count, drawn at ``position``."""
    event = trace.events[index]
    parts = trace.by_category(index)
    return Peak(
        position=position,
        size_bytes=sum(parts.values()),
        operator=event.operator or "nothing yet",
        module=event.module or "the model",
        phase=phase_of(trace, index),
        by_category=parts,
    )


def heading_of(cell: Cell, device: str) -> Heading:
    """What was run, on which ``device``, with which torch, today."""
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


def facts_of(cell: Cell, timeline: Timeline, trace: Trace, blocks: Sequence[str]) -> dict[str, Any]:
    """About the peak and its floor, by the names that records use; ``blocks`` by their names."""
    peak = timeline.peak
    floor_bytes, where = floor(trace, blocks)
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
