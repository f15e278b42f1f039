"""Workloads that take milliseconds a step, and the harness's parts on them."""

import contextlib
import functools

import torch

import strategies
from bench import workloads
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.run import worker
from strategies.execution import layout
from strategies.execution.undo import undo_all
from strategies.profiling.ledger import Ledger
from strategies.schedules import plan as plans

CPU = torch.device("cpu")
_TEXT = {"layers": 6, "dim": 16, "heads": 2, "seq": 16, "batch": 1}
OPTIONS = {
    "mlp-chain": {"layers": 6, "batch": 8, "dim": 8},
    "gpt-mini": _TEXT,
    "gpt-mini-dropout": _TEXT,
    "llama-mini": {**_TEXT, "kv_heads": 1, "ffn": 24},
    "vit-mini": {"layers": 6, "dim": 16, "heads": 2, "image": 16, "batch": 2},
    "resnet-mini": {"batch": 2},
}


def cell(workload, spec="none", options=None, **fields):
    """A checked cell: one thread and not timed, unless told."""
    options = {**OPTIONS[workload], **(options or {})}
    fields = {"rounds": 0, "threads": 1, **fields}
    return checked(Cell(workload=workload, spec=spec, options=options, **fields))


def measure(workload, spec="none", options=None, **fields):
    """The record of a cell, measured in this process."""
    return worker.measure(cell(workload, spec, options, **fields))


@functools.cache
def record(workload, spec="none"):
    """As `measure`, once for all tests."""
    return measure(workload, spec)


def step(workload, **options):
    """A training step, on fake tensors if their mode is on (which cannot move a model)."""
    torch.set_num_threads(1)
    sized = workloads.get(workload, **{**OPTIONS[workload], **options})
    return TrainingStep(sized, sized.model(), sized.make_batch(), CPU)


def chain_of(step):
    return strategies.find_chain(step.model, step.workload.blocks)


@contextlib.contextmanager
def under(step, plan):
    """The step's model under a plan, written as text."""
    chain = chain_of(step)
    undos = layout.install(chain, plans.parse(plan))
    try:
        yield plans.split(plans.parse(plan), chain.borders)
    finally:
        undo_all(undos)


def watch(step):
    """One step under a ledger; returns it, with the marks ``start``, ``forward`` and ``end``."""
    step.drop_gradients()
    ledger = Ledger()
    ledger.adopt(step.resident_tensors())
    with ledger:
        ledger.mark("start")
        loss = step.forward()
        ledger.mark("forward")
        step.backward(loss)
        del loss
        ledger.mark("end")
    step.drop_gradients()
    return ledger


def saved_bytes(ledger):
    """What the ledger says forward left behind."""
    start, forward, _ = ledger.marks
    return forward.alive_bytes - start.alive_bytes
