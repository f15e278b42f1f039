"""A process group that is not there: collectives of any number of ranks, seen by one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from bench.ranks.parallel import Parallel


@contextlib.contextmanager
def simulated(parallel: Parallel, stage: int = 0) -> Iterator[DeviceMesh]:
    """The mesh as one rank sees it: collectives return at once, values unset.

    Args:
        parallel: how ranks share a step.
        stage: of a pipeline; the first rank of those that have it.

    Raises:
        ValueError: this process is in a process group already.
    """
    if dist.is_initialized():
        raise ValueError("this process is a rank already; it cannot simulate others")
    rank = stage * parallel.replicas * parallel.context * parallel.tensor
    dist.init_process_group("fake", rank=rank, world_size=parallel.ranks, store=FakeStore())
    try:
        yield parallel.mesh("cpu")
    finally:
        dist.destroy_process_group()
