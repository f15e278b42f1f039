"""A process becomes a rank: it joins the others, and leaves them again."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator

import msgspec
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from bench.cells.cell import Cell
from bench.ranks import places
from bench.store.records import Record

PART = 0.5
"""Of the time limit, after which a rank gives up waiting for another: what is left is enough to say
which one never came."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank is to do.

    Attributes:
        cell: to measure, the same for all ranks.
        record: of the cell, as far as it is known before.
        rank: this one.
        local_rank: among those of this machine.
        backend: of `torch.distributed`.
        address: of the store where ranks meet: ``file://PATH``, or ``tcp://HOST:PORT`` of one that
            is there already.
        timeout_s: of the whole cell.
    """

    cell: Cell
    record: Record
    rank: int
    local_rank: int
    backend: str
    address: str
    timeout_s: float


def store_of(address: str, ranks: int, timeout_s: float) -> Store:
    """The store at an address."""
    kind, _, place = address.partition("://")
    wait = datetime.timedelta(seconds=timeout_s)
    if kind == "file":
        return FileStore(place, ranks)
    host, _, port = place.rpartition(":")
    return TCPStore(host, int(port), ranks, is_master=False, timeout=wait)


@contextlib.contextmanager
def joined(task: Task) -> Iterator[torch.device]:
    """Be one of the ranks meanwhile; gives this rank's device.

    Afterwards the group is left as it is if something went wrong: the others notice it when this
    process ends, and leaving in good order would wait for them.
    """
    cell = task.cell
    wait_s = PART * task.timeout_s
    device = places.of_rank(cell.device, task.local_rank)
    if task.address.startswith("file:"):
        _talk_locally()
    dist.init_process_group(
        task.backend,
        store=PrefixStore(task.record.cell_id, store_of(task.address, cell.ranks, wait_s)),
        rank=task.rank,
        world_size=cell.ranks,
        timeout=datetime.timedelta(seconds=wait_s),
        device_id=None if task.backend == "gloo" else device,
    )
    yield device
    dist.barrier()
    dist.destroy_process_group()


def _talk_locally() -> None:
    """Ranks of one machine need no network, and the machine's name need not lead anywhere."""
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for library in ("GLOO", "NCCL"):
        if loopback:
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback[0])
