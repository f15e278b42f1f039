"""What the two processes of a distributed test run: imported anew in each."""

import gc
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import strategies
from bench import workloads
from bench.cells.training import TrainingStep
from bench.measure.memory import step_memory
from bench.ranks.parallel import parse
from bench.ranks.parallelise import parallelise

WIDTH, SPECS = 8, ("every_layer", "every_k(k=2)", "every_k(k=4)")


class Block(nn.Module):
    """Small, with dropout."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(torch.tanh(self.linear(x)))


def chain():
    torch.default_generator.manual_seed(0)
    return nn.Sequential(*[Block() for _ in range(4)])


def steps(model):
    """The gradients of two steps, of this process's share."""
    torch.default_generator.manual_seed(2 + dist.get_rank())
    x = torch.randn(3, WIDTH)
    found = []
    for _ in range(2):
        model.zero_grad()
        model(x).square().mean().backward()
        grads = [p.grad for p in model.parameters()]
        found += [g.to_local().clone() if hasattr(g, "to_local") else g.clone() for g in grads]
    return found


def ddp(spec, unused):
    """With all parameters looked for in the graph, the model is wrapped before `apply`."""
    model = chain()
    if not unused:
        strategies.apply(model, spec)
    wrapped = DistributedDataParallel(model, find_unused_parameters=unused)
    if unused:
        strategies.apply(wrapped, spec)
    return steps(wrapped)


def fsdp(spec, first):
    model = chain()
    if first == "apply":
        strategies.apply(model, spec)
    for block in model:
        fully_shard(block)
    fully_shard(model)
    if first == "shard":
        strategies.apply(model, spec)
    return steps(model)


def check(way, option):
    wanted = way("none", option)
    assert all(gradient.abs().sum() for gradient in wanted)
    for spec in SPECS:
        found = way(spec, option)
        assert all(map(torch.equal, found, wanted)), f"another gradient under {spec}"


WAYS = {"ddp": (ddp, (False, True)), "fsdp": (fsdp, ("apply", "shard"))}


def main(rank, name, store):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    way, options = WAYS[name]
    for option in options:
        check(way, option)
    dist.destroy_process_group()
    sys.stdout.flush()


def traced(rank, store, steps):
    """The memory of many steps of DistributedDataParallel, whose sums other threads make."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    way, workload = parse("ddp", 2), workloads.get("gpt-mini", layers=1, dim=16, heads=2, seq=8)
    mesh = way.mesh("cpu")
    split = parallelise(workload.model(), mesh, way, workload)
    batch = way.share(workload.make_batch(), mesh)
    step = TrainingStep(workload, split.model, batch, torch.device("cpu"))
    gc.freeze()  # each step collects garbage first; what was imported is none
    for _ in range(steps):
        step_memory(step, settle=split.settle)
        step.drop_gradients()
    dist.barrier()
    dist.destroy_process_group()
