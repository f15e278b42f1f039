"""One rank of many, simulated: the real FSDP2 on fake tensors in a process group that is not there.

All ranks do the same on equal shards; the first, whose shards are the largest where they are not,
stands for all.
"""

from __future__ import annotations

import dataclasses

from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells.cell import Cell
from bench.cells.layout import Layout
from bench.ranks import group
from bench.ranks.sharding import fake_step
from bench.ranks.tracer import Collective, RankTracer
from bench.simulate.run import Simulation, traced
from bench.workloads.base import Workload


@dataclasses.dataclass
class RankSimulation:
    """A rank's traced step.

    Attributes:
        simulation: memory and operators.
        collectives: in the order of their issue.
        unpacked: see `RankTracer`.
        streams: likewise.
        layout: of the ranks.
    """

    simulation: Simulation
    collectives: list[Collective]
    unpacked: list[int]
    streams: dict[int, str]
    layout: Layout


def trace_rank(
    cell: Cell,
    *,
    as_cuda: bool = True,
    workload: Workload | None = None,
    strategy: strategies.Strategy | None = None,
) -> RankSimulation:
    """Trace the first rank's step of ``cell`` on fake tensors.

    Args:
        cell: checked; its batch is each rank's own.
        as_cuda: operators save what CUDA's kernels save; otherwise what this CPU's do.
        workload: instead of the one that the cell names.
        strategy: likewise.

    Raises:
        Unsupported: the strategy cannot run on this workload.
        ValueError: the layout does not fit the model, or this process is a rank already.
    """
    layout = Layout.parse(cell.parallel, cell.ranks)
    mode = FakeTensorMode()
    tracers: list[RankTracer] = []

    def make_tracer(*given: object) -> RankTracer:
        tracers.append(RankTracer(*given))  # type: ignore[arg-type]
        return tracers[0]

    with group.simulated(layout) as mesh:
        chosen = workload or cell.make_workload()
        step = fake_step(cell, chosen, layout, mesh, mode, as_cuda=as_cuda)
        with mode:
            simulation = traced(
                strategy or cell.make_strategy(), step, as_cuda=as_cuda, make_tracer=make_tracer
            )
    [tracer] = tracers
    return RankSimulation(simulation, tracer.collectives, tracer.unpacked, tracer.streams, layout)
