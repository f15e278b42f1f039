"""Simulates one cell: a step under fake tensors, as the accelerator's kernels would save."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, cast, make_model
from bench.devices import accelerators
from bench.measure.memory import resident_peak_bytes
from bench.simulate import allocator, semantics
from bench.simulate.errors import NeedsValueError
from bench.simulate.peak import describe_peak
from bench.simulate.rates import rates_of
from bench.simulate.roofline import step_time
from bench.simulate.storage import simulated
from bench.simulate.tracer import Parts, Trace, Tracer, trace
from strategies import profiling
from strategies.contract.apply import install
from strategies.execution.errors import Unsupported
from strategies.profiling.ledger import unique_bytes
from strategies.schedules.schedule import Schedule
from strategies.storage import Overlapped, Storage

GRANULE_BYTES = 512
"""CUDA's caching allocator rounds every request up to a multiple of this."""

_VALUE_NEEDED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)


@dataclasses.dataclass
class Simulation:
    """A traced step and the model that it was.

    Attributes:
        trace: of the step.
        step: on fake tensors.
        schedule: as executed.
        storage: as simulated.
        chain: the blocks.
        missing: parameters that got no gradient.
        attention_kernel: the strategy's choice, or else the workload's.
        notes: the strategy's, on this chain.
    """

    trace: Trace
    step: TrainingStep
    schedule: Schedule
    storage: Storage | None
    chain: strategies.Chain
    missing: list[str]
    attention_kernel: str | None
    notes: list[str]

    def step_s(self, device: accelerators.Accelerator) -> float:
        """Time of the step by a roofline; overlapped transfers run as the executor started them."""
        noted = self.storage is not None and isinstance(self.storage.tier, Overlapped)
        return step_time(self.trace.work, self.trace.transfers, device, prefetch=not noted).step_s


def fake_step(cell: Cell, mode: FakeTensorMode, *, as_cuda: bool = True) -> TrainingStep:
    """The cell's model and batch, as fake tensors; the optimizer in the device's default form."""
    workload = cell.make_workload()
    real = workload.make_batch()
    with mode:
        model = make_model(workload, cell.precision)
        batch = tuple(cast(mode.from_tensor(tensor), cell.precision) for tensor in real)
        step = TrainingStep(
            workload, model, batch, torch.device("cpu"), cell.precision, cell.optimizer
        )
        step.rates = rates_of(cell) if cell.simulated else None
        if as_cuda and step.update_rule is not None:
            for group in step.update_rule.param_groups:
                group["foreach"] = True
        warm_optimizer(step)
    return step


def warm_optimizer(step: TrainingStep) -> None:
    """Create the optimizer's state, as its first step would."""
    if step.update_rule is None:
        return
    for parameter in step.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    step.update()
    step.drop_gradients()


def trace_cell(cell: Cell, *, as_cuda: bool = True) -> Simulation:
    """Trace one step of ``cell`` on fake tensors.

    Args:
        cell: checked.
        as_cuda: operators save what CUDA's kernels save; otherwise what this CPU's do.

    Raises:
        Unsupported: the strategy cannot run on this workload.
        NeedsValueError: the model needs a tensor's value; names the line.
    """
    mode = FakeTensorMode()
    try:
        step = fake_step(cell, mode, as_cuda=as_cuda)
        with mode:
            return _traced(cell.make_strategy(), step, as_cuda=as_cuda)
    except RuntimeError as error:
        if not isinstance(error, _VALUE_NEEDED) and ".numpy()" not in str(error):
            raise
        raise NeedsValueError(
            f"{user_line(error)}: the model needs the value of a tensor, and a simulated tensor"
            " has none; take .item() and branches on values out of the forward pass"
        ) from error


def _traced(strategy: strategies.Strategy, step: TrainingStep, *, as_cuda: bool) -> Simulation:
    model = step.model
    reason = strategy.unsupported(model, torch.device("cuda" if as_cuda else "cpu"))
    if reason:
        raise Unsupported(f"{strategy.spec()}: {reason}")
    with semantics.cuda() if as_cuda else semantics.cpu():
        chain = strategies.profiled(model, strategy, step, blocks=step.workload.blocks)
    tracer = Tracer(model, chain.blocks)
    storage = simulated(strategy.storage(), tracer)
    schedule = strategy.schedule(chain).split(chain.borders)
    undos = install(model, strategy, chain, schedule, storage)
    made = trace(tracer, parts_of(step, as_cuda=as_cuda))
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    while undos:
        undos.pop()()
    return Simulation(
        trace=made,
        step=step,
        schedule=schedule,
        storage=storage,
        chain=chain,
        missing=missing,
        attention_kernel=strategy.attention_kernel(model)
        or getattr(step.workload, "attention", None),
        notes=list(strategy.notes(chain)),
    )


