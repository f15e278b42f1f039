"""Which device each rank of this machine has, and what ranks say things to each other through."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from bench.cells.cell import Cell
from bench.ranks.parallel import Parallel


def problem(cell: Cell, way: Parallel) -> str | None:
    """Why the ranks of a cell cannot run on this machine's devices, in a sentence, or ``None``."""
    if not shared(cell):
        return None
    count = torch.accelerator.device_count()
    needed = f"{_ranks_here(cell)} ranks need as many devices; this machine has {count}"
    if way.dimensions.keys() != {"dp"} or way.data != "ddp":
        # Gloo's sums are right on an accelerator; gathering for fsdp2 ended with SIGSEGV there.
        return f"{needed} of {cell.device}, and only ddp lets ranks share one"
    if cell.rounds:
        return f"{needed} of {cell.device}: ranks that share one are not timed, so say --no-time"
    return None


def shared(cell: Cell) -> bool:
    """Whether ranks of this machine share an accelerator, for want of others."""
    if cell.device == "cpu":
        return False
    return _ranks_here(cell) > torch.accelerator.device_count()


def backend(cell: Cell) -> str:
    """What ranks talk through: the device's own library, which takes one rank a device, or gloo."""
    return "gloo" if shared(cell) else dist.get_default_backend_for_device(cell.device)


def of_rank(device: str, local_rank: int) -> torch.device:
    """The device of a rank, which is the process's from now on.

    Args:
        device: the cell's.
        local_rank: among the ranks of this machine.
    """
    if device == "cpu":
        return torch.device(device)
    index = local_rank % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    own = torch.device(device, index)
    torch.zeros((), device=own)  # of a device that is not in use yet a mesh takes another for it
    return own


def _ranks_here(cell: Cell) -> int:
    """Of this machine: all, unless torchrun has started some elsewhere."""
    if not dist.is_torchelastic_launched():
        return cell.ranks
    return int(os.environ["LOCAL_WORLD_SIZE"])
