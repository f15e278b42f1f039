"""One real rank's traced step, and its bytes: the work of a process."""

from __future__ import annotations

import functools

import msgspec
import torch
import torch.distributed as dist

from bench.cells.cell import Cell
from bench.ranks.parallel import parse
from bench.ranks.pipeline import profiled_step
from bench.ranks.simulated_step import real_step
from bench.ranks.simulated_tracer import RankTracer
from bench.simulate.run import trace_step


def bytes_of(trace, collectives):
    """What both sides must agree on."""
    alive = trace.alive_bytes()
    peak = max(range(len(alive)), key=alive.__getitem__)
    return {
        "resident": trace.resident_bytes(),
        "after forward": trace.after_forward_bytes(),
        "peak": alive[peak],
        "by category": trace.by_category(peak),
        "collectives": [
            [one.kind, one.whole_bytes, one.ranks, one.of_parameters, one.recompute]
            for one in collectives
        ],
    }


class Sent:
    """A message that lets go of its tensor once it is waited for, as NCCL's do.

    Gloo's hold it as long as anybody holds them, and a schedule holds some to its end.
    """

    def __init__(self, work):
        self.work = work

    def wait(self):
        """Until it has arrived."""
        if self.work is not None:
            self.work.wait()
        self.work = None


def released(send):
    """`isend` whose messages are `Sent`."""

    @functools.wraps(send)
    def sending(*args, **kwargs):
        return Sent(send(*args, **kwargs))

    return sending


class Question(msgspec.Struct):
    """Which rank of which cell, and the file that they meet at."""

    rank: int
    meeting: str
    cell: Cell


def work(payload):
    """Trace it; both as JSON."""
    asked = msgspec.json.decode(payload, type=Question)
    cell, where = asked.cell, f"file://{asked.meeting}"
    torch.set_num_threads(1)
    dist.isend = dist.distributed_c10d.isend = released(dist.isend)
    dist.init_process_group("gloo", rank=asked.rank, world_size=cell.ranks, init_method=where)
    try:
        return msgspec.json.encode(facts_of(cell))
    finally:
        dist.destroy_process_group()


def facts_of(cell):
    """`bytes_of` this rank, and its loss."""
    parallel = parse(cell.parallel, cell.ranks)
    step = real_step(cell, parallel, parallel.mesh("cpu"))
    tracers = []

    def make_tracer(*given):
        tracers.append(RankTracer(*given))
        return tracers[-1]

    found = trace_step(
        cell.make_strategy(),
        step,
        as_cuda=False,
        planned=profiled_step(step),
        make_tracer=make_tracer,
    )
    step.drop_gradients()
    loss = float(step.forward().detach())
    return {**bytes_of(found.trace, tracers[0].collectives), "loss": loss}
