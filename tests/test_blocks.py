"""Measured block times, by a clock that only the blocks move: every figure is exact."""

import dataclasses
import types

import costs
import pytest
import tiny
import torch
from torch import nn

import strategies
from bench.run import block_times
from bench.run.block_times import GROUPS, StepTimes, with_times
from strategies.execution.block_modes import MODES
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import ExampleStep

NOW = types.SimpleNamespace(seconds=0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes when a block says so, and not otherwise."""
    NOW.seconds = 1000.0
    fake = types.SimpleNamespace(perf_counter=lambda: NOW.seconds)
    monkeypatch.setattr(block_times, "time", fake)


class Takes(torch.autograd.Function):
    """Adds ``x`` to itself, in so many seconds each way."""

    @staticmethod
    def forward(ctx, x, forward_s, backward_s):
        ctx.save_for_backward(x)
        ctx.backward_s = backward_s
        NOW.seconds += forward_s
        return x + x

    @staticmethod
    def backward(ctx, gradient):
        assert ctx.saved_tensors
        NOW.seconds += ctx.backward_s
        return gradient + gradient, None, None


class Block(nn.Module):
    """Two such functions and a sum whose time no early stop repeats."""

    def __init__(self, scale):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.ones(8)), scale

    def forward(self, x):
        x = Takes.apply(x * self.weight, 1.0 * self.scale, 3.0 * self.scale)
        x = Takes.apply(x, 2.0 * self.scale, 4.0 * self.scale)
        NOW.seconds += 0.5
        return x + 1


class Model(nn.Module):
    """A head of 10 s, blocks, and a tail of 20 s with 30 s of backward."""

    def __init__(self, scales):
        super().__init__()
        self.blocks = nn.ModuleList(map(Block, scales))

    def forward(self, x):
        NOW.seconds += 10.0
        for block in self.blocks:
            x = block(x)
        return Takes.apply(x, 20.0, 30.0)


def measured(scales, rounds=2):
    model = Model(scales)
    step = ExampleStep(model, torch.ones(4, 8))
    chain = strategies.find_chain(model)
    profile = profile_chain(step, chain)
    return profile, block_times.measure(step, chain, profile, rounds)


def test_times_are_those_of_the_blocks():
    _, found = measured([1.0] * 4)
    for block in found.blocks:
        assert (block.forward_s, block.backward_s) == (3.5, 7.0)
        assert block.last_recompute_s == 3.0  # stops at the last saved tensor
    assert found.fixed_s == 60.0
    assert found.plain_step_s == 60.0 + 4 * 10.5


def test_blocks_that_cost_the_same_share_the_median():
    _, found = measured([9.0, 1.0, 2.0, 8.0])
    other, *same = found.blocks  # nobody asks the first for its input's gradient
    assert other.forward_s == 9 * 3 + 0.5
    assert {block.forward_s for block in same} == {6.5}
    assert {block.backward_s for block in same} == {14.0}
    assert {block.last_recompute_s for block in same} == {6.0}


def timeless(profile):
    none = {"forward_s": 0.0, "backward_s": 0.0, "last_recompute_s": 0.0}
    costs = [
        dataclasses.replace(
            block,
            modes=tuple(dataclasses.replace(mode, recompute_s=0.0) for mode in block.modes),
            **none,
        )
        for block in profile.blocks
    ]
    return dataclasses.replace(profile, blocks=tuple(costs), fixed_s=0.0)


@pytest.mark.parametrize("workload", ["gpt-mini-dropout", "resnet-mini"])
def test_bytes_flops_and_the_model_stay_as_they_are(workload):
    step = tiny.step(workload)
    chain = tiny.chain_of(step)
    profile = profile_chain(step, chain, modes=MODES, scratch=True)
    before = [(type(m), dict(vars(m))) for m in step.model.modules()]
    found = block_times.measure(step, chain, profile, 1)
    assert timeless(found) == timeless(profile)
    assert found.plain_step_s == 0  # the clock stood still
    assert [(type(m), dict(vars(m))) for m in step.model.modules()] == before
    assert all(p.grad is None for p in step.model.parameters())


def test_every_kind_of_step_runs_in_every_round(monkeypatch):
    seen = []
    real = block_times._timed
    monkeypatch.setattr(block_times, "_timed", lambda *a: (seen.append(1), real(*a))[1])
    step = tiny.step("gpt-mini")
    chain = tiny.chain_of(step)
    profile = profile_chain(step, chain, modes=MODES)
    assert [mode.name for mode in profile.blocks[0].modes] == ["all", "core", "products"]
    block_times.measure(step, chain, profile, 2)
    assert len(seen) == 4 * (1 + 2)  # one round does not count


# From what was found to a profile.

MODE = costs.mode(saved_bytes=4, backward_flops=2)
CORE = dataclasses.replace(MODE, name="core", saved_bytes=2, recompute_s=99.0)
COST = costs.block(MODE, CORE, forward_s=99.0)
PROFILE = costs.chain(COST, dataclasses.replace(COST, forward_flops=2), COST)


def times(backward_s, step_s=100.0):
    return StepTimes((1.0, 5.0, 2.0), tuple(backward_s), step_s)


def test_repeated_work_is_the_difference_in_the_same_round():
    found = with_times(
        PROFILE,
        {
            "all": [times((2.0, 10.0, 4.0)), times((20.0, 100.0, 40.0), 1000.0)],
            "core": [times((3.0, 9.0, 5.0)), times((21.0, 99.0, 41.0))],
            GROUPS: [times((4.0, 17.0, 6.0)), times((22.0, 107.0, 42.0))],
        },
    )
    one, other, same = found.blocks
    assert one == same
    assert (one.forward_s, other.forward_s) == (1.5, 5.0)
    assert (one.backward_s, other.backward_s) == (12.0, 55.0)
    assert (one.last_recompute_s, other.last_recompute_s) == (2.0, 7.0)
    assert (one.mode("core").recompute_s, other.mode("core").recompute_s) == (1.0, 0.0)
    assert one.mode("all").recompute_s == 0.0
    assert found.fixed_s == ((100.0 - 24.0) + (1000.0 - 168.0)) / 2
