"""A model that does not fit without checkpoints is profiled all the same: budgets are for it."""

import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from strategies.profiling import profiler as profiling
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.oom import is_out_of_memory
from strategies.profiling.step import ExampleStep

ROOT = Path(__file__).parent.parent

# Sixteen blocks that keep 18 MB each; 256 MB are there on top of what the process has.
TOO_LARGE = """
import torch, strategies
from bench.run.limited import limited_memory
from torch import nn

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 512), nn.Linear(512, 64)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x)))


model = nn.Sequential(*(Block() for _ in range(16)))
batch = torch.ones(4096, 64)
small = torch.ones(4, 64)
strategies.apply(model, "optimal", budget="1GB", example=small).undo()  # all is imported
with limited_memory(256_000_000, 1):
    try:
        model(batch).sum().backward()
        print("none fits")
    except RuntimeError:
        model.zero_grad(set_to_none=True)
    applied = strategies.apply(model, "optimal", budget="120MB", example=batch)
    assert all(p.grad is None for p in model.parameters())
    print(next(note for note in applied.notes if note.startswith("budget")))
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        model(batch).sum().backward()
    print(sum(p.grad is not None for p in model.parameters()))
"""


@pytest.mark.long
def test_a_model_that_does_not_fit_is_profiled_planned_and_trained():
    # Every tensor in a mapping of its own: what the step that failed left is given back whole.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", TOO_LARGE]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    note, gradients = done.stdout.splitlines()
    assert note.startswith("budget 120,000,000 bytes; predicted peak ")
    assert "profiled on fake tensors" in note
    assert gradients == str(16 * 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.drop, self.down = nn.Linear(8, 32), nn.Dropout(0.5), nn.Linear(32, 8)

    def forward(self, x):
        return x + self.down(self.drop(self.up(x)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_bytes_are_those_of_real_tensors():
    model, tokens = Model(), torch.arange(10).repeat(8, 1)
    step = ExampleStep(model, tokens)
    real = profiling.profile_chain(step, strategies.find_chain(model), operators=True)
    mode = FakeTensorMode()
    fake = step.faked(mode)
    with mode:
        found = profiling.profile_chain(fake, strategies.find_chain(fake.model), operators=True)
    assert found == real
    assert fake.model.head.weight is fake.model.embed.weight


def test_only_running_out_of_memory_leads_to_fake_tensors(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("strategies.contract.budgeted.profile_chain", fail)
    with pytest.raises(RuntimeError, match="no such operator"):
        strategies.apply(Model(), "optimal", example=torch.zeros(2, 3, dtype=torch.long))


def test_an_accelerator_that_is_full_leads_to_fake_tensors(monkeypatch):
    calls = []

    def full_once(*arguments, **options):
        calls.append(options)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return profiling.profile_chain(*arguments, **options)

    monkeypatch.setattr("strategies.contract.budgeted.profile_chain", full_once)
    applied = strategies.apply(
        Model(), "optimal", budget="100%", example=torch.zeros(2, 3, dtype=torch.long)
    )
    assert applied.chain.profile.faked
    assert len(calls) == 2
    assert applied.chain.blocks[0] is applied.model.blocks[0]
    assert dataclasses.replace(applied.chain.profile, faked=False).blocks


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(f"{ALLOCATOR}: you tried to allocate 8 bytes. Error code 12"), True),
        (RuntimeError(f"{ALLOCATOR} is what an allocator says"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error, full):
    assert is_out_of_memory(error) == full


def test_profiling_leaves_nothing_alive():
    model, tokens = Model(), torch.arange(10).repeat(8, 1)
    step, blocks = ExampleStep(model, tokens, keep_output=False), strategies.find_chain(model)
    before = allocated_bytes()
    profiling.profile_chain(step, blocks, modes=["products"], operators=True)
    assert allocated_bytes() == before


def allocated_bytes():
    """Of all tensors that the collector knows."""
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
    return unique_bytes(found)
