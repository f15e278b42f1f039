"""A rank's step: its part of the model, and its own examples."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, cast, make_model
from bench.ranks.parallel import Parallel
from bench.ranks.parallelise import parallelise
from bench.simulate.rates import rates_of
from bench.simulate.run import warm_optimizer
from bench.workloads.base import Workload

CPU = torch.device("cpu")


def real_step(cell: Cell, parallel: Parallel, mesh: DeviceMesh) -> TrainingStep:
    """On this process's CPU, a rank of ``mesh``; the optimizer has its state."""
    workload = cell.make_workload()
    model = parallelise(make_model(workload, cell.precision), mesh, parallel, workload).model
    batch = parallel.share(workload.make_batch(), mesh)
    cast_batch = tuple(cast(tensor, cell.precision) for tensor in batch)
    step = TrainingStep(workload, model, cast_batch, CPU, cell.precision, cell.optimizer)
    warm_optimizer(step)
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
    with torch.device("meta"):
        whole = make_model(workload, cell.precision)
        model = parallelise(whole, mesh, parallel, workload).model
    with mode:
        mode.allow_non_fake_inputs = True
        model.to_empty(device=CPU)
        mode.allow_non_fake_inputs = False
        batch = tuple(cast(mode.from_tensor(tensor), cell.precision) for tensor in real)
        step = TrainingStep(workload, model, batch, CPU, cell.precision, cell.optimizer)
        step.rates = rates_of(cell) if cell.simulated else None
        if as_cuda and step.update_rule is not None:
            for group in step.update_rule.param_groups:
                group["foreach"] = True
        warm_optimizer(step)
    return step
