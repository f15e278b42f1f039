"""One rank of many, simulated: the real FSDP2 on fake tensors in a process group that is not there.

All ranks do the same on equal shards; the first, whose shards are the largest where they are not,
stands for all.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells.cell import Cell
from bench.ranks import simulated_group as group
from bench.ranks.divisible import problem
from bench.ranks.parallel import Parallel, parse
from bench.ranks.pipeline import profiled_step
from bench.ranks.simulated_step import fake_step
from bench.ranks.simulated_tracer import Collective, RankTracer
from bench.simulate.run import Simulation, trace_step
from bench.workloads.base import Workload


@dataclasses.dataclass
class RankSimulation:
    """A rank's traced step.

    Attributes:
        simulation: memory and operators.
        collectives: in the order of their issue.
        unpacked: see `RankTracer`.
        streams: likewise.
        parallel: how the ranks share the model.
    """

    simulation: Simulation
    collectives: list[Collective]
    unpacked: list[int]
    streams: dict[int, str]
    parallel: Parallel


def trace_rank(
    cell: Cell,
    *,
    as_cuda: bool = True,
    workload: Workload | None = None,
    strategy: strategies.Strategy | None = None,
    stage: int = 0,
) -> RankSimulation:
    """Trace the step of ``cell``'s first rank, or of a stage's first, on fake tensors.

    Args:
        cell: checked; its batch is that of all ranks.
        as_cuda: operators save what CUDA's kernels save; otherwise what this CPU's do.
        workload: instead of the one that the cell names.
        strategy: likewise.
        stage: of a pipeline.

    Raises:
        Unsupported: the strategy cannot run on this workload.
        ValueError: the model cannot be shared so, or this process is a rank already.
    """
    parallel = checked(cell)
    mode = FakeTensorMode()
    tracers: list[RankTracer] = []

    def make_tracer(*given: object) -> RankTracer:
        tracers.append(RankTracer(*given))  # type: ignore[arg-type]
        return tracers[0]

    with group.simulated(parallel, stage) as mesh:
        chosen = workload or cell.make_workload()
        step = fake_step(cell, chosen, parallel, mesh, mode, as_cuda=as_cuda)
        with mode:
            simulation = trace_step(
                strategy or cell.make_strategy(),
                step,
                as_cuda=as_cuda,
                planned=profiled_step(step),
                make_tracer=make_tracer,
            )
    [tracer] = tracers
    return RankSimulation(simulation, tracer.collectives, tracer.unpacked, tracer.streams, parallel)


def checked(cell: Cell) -> Parallel:
    """How the cell's ranks share its model.

    Raises:
        ValueError: it cannot be shared so, or that is not simulated.
    """
    parallel = parse(cell.parallel, cell.ranks)
    if parallel.pipeline > 1 and (parallel.tensor > 1 or parallel.data == "ddp"):
        raise ValueError(f"simulated pipelines are joined with fsdp2 alone, not {cell.parallel}")
    workload = cell.make_workload()
    if "dropout" in workload.option_names():  # of random numbers only the bytes are simulated
        workload = workload.with_options(dropout=0.0)
    reason = problem(parallel, workload)
    if reason is None and parallel.sequence and not parallel.megatron:
        reason = _unsharded_norm(workload)
    if reason:
        raise ValueError(f"{cell.workload} on {cell.ranks} ranks: {reason}")
    return parallel


def _unsharded_norm(workload: Workload) -> str | None:
    """Why DTensor cannot split this model's sequence on fake tensors, or ``None``."""
    with torch.device("meta"):
        modules = list(workload.build().modules())
    if not any(isinstance(module, nn.RMSNorm) for module in modules):
        return None
    return "DTensor splits no sequence of a model with RMS norm on fake tensors; take tp"
