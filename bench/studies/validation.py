"""Simulated against real, side by side, on whatever device is here.

On a CPU the same operators are simulated and run: tensor bytes must agree to the byte, and the
allocator's peak, which includes kernels' scratch memory, must be close. On an accelerator the
simulation of its kernels, served by the modelled allocator, is compared with the allocator's own
statistics: whole blocks, scratch memory and libraries' workspaces included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor

import strategies
from bench import devices
from bench.cells import machine
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.measure import memory
from bench.run import culprit, guarded
from bench.run.sweep import every_spec
from bench.simulate.replay import replay
from bench.simulate.run import Simulation, parts_of, trace_cell, warm_optimizer
from bench.simulate.trace import Trace
from bench.simulate.traced_step import trace
from bench.simulate.tracer import Tracer
from bench.store.validations import SCHEMA_VERSION, Row, Validation, encode
from strategies.profiling.free_blocks import GRANULE_BYTES
from strategies.profiling.quiet import silenced
from strategies.profiling.standing import standing

# Small enough to run everywhere, and between them: dropout, batch norm, GQA, convolutions.
WORKLOADS = ("mlp-chain", "gpt-mini", "gpt-mini-dropout", "llama-mini", "vit-mini", "resnet-mini")


def planned_specs() -> list[str]:
    """Every strategy whose plan is the same, simulated or real.

    Not those that ask for costs, nor those that a compiler runs, which are not simulated.
    """
    by_spec = {spec: strategies.get(spec) for spec in every_spec()}
    return [spec for spec, s in by_spec.items() if not s.needs_profile and not s.compiled]


def work(payload: bytes) -> bytes:
    """The study of a cell, both as JSON."""
    cell = msgspec.json.decode(payload, type=Cell)
    with guarded.named(cell):
        return encode(study(cell))


def study(base: Cell) -> Validation:
    """Every strategy on a workload, of those that it supports.

    Args:
        base: checked, on a real device; its strategy is of no interest.

    Raises:
        ValueError: a user's model is at fault; names the line.
    """
    started = time.perf_counter()
    empty = Validation(
        **machine.provenance(SCHEMA_VERSION, base.seed),
        workload=base.workload,
        workload_options=base.options,
        precision=base.precision,
        device=base.device,
        device_name=devices.describe(torch.device(base.device)),
    )
    found = list(rows(base))
    duration_s = round(time.perf_counter() - started, 3)
    return msgspec.structs.replace(empty, rows=found, duration_s=duration_s)


def rows(base: Cell) -> Iterator[Row]:
    """See `study`."""
    for spec in planned_specs():
        cell = checked(msgspec.structs.replace(base, spec=spec))
        try:
            with culprit.named(cell):
                row = compare(cell)
        except strategies.Unsupported:
            continue
        yield row


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
    """What the simulation must equal: the same step on real tensors.

    Where attributes hold something from step to step, one that finds it there: the third, for the
    second examines it.
    """
    made = trace(Tracer(step.model, chain.blocks), parts_of(step, as_cuda=False))
    if not standing(step):
        return made
    for _ in range(2):
        step.drop_gradients()
        made = trace(Tracer(step.model, chain.blocks), parts_of(step, as_cuda=False))
    return made


def _allocated(step: TrainingStep) -> memory.Memory:
    def backward(loss: Tensor) -> None:
        step.backward(loss)
        step.update()

    if step.device.type == "cpu":
        with silenced():
            return memory.measure_cpu(step.forward, backward, lambda: standing(step))
    memory.warm_accelerator(step.forward, backward, step.drop_gradients)
    return memory.measure_accelerator(step.forward, backward)


def _row(cell: Cell, simulated: Simulation, real: Trace | None, usage: memory.Memory) -> Row:
    granule = 1 if real else GRANULE_BYTES
    step_trace = simulated.trace
    workspaces = [] if real else _workspaces(step_trace)
    changes = ((event.life, event.delta_bytes) for event in step_trace.events)
    modelled = replay(changes, workspaces=workspaces)
    blocks_bytes = modelled.allocated_bytes - sum(workspaces)
    return Row(
        strategy=cell.spec,
        simulated_peak_bytes=peak_of(step_trace) if real else blocks_bytes,
        real_tensor_peak_bytes=peak_of(real) if real else None,
        simulated_after_forward_bytes=step_trace.after_forward_bytes(granule),
        real_after_forward_bytes=real.after_forward_bytes() if real else None,
        # What was there before is the same on both sides; the device's allocator rounds it up, too.
        allocator_peak_bytes=step_trace.resident_bytes(granule) + usage.peak_bytes,
        simulated_reserved_bytes=modelled.reserved_bytes,
        allocator_reserved_bytes=usage.reserved_bytes,
        scratch=usage.peak_operator,
    )


def _workspaces(trace: Trace) -> list[int]:
    """What matrix libraries keep on this machine's accelerator."""
    if not torch.cuda.is_available():
        return []
    return trace.workspaces_of(torch.cuda.get_device_capability())


def peak_of(trace: Trace) -> int:
    """Most bytes of tensors alive at once."""
    return max(trace.alive_bytes())
