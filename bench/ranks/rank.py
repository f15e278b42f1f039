"""One rank of a cell, measured in this process while the others do the same.

Order: rank 0 runs the whole batch alone, which all are compared with; then every rank runs its part
of the step without the strategy and with it, so that what the strategy adds (memory, collectives,
FLOPs) can be told apart; then memory and time.
"""

from __future__ import annotations

import time

import msgspec
import torch
import torch.distributed as dist

from bench.cells.training import cast, make_model
from bench.ranks import parallel, pipeline
from bench.ranks.group import Task, joined
from bench.ranks.judged import Whole
from bench.ranks.observed import observe
from bench.ranks.parallelise import parallelise
from bench.ranks.passes import Passes
from bench.run.limited import limited_memory

_WARMUP = 2
"""Steps: DistributedDataParallel orders its buckets anew after the first."""


def measure_rank(payload: bytes) -> bytes:
    """The record of one rank; ``payload`` is a `Task`. Both as JSON."""
    started = time.perf_counter()
    task = msgspec.json.decode(payload, type=Task)
    torch.set_num_threads(task.cell.threads)
    limit_bytes, threads = task.cell.memory_limit_bytes, task.cell.threads
    with limited_memory(limit_bytes, threads), joined(task) as device:
        record = task.record.with_parts(*_passes(task, device).parts())
    duration_s = round(time.perf_counter() - started, 3)
    record = msgspec.structs.replace(record, rank=task.rank, duration_s=duration_s)
    return msgspec.json.encode(record)


def _passes(task: Task, device: torch.device) -> Passes:
    """The whole batch on rank 0, then this rank's part without the strategy."""
    cell = task.cell
    whole = Whole(cell, device) if task.rank == 0 else None
    dist.barrier()
    workload = cell.make_workload()
    way = parallel.parse(cell.parallel, cell.ranks)
    mesh = way.mesh(device.type)
    split = parallelise(make_model(workload, cell.precision).to(device), mesh, way, workload)
    batch = way.share(tuple(cast(t, cell.precision) for t in workload.make_batch()), mesh)
    batch = tuple(t.to(device) for t in batch)
    step = pipeline.step_of(
        cell, workload, split.model, batch, device=device, parallel=way, mesh=mesh
    )
    for _ in range(_WARMUP):
        observe(step, cell.seed)
    return Passes(cell, step, split, whole, observe(step, cell.seed))
