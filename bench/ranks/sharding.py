"""Puts a model under a layout: products split over some ranks, parameters sharded over others."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import strategies
from bench.cells.cell import Cell
from bench.cells.layout import Layout
from bench.cells.training import TrainingStep, cast, make_model
from bench.ranks import tensor_parallel
from bench.ranks.group import SHARDS, TENSOR
from bench.simulate.rates import rates_of
from bench.simulate.run import warm_optimizer
from bench.workloads.base import Workload


def share(model: nn.Module, blocks: str, layout: Layout, mesh: DeviceMesh) -> None:
    """Split and shard ``model``, in place: each block by itself, then what is left.

    Args:
        model: whole, on the ranks' device or on none.
        blocks: dotted path(s) of the containers of its blocks.
        layout: how.
        mesh: of the ranks.

    Raises:
        ValueError: products that cannot be split.
    """
    found = list(strategies.find_chain(model, blocks).blocks)
    if layout.tensor > 1:
        group = mesh.get_group(TENSOR)
        tensor_parallel.split(model, found, group, sequence=layout.sequence)
    if layout.shards > 1:
        for module in (*found, model):
            _shard(module, layout, mesh)


def _shard(module: nn.Module, layout: Layout, mesh: DeviceMesh) -> None:
    policy = MixedPrecisionPolicy()
    if layout.mixed:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    reshard = None if layout.reshard else False  # by default all but the root does
    fully_shard(module, mesh=mesh[SHARDS], reshard_after_forward=reshard, mp_policy=policy)


def real_step(cell: Cell, layout: Layout, mesh: DeviceMesh) -> TrainingStep:
    """The cell's model as this process, a rank of ``mesh``, holds it on its CPU, and its batch."""
    workload = cell.make_workload()
    model = make_model(workload, cell.precision)
    share(model, workload.blocks, layout, mesh)
    batch = tuple(cast(tensor, cell.precision) for tensor in workload.make_batch())
    step = TrainingStep(workload, model, batch, torch.device("cpu"), cell.precision, cell.optimizer)
    warm_optimizer(step)
    return step


def fake_step(
    cell: Cell,
    workload: Workload,
    layout: Layout,
    mesh: DeviceMesh,
    mode: FakeTensorMode,
    *,
    as_cuda: bool,
) -> TrainingStep:
    """The cell's model as one rank holds it, and its batch, as fake tensors.

    Cutting a parameter into a thousand shards is fast on the device ``meta`` alone, so a sharded
    model is cut there; only then it gets its fake tensors.
    """
    real = workload.make_batch()
    sharded = layout.shards > 1
    with torch.device("meta") if sharded else contextlib.nullcontext(), _unless(mode, sharded):
        model = make_model(workload, cell.precision)
        share(model, workload.blocks, layout, mesh)
    with mode:
        if sharded:
            mode.allow_non_fake_inputs = True
            model.to_empty(device="cpu")
            mode.allow_non_fake_inputs = False
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


def _unless(
    mode: FakeTensorMode, off: bool
) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if off else mode
