"""Simulated against real, side by side, on whatever device is here.

On a CPU the same operators are simulated and run: tensor bytes must agree to the byte, and the
allocator's peak, which includes kernels' scratch memory, must be close. On an accelerator the
simulation of its kernels is compared with the allocator's own statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor

import strategies
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.measure import memory
from bench.run import culprit
from bench.run.sweep import every_spec
from bench.simulate.free_blocks import GRANULE_BYTES
from bench.simulate.replay import replay
from bench.simulate.run import Simulation, parts_of, trace_cell, warm_optimizer
from bench.simulate.trace import Trace
from bench.simulate.traced_step import trace
from bench.simulate.tracer import Tracer
from strategies.profiling.quiet import silenced

# Small enough to run everywhere, and between them: dropout, batch norm, GQA, convolutions.
WORKLOADS = ("mlp-chain", "gpt-mini", "gpt-mini-dropout", "llama-mini", "vit-mini", "resnet-mini")


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell, simulated and real, in bytes.

    Attributes:
        tensor_peak_error: simulated minus real, at the level of tensors; ``None`` where real
            tensors were not step_trace.
        after_forward_error: the same when forward is done.
        allocator_peak_bytes: what the device's allocator says.
        allocator_error: simulated peak minus the allocator's, relative to the allocator's.
        scratch: operator at the allocator's peak, whose scratch memory tensors do not show.
    """

    workload: str
    strategy: str
    simulated_peak_bytes: int
    simulated_after_forward_bytes: int
    tensor_peak_error: int | None
    after_forward_error: int | None
    allocator_peak_bytes: int
    allocator_error: float
    reserved_error: float | None
    scratch: str | None


def planned_specs() -> list[str]:
    """Every strategy whose plan is the same, simulated or real.

    Not those that ask for costs, nor those that a compiler runs, which are not simulated.
    """
    by_spec = {spec: strategies.get(spec) for spec in every_spec()}
    return [spec for spec, s in by_spec.items() if not s.needs_profile and not s.compiled]


def rows(bases: Iterable[Cell]) -> Iterator[Row]:
    """Every strategy on every workload that it supports.

    Args:
        bases: a cell for each workload, checked; on a real device. Its strategy is of no interest.

    Raises:
        ValueError: a user's model is at fault; names the line.
    """
    for base in bases:
        for spec in planned_specs():
            cell = checked(msgspec.structs.replace(base, spec=spec))
            try:
                with culprit.named(cell):
                    yield compare(cell)
            except strategies.Unsupported:
                continue


def compare(cell: Cell) -> Row:
    """Simulate one cell, run it, and compare.

    Raises:
        strategies.Unsupported: the strategy cannot run here.
    """
    torch.set_num_threads(cell.threads)
    on_cpu = cell.device == "cpu"
    simulated = trace_cell(cell, as_cuda=not on_cpu)
    step = TrainingStep.build(
        cell.make_workload(), torch.device(cell.device), cell.precision, cell.optimizer
    )
    warm_optimizer(step)
    with strategies.apply(step.model, cell.spec, blocks=step.workload.blocks) as applied:
        real = real_trace(step, applied.chain) if on_cpu else None
        step.drop_gradients()
        usage = _allocated(step)
    return _row(cell, simulated, real, usage)


def real_trace(step: TrainingStep, chain: strategies.Chain) -> Trace:
    """What the simulation must equal: the same step on real tensors."""
    return trace(Tracer(step.model, chain.blocks), parts_of(step, as_cuda=False))


def _allocated(step: TrainingStep) -> memory.Memory:
    def backward(loss: Tensor) -> None:
        step.backward(loss)
        step.update()

    if step.device.type == "cpu":
        with silenced():
            return memory.measure_cpu(step.forward, backward)
    return memory.measure_accelerator(step.forward, backward, step.drop_gradients)


def _row(cell: Cell, simulated: Simulation, real: Trace | None, usage: memory.Memory) -> Row:
    granule = 1 if real else GRANULE_BYTES
    step_trace = simulated.trace
    modelled_bytes = replay((event.life, event.delta_bytes) for event in step_trace.events)
    peak_bytes = peak_of(step_trace, granule)
    # What was there before is the same on both sides; the device's allocator rounds it up, too.
    allocator_peak_bytes = step_trace.resident_bytes(granule) + usage.peak_bytes
    reserved = usage.reserved_bytes
    return Row(
        workload=cell.workload,
        strategy=cell.spec,
        simulated_peak_bytes=peak_bytes,
        simulated_after_forward_bytes=step_trace.after_forward_bytes(granule),
        tensor_peak_error=peak_bytes - peak_of(real) if real else None,
        after_forward_error=(
            step_trace.after_forward_bytes() - real.after_forward_bytes() if real else None
        ),
        allocator_peak_bytes=allocator_peak_bytes,
        allocator_error=peak_bytes / allocator_peak_bytes - 1,
        reserved_error=modelled_bytes / reserved - 1 if reserved else None,
        scratch=usage.peak_operator,
    )


def peak_of(trace: Trace, round_to: int = 1) -> int:
    """Most bytes alive at once."""
    return max(trace.alive_bytes(round_to))


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """For printing; relative errors in per cent."""
    table = []
    for row in rows:
        line = dataclasses.asdict(row)
        line["allocator_error"] = f"{100 * row.allocator_error:+.2f} %"
        reserved = row.reserved_error
        line["reserved_error"] = "" if reserved is None else f"{100 * reserved:+.2f} %"
        table.append(line)
    return table
