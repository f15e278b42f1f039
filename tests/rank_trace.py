"""Run as a process: one real rank's traced step, its bytes written to a file.

Arguments: the rank, how many there are, the file that they meet at, where to write, and the cell.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

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


def main(rank, ranks, meeting, out, text):
    """Trace it."""
    torch.set_num_threads(1)
    dist.isend = dist.distributed_c10d.isend = released(dist.isend)
    cell = msgspec.json.decode(text, type=Cell)
    dist.init_process_group(
        "gloo", rank=int(rank), world_size=int(ranks), init_method=f"file://{meeting}"
    )
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
    facts = {**bytes_of(found.trace, tracers[0].collectives), "loss": loss}
    Path(out).write_bytes(msgspec.json.encode(facts))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
