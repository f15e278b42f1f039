"""Cells, traces and small models for the tests of the simulator."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

import strategies
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.simulate.record import simulate as simulate_cell
from bench.simulate.run import Simulation, trace_cell, warm_optimizer
from bench.simulate.trace import Life, Trace
from bench.store.parts import merged
from bench.studies import validation
from bench.workloads.base import Batch, SizedWorkload, Workload

DEVICE = "sim:a100-80gb"
FIELDS = ("device", "precision", "optimizer")
# Three blocks: one group of two and a rest, for the strategies that form groups.
TINY = {
    "mlp-chain": {"layers": 3, "dim": 16, "batch": 32},
    "gpt-mini": {"layers": 3, "dim": 32, "heads": 2, "seq": 32, "batch": 2},
    "gpt-mini-dropout": {"layers": 3, "dim": 32, "heads": 2, "seq": 32, "batch": 2},
    "llama-mini": {"layers": 3, "dim": 32, "heads": 4, "ffn": 48, "seq": 16, "batch": 2},
    "vit-mini": {"layers": 3, "dim": 32, "image": 32, "batch": 2},
    "resnet-mini": {"dim": 4, "batch": 2},
}


def cell(workload: str, spec: str = "none", **given) -> Cell:
    """A cell on a simulated device: a small one, unless options say otherwise."""
    fields = {name: given.pop(name) for name in FIELDS if name in given}
    options = {**TINY.get(workload, {}), **given}
    fields = {"device": DEVICE, "rounds": 0, "threads": 1, **fields}
    return checked(Cell(workload=workload, options=options, spec=spec, **fields))


@functools.cache
def simulation(workload: str, spec: str = "none", *, as_cuda: bool = True, **given) -> Simulation:
    """That cell, traced on fake tensors; cached, so leave it as it is."""
    return trace_cell(cell(workload, spec, **given), as_cuda=as_cuda)


def simulated(workload: str, spec: str = "none", **given) -> Trace:
    """Its trace."""
    return simulation(workload, spec, **given).trace


def real(workload: str, spec: str = "none", **given) -> Trace:
    """The same step, traced on real tensors on this CPU."""
    wanted = cell(workload, spec, **given)
    made = wanted.make_workload()
    step = TrainingStep.build(made, torch.device("cpu"), wanted.precision, wanted.optimizer)
    warm_optimizer(step)
    with strategies.apply(step.model, wanted.spec, blocks=made.blocks) as applied:
        return validation.real_trace(step, applied.chain)


def kept(trace: Trace) -> Iterator[Life]:
    """What forward made and left for backward."""
    for life in trace.lives:
        made = trace.resident_events <= life.born < trace.forward_events
        if made and (life.died is None or life.died >= trace.forward_events):
            yield life


def kept_bytes(trace: Trace) -> int:
    """How much that is."""
    return trace.after_forward_bytes() - trace.resident_bytes()


def after_forward(trace: Trace) -> dict[str, int]:
    """Bytes by category when forward is done."""
    return trace.by_category(trace.forward_events - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Custom(SizedWorkload):
    """A stem and equal blocks of a kind that `register` was given."""

    kinds: ClassVar[dict[str, Callable[[int], nn.Module]]] = {}
    blocks: ClassVar[str] = "1"

    def build(self) -> nn.Module:
        """The model."""
        kind = self.kinds[self.name]
        blocks = nn.Sequential(*(kind(self.dim) for _ in range(self.layers)))
        return nn.Sequential(nn.Linear(self.dim, self.dim), blocks)

    def make_batch(self) -> Batch:
        """One tensor."""
        return (torch.ones(self.batch, self.dim),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean square."""
        return model(*batch).square().mean()


def register(registry: dict[str, Workload], name: str, kind: Callable[[int], nn.Module]) -> None:
    """Add a workload of ``kind(dim)`` blocks."""
    Custom.kinds[name] = kind
    registry[name] = Custom(name=name, summary="", layers=2, batch=4, dim=8)


class Branching(nn.Module):
    """A block that looks at a value."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled, if it is large."""
        if x.sum() > 0:  # this line is to be named
            x = x / 2
        return self.linear(x)


def simulate(cell: Cell) -> dict[str, object]:
    """The fields of a simulated cell's record."""
    return merged(*simulate_cell(cell))
