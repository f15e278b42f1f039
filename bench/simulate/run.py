"""Simulates one cell: a step under fake tensors, as the accelerator's kernels would save."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, cast, make_model
from bench.devices import accelerators
from bench.simulate import scratch, semantics
from bench.simulate.errors import NeedsValueError
from bench.simulate.rates import rates_of
from bench.simulate.roofline import attained, step_time
from bench.simulate.scaler import FiniteScaler
from bench.simulate.storage import simulated
from bench.simulate.trace import Trace
from bench.simulate.traced_step import Parts, held, trace
from bench.simulate.tracer import Tracer
from bench.workloads.base import Workload
from bench.workloads.sources import SourceWorkload, blame
from strategies import profiling
from strategies.execution.undo import installed
from strategies.profiling.rates import Scratch
from strategies.profiling.standing import standing
from strategies.profiling.step import Step


@dataclasses.dataclass
class Simulation:
    """A traced step and the model that it was.

    Attributes:
        trace: of the step.
        step: on fake tensors.
        prepared: the strategy, its storage as simulated.
        missing: parameters that got no gradient.
    """

    trace: Trace
    step: TrainingStep
    prepared: strategies.Prepared
    missing: list[str]

    @property
    def blocks(self) -> Sequence[str]:
        """Dotted paths of the blocks."""
        return self.prepared.chain.names

    def step_s(self, device: accelerators.Accelerator) -> float:
        """Time of the step by a roofline of what kernels reach on the device.

        Overlapped transfers run as the executor started them.
        """
        storage = self.prepared.storage
        noted = storage is not None and not storage.everywhere
        work = attained(self.trace.work, device)
        return step_time(work, self.trace.transfers, device, prefetch=not noted).step_s


def fake_step(cell: Cell, mode: FakeTensorMode, *, as_cuda: bool = True) -> TrainingStep:
    """The cell's model and batch, as fake tensors; the optimizer in the device's default form."""
    workload = cell.make_workload()
    real, model = workload.make_batch(), _fake_model(workload, cell.precision, mode)
    with mode:
        batch = tree_map_only(
            Tensor, lambda tensor: cast(mode.from_tensor(tensor), cell.precision), real
        )
        step = TrainingStep(
            workload, model, batch, torch.device("cpu"), cell.precision, cell.optimizer
        )
        make_ready(step, cell, as_cuda=as_cuda)
    return step


def make_ready(step: TrainingStep, cell: Cell, *, as_cuda: bool) -> None:
    """A fake step knows its device's rates; its optimizer has state, and the device's form."""
    step.rates = rates_of(cell) if cell.simulated else None
    if step.scaler is not None:
        step.scaler = FiniteScaler(step.device.type)
    if as_cuda and step.update_rule is not None:
        for group in step.update_rule.param_groups:
            if "foreach" in group and not group["fused"]:
                group["foreach"] = True
    with semantics.cpu():
        warm_optimizer(step)


def _fake_model(workload: Workload, precision: str, mode: FakeTensorMode) -> nn.Module:
    """Built of fake tensors; a model from elsewhere whose code cannot, of a real one.

    So is one that was there before it was asked for.
    """
    try:
        with mode:
            model = make_model(workload, precision)
    except Exception:
        if not isinstance(workload, SourceWorkload):
            raise
        model = make_model(workload, precision)
    if all(isinstance(tensor, FakeTensor) for tensor in map(held, model.parameters())):
        return model
    with FakeCopyMode(mode):
        return copy.deepcopy(model)


def warm_optimizer(step: TrainingStep) -> None:
    """Create the optimizer's state, as its first step would."""
    if step.update_rule is None:
        return
    for parameter in step.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    if step.scaler is not None:
        step.scaler.scale(torch.zeros((), device=step.device))  # makes its scale
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
    with valueless():
        step = fake_step(cell, mode, as_cuda=as_cuda)
        with mode:
            own = scratch.on_this_machine() if as_cuda and cell.device == "cuda" else None
            return trace_step(cell.make_strategy(), step, as_cuda=as_cuda, kernels=own)


