"""This CPU as a roofline: its own ceilings, measured, so that the time model can be judged.

The simulated accelerators take their ceilings from datasheets, and nobody here can check the
result. On a CPU both sides exist: each timed record holds what the model says for its cell, and
the calibration table sets that beside what was measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import msgspec
import torch

from bench.cells.cell import Cell
from bench.devices.accelerators import Accelerator
from bench.simulate.run import trace_cell
from bench.store.parts import ModelledTimes

_REPEATS = 5
_MATRIX = 1024
_COPY_VALUES = 32 * 2**20  # 128 MB each way: beyond any cache
_SMALL_CALLS = 2000


def ceilings() -> tuple[float, float, float]:
    """Best of five: fp32 FLOP/s of a matrix product, bytes/s of a copy, seconds of a tiny call."""
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    product_s = _best(lambda: torch.mm(a, b))
    source = torch.rand(_COPY_VALUES)
    target = torch.empty_like(source)
    copy_s = _best(lambda: target.copy_(source))
    tiny = torch.zeros(1)
    calls_s = _best(lambda: [tiny.add_(1.0) for _ in range(_SMALL_CALLS)])
    return 2 * _MATRIX**3 / product_s, 2 * 4 * _COPY_VALUES / copy_s, calls_s / _SMALL_CALLS


def _best(call: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return min(once() for _ in range(_REPEATS))


@functools.cache
def this_cpu() -> Accelerator:
    """The CPU with its measured ceilings; "host link" is unknown and taken as memory."""
    flops_per_s, bytes_per_s, launch_s = ceilings()
    return Accelerator(
        name="this-cpu",
        product="this CPU, as measured",
        compute_capability=None,
        datasheet_memory_bytes=1,
        memory_bytes=1,
        bf16_flops_per_s=flops_per_s,
        fp16_flops_per_s=flops_per_s,
        fp32_flops_per_s=flops_per_s,
        memory_bandwidth_bytes_per_s=bytes_per_s,
        link_bandwidth_bytes_per_s=bytes_per_s,
        link_source="measured",
        interconnect=None,
        launch_overhead_s=launch_s,
        source="measured",
        memory_source="not used",
        note="",
    )


def modelled_cpu_step_s(cell: Cell) -> float:
    """What the roofline of this CPU says for one step of ``cell``.

    Raises:
        strategies.Unsupported: the strategy cannot run here.
    """
    return trace_cell(cell, as_cuda=False).step_s(this_cpu())


def modelled_times(cell: Cell) -> ModelledTimes:
    """Of a cell's step, and of ``none``'s with math attention, if there is a choice."""
    options = dict(cell.options)
    if "attention" in options:
        options["attention"] = "math"
    none = msgspec.structs.replace(cell, spec="none", options=options)
    return ModelledTimes(
        modelled_step_s=modelled_cpu_step_s(cell),
        modelled_none_step_s=modelled_cpu_step_s(none),
    )