def parts_of(step: TrainingStep, *, as_cuda: bool) -> Parts:
    """What the tracer runs: the step's parts, and the tensors that are there before."""
    return Parts(
        forward=step.forward,
        backward=step.backward,
        update=step.update,
        resident=residents(step),
        parameters=list(step.model.parameters()),
        semantics=semantics.cuda() if as_cuda else semantics.cpu(),
    )


def residents(step: TrainingStep) -> dict[str, list[Tensor]]:
    """What is on the device between steps, gradients aside, by category."""
    return {
        "parameters": [*step.model.parameters(), *step.model.buffers()],
        "batch": list(step.batch),
        # Of the optimizer, not its step counters: they are scalars on the host.
        "optimizer state": [tensor for tensor in step.optimizer_tensors() if tensor.dim()],
    }


def user_line(error: BaseException) -> str:
    """The innermost line of the traceback outside PyTorch and the instruments."""
    here = Path(__file__).parent
    inside = tuple(map(str, (Path(torch.__file__).parent, here, Path(profiling.__file__).parent)))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(inside)]
    frame = (theirs or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.line})"


def simulate(cell: Cell) -> dict[str, Any]:
    """Record fields of a simulated cell."""
    device = accelerators.get(cell.device)
    made = trace_cell(cell)
    fields = _fields(made)
    fields |= describe_peak(made.trace, made.chain.names)
    fields["modelled_step_s"] = made.step_s(device)
    fields["resident_peak_bytes"] = resident_peak_bytes()
    fields |= fit_in(made.trace, device.memory_bytes)
    if made.missing:
        fields |= {"status": "mismatch", "reason": f"no gradient for {', '.join(made.missing)}"}
    return fields


def fit_in(made: Trace, memory_bytes: int) -> dict[str, Any]:
    """Record fields of the caching allocator: status, reason, peaks.

    A step that does not fit is replayed without a limit, to say how much is missing: the real
    allocator gives its cache back before it gives up, so only what it could not give back counts.
    """
    events = [(event.life, event.delta_bytes) for event in made.events]
    peak_bytes = max(made.alive_bytes(GRANULE_BYTES))
    try:
        peaks = allocator.replay(events, memory_bytes)
    except allocator.OutOfMemoryError as error:
        peaks = allocator.replay(events)
        missing_bytes = max(peak_bytes - memory_bytes, error.missing_bytes)
        reason = (
            f"needs {(memory_bytes + missing_bytes) / 1e9:.2f} GB of {memory_bytes / 1e9:.2f} GB:"
            f" {missing_bytes / 1e9:.3g} GB missing"
        )
        return _allocator_fields(peak_bytes, peaks) | {"status": "oom", "reason": reason}
    return _allocator_fields(peak_bytes, peaks) | {"status": "ok"}


def _allocator_fields(peak_bytes: int, peaks: allocator.AllocatorPeaks) -> dict[str, Any]:
    return {
        "peak_allocated_bytes": peak_bytes,
        "peak_reserved_bytes": peaks.peak_reserved_bytes,
    }


def _fields(made: Simulation) -> dict[str, Any]:
    step, recorded = made.step, made.trace
    parameters = list(step.model.parameters())
    resident = residents(step)
    resident_bytes = unique_bytes(tensor for tensors in resident.values() for tensor in tensors)
    return {
        "plan": made.schedule.render(),
        "storage": str(made.storage) if made.storage else None,
        "attention_kernel": made.attention_kernel,
        "notes": made.notes,
        "grads_missing": made.missing,
        "after_forward_allocated_bytes": recorded.after_forward_bytes(GRANULE_BYTES),
        "saved_after_forward_bytes": recorded.after_forward_bytes() - resident_bytes,
        "parameter_bytes": unique_bytes(parameters),
        "buffer_bytes": unique_bytes(step.model.buffers()),
        "batch_bytes": unique_bytes(step.batch),
        "gradient_bytes": unique_bytes([p.grad for p in parameters if p.grad is not None]),
        "optimizer_bytes": unique_bytes(resident["optimizer state"]),
        "forward_flops": recorded.forward_flops,
        "step_flops": recorded.step_flops,
        "recompute_flops": recorded.recompute_flops,
    }
