"""A process group that is not there: collectives of any number of ranks, seen by one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from bench.cells.layout import Layout

SHARDS, TENSOR = "shards", "tensor"


@contextlib.contextmanager
def simulated(layout: Layout) -> Iterator[DeviceMesh]:
    """The mesh of a layout as its first rank sees it: collectives return at once, values unset.

    Raises:
        ValueError: this process is in a process group already.
    """
    if dist.is_initialized():
        raise ValueError("this process is a rank already; it cannot simulate others")
    dist.init_process_group("fake", rank=0, world_size=layout.ranks, store=FakeStore())
    try:
        yield mesh_of(layout)
    finally:
        dist.destroy_process_group()


def mesh_of(layout: Layout) -> DeviceMesh:
    """The ranks of the process group that is there; those that split a product lie side by side."""
    shape = (layout.shards, layout.tensor)
    return init_device_mesh("cpu", shape, mesh_dim_names=(SHARDS, TENSOR))
