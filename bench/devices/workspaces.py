"""What matrix libraries keep on a device for themselves, through PyTorch's allocator: kept as data.

PyTorch gives each cuBLAS handle one workspace on each stream, at its first product, and never takes
it back. A training step has two handles: forward runs in the main thread, backward in autograd's.
cuDNN's workspaces are not here: they live inside one call, and their size depends on the algorithm
that cuDNN chose, which no documentation gives.
"""

from __future__ import annotations

import functools

from bench.devices.accelerators import Accelerator
from bench.devices.by_capability import Row, rows


class Workspace(Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one library takes, from one compute capability on.

    Attributes:
        library: whose it is.
        compute_capability: of the first kind of device that takes as much.
        bytes_per_handle: for each handle and stream.
        source: where it was read.
    """

    library: str
    bytes_per_handle: int
    source: str


@functools.cache
def known() -> list[Workspace]:
    """All that are known, by compute capability."""
    return rows("workspaces.json", Workspace)


def bytes_per_handle(device: Accelerator) -> int:
    """What each handle keeps on a device; 0 where it has no CUDA, or the user said so."""
    if device.workspace_bytes is not None:
        return device.workspace_bytes
    capability = device.compute_capability
    return 0 if capability is None else bytes_of_handle(capability)


def bytes_of_handle(capability: tuple[int, int]) -> int:
    """The same of any CUDA device, by its compute capability."""
    return [row.bytes_per_handle for row in known() if row.compute_capability <= capability][-1]
