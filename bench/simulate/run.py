"""Simulates one cell: a step under fake tensors, as the accelerator's kernels would save."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

import strategies
from bench.cells import Cell
from bench.simulate import accelerators, allocator, semantics
from bench.simulate.peak import describe_peak
from bench.simulate.roofline import Transfer, step_time
from bench.simulate.tracer import Parts, Trace, Tracer, trace
from bench.training import TrainingStep, cast, make_model, unique_bytes
from strategies import execute
from strategies import plan as plans
from strategies.base import Undo, Unsupported
from strategies.storage import Storage, Tier

GRANULE_BYTES = 512
"""CUDA's caching allocator rounds every request up to a multiple of this."""

_VALUE_NEEDED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)


@dataclasses.dataclass(frozen=True)
class SimulatedHost(Tier):
    """Host memory of a simulated accelerator: the transfer is noted, the bytes are gone."""

    name: ClassVar[str] = "host"
    tracer: Tracer

    def put(self, tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
        """Send it over the link."""
        self._note(tensor, to_host=True)
        return tensor.shape, tensor.stride(), tensor.dtype

    def get(self, handle: tuple[torch.Size, tuple[int, ...], torch.dtype]) -> Tensor:
        """Fetch it."""
        shape, stride, dtype = handle
        tensor = torch.empty_strided(shape, stride, dtype=dtype)
        self._note(tensor, to_host=False)
        return tensor

    def _note(self, tensor: Tensor, *, to_host: bool) -> None:
        size_bytes = tensor.numel() * tensor.element_size()
        self.tracer.transfers.append(Transfer(len(self.tracer.work), size_bytes, to_host))


@dataclasses.dataclass
class Simulation:
    """A traced step and the model that it was.

    Attributes:
        trace: of the step.
        step: on fake tensors.
        plan: as executed.
        storage: as simulated.
        chain: the blocks.
    """

    trace: Trace
    step: TrainingStep
    plan: plans.Plan
    storage: Storage | None
    chain: strategies.Chain
    missing: list[str]


def fake_step(cell: Cell, mode: FakeTensorMode) -> TrainingStep:
    """The cell's model and batch, as fake tensors."""
    workload = cell.make_workload()
    real = workload.make_batch()
    with mode:
        model = make_model(workload, cell.precision)
        batch = tuple(cast(mode.from_tensor(tensor), cell.precision) for tensor in real)
        step = TrainingStep(
            workload, model, batch, torch.device("cpu"), cell.precision, cell.optimizer
        )
        _warm_optimizer(step)
    return step


def _warm_optimizer(step: TrainingStep) -> None:
    """Create the optimizer's state, as its first step would; CUDA's default is the foreach form."""
    if step.update_rule is None:
        return
    for group in step.update_rule.param_groups:
        group["foreach"] = True
    for parameter in step.model.parameters():
        parameter.grad = torch.empty_like(parameter)
    step.update()
    step.drop_gradients()


def trace_cell(cell: Cell, *, as_cuda: bool = True) -> Simulation:
    """Trace one step of ``cell`` on fake tensors.

    Args:
        cell: checked.
        as_cuda: operators save what CUDA's kernels save; otherwise what this CPU's do.

    Raises:
        Unsupported: the strategy cannot run on this workload.
        ValueError: the model needs a tensor's value; names the line.
    """
    mode = FakeTensorMode()
    try:
        step = fake_step(cell, mode)
        with mode:
            return _traced(cell.make_strategy(), step, as_cuda=as_cuda)
    except _VALUE_NEEDED as error:
        raise ValueError(
            f"{user_line(error)}: the model needs the value of a tensor, and a simulated tensor"
            " has none; take .item() and branches on values out of the forward pass"
        ) from error


def _traced(strategy: strategies.Strategy, step: TrainingStep, *, as_cuda: bool) -> Simulation:
    model = step.model
    reason = strategy.unsupported(model, torch.device("cuda" if as_cuda else "cpu"))
    if reason:
        raise Unsupported(f"{strategy.spec()}: {reason}")
    chain = strategies.find_chain(model, step.workload.blocks)
    tracer = Tracer(model, chain.blocks)
    storage = _simulated_storage(strategy.storage(), tracer)
    plan = plans.split(strategy.plan(chain), chain.borders)
    undos: list[Undo] = [*strategy.install(model, chain)]
    undos += execute.install(chain, plan, storage)
    made = trace(tracer, parts_of(step, as_cuda=as_cuda))
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    while undos:
        undos.pop()()
    return Simulation(made, step, plan, storage, chain, missing)


def _simulated_storage(storage: Storage | None, tracer: Tracer) -> Storage | None:
    if storage is None or storage.tier.on_device:
        return storage
    return dataclasses.replace(storage, tier=SimulatedHost(tracer))


def parts_of(step: TrainingStep, *, as_cuda: bool) -> Parts:
    """What the tracer runs: the step's parts, and the tensors that are there before."""
    model = step.model
    # The optimizer's step counters are scalars on the host.
    state = [tensor for tensor in step.optimizer_tensors() if tensor.dim()]
    parts = Parts(
        forward=step.forward,
        backward=step.backward,
        update=step.update,
        resident={
            "parameters": [*model.parameters(), *model.buffers()],
            "batch": list(step.batch),
            "optimizer state": state,
        },
        parameters=list(model.parameters()),
    )
    return dataclasses.replace(parts, semantics=semantics.cuda()) if as_cuda else parts


def user_line(error: BaseException) -> str:
    """The innermost line of the traceback outside PyTorch and this package."""
    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(inside)]
    frame = (theirs or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.line})"