@contextlib.contextmanager
def valueless() -> Iterator[None]:
    """Within, a model that needs a tensor's value is refused in a sentence.

    Raises:
        NeedsValueError: names the line.
    """
    try:
        yield
    except RuntimeError as error:
        if not blame.needs_value(error):
            raise
        raise NeedsValueError(
            f"{user_line(error)}: the model needs the value of a tensor, and a simulated tensor"
            " has none; take .item() and branches on values out of the forward pass"
        ) from error


def trace_step(
    strategy: strategies.Strategy,
    step: TrainingStep,
    *,
    chain: strategies.Chain | None = None,
    as_cuda: bool = True,
    kernels: Scratch | None = None,
    planned: Step | None = None,
    make_tracer: Callable[[nn.Module, Sequence[nn.Module], Scratch | None], Tracer] = Tracer,
) -> Simulation:
    """Trace a step under a strategy; its gradients are there afterwards.

    Args:
        strategy: which.
        step: on fake tensors, whose mode is entered.
        chain: of its model, with what the strategy needs to know; default: found out.
        as_cuda: see `trace_cell`.
        kernels: their scratch memory; default: what the step's rates say of it.
        planned: what plans are made on, where an engine stands around the model; default: the step.
        make_tracer: of the model, its blocks and ``kernels``.

    Raises:
        Unsupported: the strategy cannot run on this model.
    """
    planned = step if planned is None else planned
    model, device = planned.model, torch.device("cuda" if as_cuda else "cpu")
    with semantics.cuda() if as_cuda else semantics.cpu():
        prepared = strategies.prepare(
            model, strategy, step=planned, blocks=step.workload.blocks, chain=chain, device=device
        )
    if kernels is None and as_cuda and step.rates is not None:
        kernels = step.rates.scratch

    def once() -> Simulation:
        tracer = make_tracer(model, prepared.chain.blocks, kernels)
        under = dataclasses.replace(prepared, storage=simulated(prepared.storage, tracer))
        with installed(under.install):
            recorded = trace(tracer, parts_of(step, as_cuda=as_cuda))
            missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        return Simulation(recorded, step, under, missing)

    made = once()
    if not standing(step):
        return made
    del made  # of a first step, that found nothing there
    step.drop_gradients()
    return once()


def parts_of(step: TrainingStep, *, as_cuda: bool) -> Parts:
    """What the tracer runs: the step's parts, and the tensors that are there before."""
    return Parts(
        forward=step.forward,
        backward=step.backward,
        update=step.update,
        resident=residents(step),
        standing=lambda: standing(step),
        parameters=list(step.model.parameters()),
        semantics=semantics.cuda() if as_cuda else semantics.cpu(),
    )


def residents(step: TrainingStep) -> dict[str, list[Tensor]]:
    """What is on the device between steps, gradients aside, by category."""
    return {
        "parameters": list(map(held, (*step.model.parameters(), *step.model.buffers()))),
        "batch": step.batch_tensors(),
        "optimizer state": [held(tensor) for tensor in _updating(step)],
        **step.beside,
    }


def _updating(step: TrainingStep) -> list[Tensor]:
    """What updates parameters. Step counters are scalars on the host, but of fused optimizers."""
    rule, tensors = step.update_rule, step.optimizer_tensors()
    fused = rule is not None and any(group.get("fused") for group in rule.param_groups)
    return [tensor for tensor in tensors if fused or tensor.dim()] + step.scaler_tensors()


def user_line(error: BaseException) -> str:
    """The innermost line of the traceback outside PyTorch and the instruments."""
    here = Path(__file__).parent
    inside = tuple(map(str, (Path(torch.__file__).parent, here, Path(profiling.__file__).parent)))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(inside)]
    frame = (theirs or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.line})"
