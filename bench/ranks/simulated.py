"""One rank of many, simulated: the real FSDP2 on fake tensors in a process group that is not there.

All ranks do the same on equal shards; the first, whose shards are the largest where they are not,
stands for all.
"""

from __future__ import annotations

import dataclasses

from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cells.cell import Cell
from bench.cells.layout import Layout
from bench.ranks import group
from bench.ranks.sharding import fake_step
from bench.ranks.tracer import Collective, RankTracer
from bench.simulate.run import Simulation, traced


@dataclasses.dataclass
class RankSimulation:
    """A rank's traced step.

    Attributes:
        simulation: memory and operators.
        collectives: in the order of their issue.
        unpacked: see `RankTracer`.
        layout: of the ranks.
    """

    simulation: Simulation
    collectives: list[Collective]
    unpacked: list[int]
    layout: Layout


def trace_rank(cell: Cell, *, as_cuda: bool = True) -> RankSimulation:
    """Trace the first rank's step of ``cell`` on fake tensors.

    Args:
        cell: checked; its batch is each rank's own.
        as_cuda: operators save what CUDA's kernels save; otherwise what this CPU's do.

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
        step = fake_step(cell, layout, mesh, mode, as_cuda=as_cuda)
        with mode:
            simulation = traced(
                cell.make_strategy(), step, as_cuda=as_cuda, make_tracer=make_tracer
            )
    [tracer] = tracers
    return RankSimulation(simulation, tracer.collectives, tracer.unpacked, layout)