def simulate(cell: Cell) -> dict[str, Any]:
    """Record fields of a simulated cell."""
    device = accelerators.get(cell.device)
    made = trace_cell(cell)
    peaks = allocator.replay((e.life, e.delta_bytes) for e in made.trace.events)
    fields = _fields(made)
    fields |= describe_peak(made.trace, [n for n in made.chain.names])
    fields["peak_allocated_bytes"] = peaks.peak_allocated_bytes
    fields["peak_reserved_bytes"] = peaks.peak_reserved_bytes
    timed = step_time(made.trace.work, made.trace.transfers, device, prefetch=True)
    fields["modelled_step_s"] = timed.step_s
    return fields | _verdict(made, peaks.peak_reserved_bytes, device)


def _verdict(
    made: Simulation, peak_reserved_bytes: int, device: accelerators.Accelerator
) -> dict[str, Any]:
    if made.missing:
        return {"status": "mismatch", "reason": f"no gradient for {', '.join(made.missing)}"}
    missing_bytes = peak_reserved_bytes - device.memory_bytes
    if missing_bytes <= 0:
        return {"status": "ok"}
    gb = 1e9
    reason = (
        f"needs {peak_reserved_bytes / gb:.1f} GB of {device.memory_bytes / gb:.1f} GB:"
        f" {missing_bytes / gb:.1f} GB missing"
    )
    return {"status": "oom", "reason": reason}


def _fields(made: Simulation) -> dict[str, Any]:
    step, recorded = made.step, made.trace
    parameters = list(step.model.parameters())
    resident_bytes = unique_bytes(
        [t for t in step.resident_tensors() if t.dim() or t in parameters]
    )
    after_forward_bytes = recorded.after_forward_bytes(GRANULE_BYTES)
    kernel = getattr(step.workload, "attention", None)
    return {
        "plan": plans.render(made.plan),
        "storage": str(made.storage) if made.storage else None,
        "attention_kernel": kernel,
        "grads_missing": made.missing,
        "after_forward_allocated_bytes": after_forward_bytes,
        "saved_after_forward_bytes": recorded.after_forward_bytes() - resident_bytes,
        "parameter_bytes": unique_bytes(parameters),
        "buffer_bytes": unique_bytes(step.model.buffers()),
        "batch_bytes": unique_bytes(step.batch),
        "gradient_bytes": unique_bytes([p.grad for p in parameters if p.grad is not None]),
        "optimizer_bytes": unique_bytes([t for t in step.optimizer_tensors() if t.dim()]),
        "forward_flops": recorded.forward_flops,
        "step_flops": recorded.step_flops,
        "recompute_flops": recorded.recompute_flops,
    }
