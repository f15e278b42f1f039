"""A rank's step: its part of the model, and its own examples."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage

from bench.cells.cell import Cell
from bench.cells.optimizers import make_optimizer
from bench.cells.training import TrainingStep, cast, make_model
from bench.ranks import buckets
from bench.ranks.parallel import Parallel
from bench.ranks.parallelise import parallelise
from bench.ranks.pipeline import PipelinedStep, pipelined, step_of
from bench.simulate import semantics
from bench.simulate.run import make_ready, warm_optimizer
from bench.simulate.traced_step import held
from bench.workloads.base import Workload

CPU = torch.device("cpu")
RECEIVED = "pipeline buffers"
"""What a stage receives activations and gradients in."""


class RankStep(TrainingStep):
    """A step whose optimizer works on a rank's own parts of sharded parameters.

    Of one element's update all others are independent, so that these are the operators that run in
    the end; to find that out for thousands of sharded tensors takes minutes.
    """

    def __post_init__(self) -> None:
        self.own = [nn.Parameter(held(parameter)) for parameter in self.model.parameters()]
        self.scaler = self.masters = None
        self.update_rule = make_optimizer(self.optimizer, nn.ParameterList(self.own))

    def update(self) -> None:
        """The optimizer's step, on the parts."""
        for own, whole in zip(self.own, self.model.parameters(), strict=True):
            own.grad = None if whole.grad is None else held(whole.grad)
        super().update()
        for own in self.own:
            own.grad = None


class PipelinedRankStep(RankStep, PipelinedStep):
    """The same of a stage."""


def real_step(cell: Cell, parallel: Parallel, mesh: DeviceMesh) -> TrainingStep:
    """On this process's CPU, a rank of ``mesh``; the optimizer has its state."""
    workload = cell.make_workload()
    model = parallelise(make_model(workload, cell.precision), mesh, parallel, workload).model
    batch = parallel.share(workload.make_batch(), mesh)
    cast_batch = tuple(cast(tensor, cell.precision) for tensor in batch)
    step = step_of(cell, workload, model, cast_batch, device=CPU, parallel=parallel, mesh=mesh)
    warm_optimizer(step)
    _know_buffers(step)
    return step


def fake_step(
    cell: Cell,
    workload: Workload,
    parallel: Parallel,
    mesh: DeviceMesh,
    mode: FakeTensorMode,
    *,
    as_cuda: bool,
) -> TrainingStep:
    """On fake tensors; the optimizer in the device's default form.

    Cutting a parameter into a thousand shards is fast on the device ``meta`` alone, so the model is
    cut there; only then it gets its fake tensors.
    """
    real = parallel.share(workload.make_batch(), mesh)
    model = _fake_model(cell, workload, parallel, mesh, mode)
    with mode, semantics.cuda() if as_cuda else semantics.cpu():
        batch = tuple(cast(mode.from_tensor(tensor), cell.precision) for tensor in real)
        step = _kind(parallel)(workload, model, batch, CPU, cell.precision, cell.optimizer)
        if isinstance(step, PipelinedStep):
            _run_alone(step, parallel, mesh)
        make_ready(step, cell, as_cuda=as_cuda)
        _know_buffers(step)
    return step


def _kind(parallel: Parallel) -> type[TrainingStep]:
    """Of a rank's step."""
    own = parallel.megatron or (parallel.data == "fsdp2" and parallel.tensor == 1)
    if parallel.pipeline > 1:
        return PipelinedRankStep if own else PipelinedStep
    return RankStep if own else TrainingStep


def _run_alone(step: PipelinedStep, parallel: Parallel, mesh: DeviceMesh) -> None:
    """A stage that asks no other what it will be sent: all stages send each other the same."""
    step.parts = parallel.parts
    group, index = mesh["pp"].get_group(), mesh["pp"].get_local_rank()
    given = step.stream() if index else step.batch[0].chunk(step.parts)[0]
    part = PipelineStage(
        *(step.model, index, parallel.pipeline, CPU, given, step.stream()), group=group
    )
    part._inference_mode = "static"  # type: ignore[assignment]
    pipelined(step, part, parallel).schedule._warmup_p2p = _unasked


def _unasked(stages: object, has_backward: object, done: object) -> None:
    """Instead of asking all stages what they were told of each other."""


def _know_buffers(step: TrainingStep) -> None:
    """What engines keep between steps, which are there after the first."""
    step.beside[buckets.CATEGORY] = buckets.of(step)
    if isinstance(step, PipelinedStep):
        step.forward()
        step.drop_gradients()
        step.beside[RECEIVED] = step.buffers()


def _fake_model(
    cell: Cell, workload: Workload, parallel: Parallel, mesh: DeviceMesh, mode: FakeTensorMode
) -> nn.Module:
    """A rank's part of the model."""
    if parallel.data == "ddp":
        with mode:
            whole = make_model(workload, cell.precision)
            model = parallelise(whole, mesh, parallel, workload).model
            buckets.answer(model)
        return model
    with torch.device("meta"):
        whole = make_model(workload, cell.precision)
        model = parallelise(whole, mesh, parallel, workload).model
    with mode:
        mode.allow_non_fake_inputs = True
        model.to_empty(device=CPU)
        mode.allow_non_fake_inputs = False
    return model
