"""A simulated device as the rates that plans are made by."""

from __future__ import annotations

import torch

from bench.cells.cell import Cell
from bench.cells.training import AUTOCAST, PURE
from bench.devices import accelerators
from bench.devices.efficiencies import class_of, fraction
from bench.simulate import scratch
from strategies.profiling.rates import Rates


def rates_of(cell: Cell) -> Rates:
    """The catalogue's rates for the cell's precision, and how far kernels reach them."""
    device = accelerators.get(cell.device)
    low = PURE.get(cell.precision) or AUTOCAST.get(cell.precision)
    dtype = str(low or torch.float32).removeprefix("torch.")
    return Rates(
        flops_per_s=device.flops_per_s(dtype),
        bytes_per_s=device.memory_bandwidth_bytes_per_s,
        launch_s=device.launch_overhead_s,
        link_bytes_per_s=device.link_bandwidth_bytes_per_s,
        scratch=scratch.on(device),
        reach=lambda name: fraction(device, class_of(name)),
    )
