"""Peak memory of one training step, as the allocator saw it."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile, record_function

from bench.cells.training import TrainingStep
from strategies.profiling.allocator import cpu_events, followed, profiler
from strategies.profiling.standing import standing

_ALLOCATORS = ("aten::empty", "aten::resize", "aten::new_empty", "aten::zeros")
_MARK = "ckpt-bench: forward done"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one step, above what was alive before it (gradients were not).

    Attributes:
        peak_bytes: most allocated at once, kernels' own scratch included.
        after_forward_bytes: allocated when forward was done.
        reserved_bytes: most held by the allocator; ``None`` where it does not say.
        before_bytes: allocated when the step began, by whomever; ``None`` where it does not say.
        peak_operator: that ran at the peak; ``None`` where it is not known.
    """

    peak_bytes: int
    after_forward_bytes: int
    reserved_bytes: int | None = None
    before_bytes: int | None = None
    peak_operator: str | None = None

    def own_reserved_bytes(self, resident_bytes: int) -> int | None:
        """What a training step reserves, which has nothing of the harness on the device.

        Args:
            resident_bytes: that are there between steps of training.
        """
        if self.reserved_bytes is None or self.before_bytes is None:
            return None
        return self.reserved_bytes - max(0, self.before_bytes - resident_bytes)


@dataclasses.dataclass(frozen=True)
class Span:
    """One operator's run."""

    start_ns: int
    end_ns: int
    name: str


@dataclasses.dataclass(frozen=True)
class Event:
    """One allocation (positive) or free (negative)."""

    time_ns: int
    size_bytes: int


def measure_cpu(
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], None],
    there: Callable[[], Sequence[torch.UntypedStorage]] = tuple,
) -> Memory:
    """One step under the profiler's allocator events.

    Args:
        forward: returns the loss. No gradients exist before.
        backward: accumulates gradients, which must stay alive.
        there: memory that is there before, and that the step may let go.
    """
    _warm_up()
    events, spans, mark_ns = _traced(forward, backward, there)
    memory = replay(events, mark_ns)
    return dataclasses.replace(memory, peak_operator=operator_at(spans, peak_ns(events)))


@functools.cache
def _warm_up() -> None:
    """The first trace in a process misses events."""
    with profiler():
        pass


def _traced(
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], None],
    there: Callable[[], Sequence[torch.UntypedStorage]],
) -> tuple[list[Event], list[Span], int]:
    gc.collect()
    with profiler() as recorder, followed(there()):
        loss = forward()
        with record_function(_MARK):
            pass
        backward(loss)
        del loss
    return events_of(recorder)


def events_of(recorder: profile) -> tuple[list[Event], list[Span], int]:
    """Allocator events sorted by time, operators, and when forward was done (ns; 0: unmarked)."""
    kineto: Any = recorder.kineto_results
    spans, mark_ns = [], 0
    for event in kineto.events():
        if event.name() == _MARK:
            mark_ns = event.start_ns()
        elif event.name() != "[memory]":
            start_ns = event.start_ns()
            spans.append(Span(start_ns, start_ns + event.duration_ns(), event.name()))
    return [Event(*one) for one in cpu_events(kineto)], spans, mark_ns


def peak_ns(events: list[Event]) -> int:
    """When most was allocated."""
    totals = list(itertools.accumulate(event.size_bytes for event in events))
    return events[max(range(len(totals)), key=totals.__getitem__)].time_ns if events else 0


def operator_at(spans: list[Span], time_ns: int) -> str | None:
    """The innermost operator that ran at a moment, but for those that only allocate."""
    running = [
        span
        for span in spans
        if span.start_ns <= time_ns <= span.end_ns and not span.name.startswith(_ALLOCATORS)
    ]
    return max(running, key=lambda span: span.start_ns).name if running else None


def replay(events: list[Event], mark_ns: int) -> Memory:
    """Sum allocator events in the order of time.

    Args:
        events: sorted by time.
        mark_ns: the moment at which forward was done.
    """
    alive = peak = after_forward = 0
    for event in events:
        alive += event.size_bytes
        peak = max(peak, alive)
        if event.time_ns <= mark_ns:
            after_forward = alive
    return Memory(peak, after_forward)


def resident_peak_bytes() -> int | None:
    """The process's high-water mark of resident memory (Linux), a sanity figure."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def warm_accelerator(
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], None],
    drop_gradients: Callable[[], None],
) -> None:
    """One step for the workspaces that kernels take at their first use, and then keep."""
    backward(forward())
    drop_gradients()


def measure_accelerator(
    forward: Callable[[], Tensor], backward: Callable[[Tensor], None]
) -> Memory:
    """One step by ``torch.accelerator``'s own statistics, of a device that is warm.

    The order matters: empty the cache, synchronise, reset the peak, step, synchronise, read.

    Args:
        forward: returns the loss. No gradients exist before.
        backward: accumulates gradients.
    """
    accelerator = torch.accelerator
    gc.collect()
    accelerator.memory.empty_cache()
    accelerator.synchronize()
    accelerator.memory.reset_peak_memory_stats()
    before = accelerator.memory.memory_allocated()
    loss = forward()
    after_forward = accelerator.memory.memory_allocated()
    backward(loss)
    del loss
    accelerator.synchronize()
    return Memory(
        peak_bytes=accelerator.memory.max_memory_allocated() - before,
        after_forward_bytes=after_forward - before,
        reserved_bytes=accelerator.memory.max_memory_reserved(),
        before_bytes=before,
    )


def step_memory(
    step: TrainingStep,
    forward: Callable[[], Tensor] | None = None,
    *,
    updating: bool = True,
    settle: Callable[[], None] | None = None,
) -> Memory:
    """Bytes of one step that starts without gradients, by the device's allocator.

    Args:
        step: on its device.
        forward: in place of the step's own; of a model that has run before.
        updating: whether the optimizer's update is a part.
        settle: on a CPU, waits until no other thread is at work for the step, before its trace is
            read.
    """
    traced = step.device.type == "cpu"

    def backward(loss: Tensor) -> None:
        step.backward(loss)
        if updating:
            step.update()
        if traced and settle is not None:
            settle()

    if traced:
        return measure_cpu(forward or step.forward, backward, lambda: standing(step))
    if forward is None:
        warm_accelerator(step.forward, backward, step.drop_gradients)
    return measure_accelerator(forward or step.forward, backward)
