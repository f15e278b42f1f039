"""How many thread blocks a device runs at once: what launches, and their scratch, depend on.

Threads of a multiprocessor: CUDA C++ Programming Guide, «Technical Specifications per Compute
Capability».
"""

from __future__ import annotations

import functools
from importlib import resources

import msgspec
import torch

from bench.devices.accelerators import Accelerator


class Multiprocessors(msgspec.Struct, frozen=True):
    """Of a device.

    Attributes:
        count: how many there are.
        threads: that each holds at once.
    """

    count: int
    threads: int


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one accelerator of the catalogue.

    Attributes:
        device: its name there.
        count: as in `Multiprocessors`.
        threads: likewise.
        source: where it was read.
    """

    device: str
    count: int
    threads: int
    source: str


@functools.cache
def known() -> dict[str, Row]:
    """All that are known, by the accelerator's name."""
    data = (resources.files("bench.devices") / "multiprocessors.json").read_bytes()
    return {row.device: row for row in msgspec.json.decode(data, type=list[Row])}


def of(device: Accelerator) -> Multiprocessors | None:
    """An accelerator's; a custom one has as many as the accelerator that it is made after.

    ``None``: not CUDA.
    """
    if device.compute_capability is None:
        return None
    row = known()[device.made_after or device.name]
    return Multiprocessors(row.count, row.threads)


def here() -> Multiprocessors:
    """Of this machine's CUDA device."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Multiprocessors(found.multi_processor_count, found.max_threads_per_multi_processor)
