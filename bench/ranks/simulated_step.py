"""A rank's step: its part of the model, and its own examples."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, cast, make_model, make_optimizer
from bench.ranks import buckets
from bench.ranks.parallel import Parallel
from bench.ranks.parallelise import parallelise
from bench.ranks.pipeline import around
from bench.simulate import semantics
from bench.simulate.run import make_ready, warm_optimizer
from bench.simulate.traced_step import held
from bench.workloads.base import Workload

CPU = torch.device("cpu")


class RankStep(TrainingStep):
    """A step whose optimizer works on a rank's own parts of sharded parameters.

    Of one element's update all others are independent, so that these are the operators that run in
    the end; to find that out for thousands of sharded tensors takes minutes.
    """

    def __post_init__(self) -> None:
        self.own = [nn.Parameter(held(parameter)) for parameter in self.model.parameters()]
        self.scaler = None
        self.update_rule = make_optimizer(self.optimizer, nn.ParameterList(self.own))

    def update(self) -> None:
        """The optimizer's step, on the parts."""
        for own, whole in zip(self.own, self.model.parameters(), strict=True):
            own.grad = None if whole.grad is None else held(whole.grad)
        super().update()
        for own in self.own:
            own.grad = None


def real_step(cell: Cell, parallel: Parallel, mesh: DeviceMesh) -> TrainingStep:
    """On this process's CPU, a rank of ``mesh``; the optimizer has its state."""
    workload = cell.make_workload()
    model = parallelise(make_model(workload, cell.precision), mesh, parallel, workload).model
    batch = parallel.share(workload.make_batch(), mesh)
    cast_batch = tuple(cast(tensor, cell.precision) for tensor in batch)
    step = TrainingStep(workload, model, cast_batch, CPU, cell.precision, cell.optimizer)
    warm_optimizer(step)
    step.beside[buckets.CATEGORY] = buckets.of(step)
    return step


def planned(step: TrainingStep) -> TrainingStep:
    """What plans are made on: the model inside DistributedDataParallel."""
    inner = step.model.module if isinstance(step.model, DistributedDataParallel) else step.model
    return step if inner is step.model else around(step, inner)


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
        own = parallel.data == "fsdp2" or parallel.megatron
        kind = RankStep if own and (parallel.tensor == 1 or parallel.megatron) else TrainingStep
        step = kind(workload, model, batch, CPU, cell.precision, cell.optimizer)
        make_ready(step, cell, as_cuda=as_cuda)
        step.beside[buckets.CATEGORY] = buckets.of(step)
    return step


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
