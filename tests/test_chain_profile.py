"""The profile of a chain, and what the plan interpreter predicts from it, against a watched step.

Predictions are exact where the ledger can tell, with two exceptions that are bounded here: groups
in groups of blocks that keep neither input nor output, and tables that blocks share.
"""

import copy
import dataclasses
import functools
import types

import pytest
import tiny
import torch
from effort import few
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.measure.forwards import count_forwards
from strategies.profiling.flops import count_flops
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import ExampleStep, preserved
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost

FLAT = (
    "0 1 2 3 4 5",
    "[0] [1] [2] [3] [4] [5]",
    "[0 1] [2 3] [4 5]",
    "[0 1 2 3] [4 5]",
    "[0 1 2 3] 4 5",
    "[0 1 2 3 4 5]",
    "0 [1 2] 3 [4] 5",
)
NESTED = (
    "[[0 1] 2 [3 4] 5]",
    "[[0 1 2] [3 4 5]]",
    "[0 [1 [2 [3 [4 [5]]]]]]",
    "[[[0]]] [[1] [2]] 3 [4 5]",
)
STAGES = ("0 1 2 3", "[0] [1] [2] [3]", "[0 1] [2 3]", "[[0] 1] [2 [3]]")  # four containers
# Large enough that the peak is in the blocks.
SIZES = {
    "mlp-chain": {"batch": 64},
    "gpt-mini": {"dim": 32, "seq": 64, "batch": 2},
    "gpt-mini-dropout": {"dim": 32, "seq": 64, "batch": 2},
    "llama-mini": {"dim": 32, "seq": 64, "batch": 2},
    "vit-mini": {"dim": 32, "image": 32},
    "resnet-mini": {},
}
CASES = [(w, p) for w in SIZES for p in (STAGES if w == "resnet-mini" else FLAT + NESTED)]


@functools.cache
def profiled(workload):
    """A step, its chain and profile; the ledger cannot see the random states of groups."""
    step = tiny.step(workload, **SIZES[workload])
    chain = tiny.chain_of(step)
    return step, chain, profile_chain(step, chain)


def predicted(profile, plan):
    return predict(dataclasses.replace(profile, group_bytes=0), plan)


# Predictions.


@pytest.mark.parametrize(("workload", "text"), CASES)
def test_bytes_flops_and_the_peak_are_predicted_exactly(workload, text):
    step, chain, profile = profiled(workload)
    with count_forwards(chain.blocks) as counts, tiny.under(step, text) as plan:
        ledger = tiny.watch(step)
    prediction = predicted(profile, plan)
    assert prediction.saved_bytes == tiny.saved_bytes(ledger)
    assert prediction.after_forward_bytes == ledger.marks[1].alive_bytes
    assert prediction.recompute_flops == ledger.recompute_flops
    assert list(prediction.block_forwards) == counts
    peak_bytes = ledger.peak_bytes()
    if workload == "mlp-chain" and text in NESTED:
        assert peak_bytes <= prediction.peak_bytes <= 1.5 * peak_bytes
    else:
        assert prediction.peak_bytes == peak_bytes


@pytest.mark.parametrize("text", FLAT)
def test_each_group_keeps_its_random_state(text):
    step, _, profile = profiled("gpt-mini")
    with tiny.under(step, text) as plan:
        saved_bytes = tiny.saved_bytes(tiny.watch(step))
    groups = sum(isinstance(node, tuple) for node in plan)
    assert profile.group_bytes == torch.get_rng_state().nbytes
    assert predict(profile, plan).saved_bytes == saved_bytes + groups * profile.group_bytes


@pytest.mark.parametrize(
    ("workload", "options"),
    few(
        [
            ("gpt-mini", {"layers": 4, "dim": 64, "heads": 4, "seq": 128, "batch": 2}),
            ("vit-mini", {"dim": 64, "heads": 4, "image": 64, "batch": 4}),
            ("mlp-chain", {"dim": 64, "batch": 512}),
        ]
    ),
)
def test_the_allocator_agrees(workload, options):
    """Its peak, kernels' scratch included, is within 2 % of the prediction for every planner.

    After forward it holds exactly what was predicted, and one plain number an attention.
    """
    for spec in ("none", "every_layer", "every_k(k=4)", "sqrt"):
        record = tiny.measure(workload, spec, options)
        assert record.predicted_peak_bytes == pytest.approx(record.peak_allocated_bytes, rel=0.02)
        predicted_bytes = record.predicted_saved_after_forward_bytes
        assert 0 <= record.saved_after_forward_bytes - predicted_bytes <= 16 * 6
        assert record.predicted_recompute_flops == record.recompute_flops


@pytest.mark.parametrize(
    "spec",
    [
        *(f"compressed(codec={c})" for c in ("fp16", "bf16", "int8", "int4", "projection")),
        "offload",
    ],
)
def test_boundaries_at_rest_are_predicted(spec):
    record = tiny.record("mlp-chain", spec)
    assert record.predicted_saved_after_forward_bytes == record.saved_after_forward_bytes
    assert record.predicted_recompute_flops == record.recompute_flops


@pytest.mark.parametrize("spec", ["selective", "selective(variant=attention_core)"])
def test_recompute_inside_blocks_is_predicted(spec):
    record = tiny.record("gpt-mini", spec)
    assert record.predicted_recompute_flops == record.recompute_flops > 0
    assert record.block_forwards == [1] * 6


# Profiles.


def test_the_papers_chain():
    """One [N, d] tensor a block, neither input nor output; one product forward, two backward."""
    boundary, product = 8 * 8 * 4, 2 * 8 * 8 * 8
    _, _, profile = profile_of(tiny.step("mlp-chain"))
    (block,) = set(profile.blocks)
    weight_bytes = (8 * 8 + 8) * 4
    # What is saved, the ReLU's result, comes before the product, so a recompute stops there.
    assert dataclasses.replace(block, forward_s=0, backward_s=0, last_recompute_s=0) == BlockCost(
        modes=(
            Mode(
                name="all",
                saved_bytes=boundary,
                keeps_input=False,
                keeps_output=False,
                forward_working_bytes=2 * boundary,
                # Above the gradient of the output: that of the product's input, and parameters'.
                backward_working_bytes=boundary + weight_bytes,
                backward_flops=2 * product,
            ),
        ),
        output_bytes=boundary,
        unsaved_working_bytes=2 * boundary,
        recompute_working_bytes=2 * boundary + weight_bytes,
        again_working_bytes=boundary,
        gradient_bytes=weight_bytes,
        forward_flops=product,
        last_recompute_flops=0,
    )
    assert profile.input_bytes == boundary
    assert profile.resident_bytes == 7 * weight_bytes + 2 * boundary
    # The mean square keeps the distance, not the prediction, and there is the loss.
    assert not profile.tail_keeps_input
    assert profile.tail_saved_bytes == boundary + 4
    assert profile.head_saved_bytes == 0


def profile_of(step):
    chain = tiny.chain_of(step)
    return step, chain, profile_chain(step, chain)


def test_flops_of_the_blocks_are_those_of_the_step():
    step, _, profile = profile_of(tiny.step("gpt-mini"))
    flops = count_flops(step.forward, step.backward)
    o = step.workload.options()
    tail_flops = 2 * o["batch"] * o["seq"] * o["dim"] * o["vocab"]  # the output projection
    assert sum(b.forward_flops for b in profile.blocks) == flops.forward_flops - tail_flops
    backward_flops = flops.step_flops - flops.forward_flops - 2 * tail_flops
    assert sum(b.modes[0].backward_flops for b in profile.blocks) == backward_flops


@pytest.mark.parametrize("workload", few(SIZES, 2))
def test_fake_tensors_have_the_same_profile(workload):
    _, _, profile = profiled(workload)
    with FakeTensorMode():
        _, _, fake = profile_of(tiny.step(workload, **SIZES[workload]))
    assert fake == profile


def test_profiling_leaves_no_trace():
    step = tiny.step("resnet-mini")
    chain = tiny.chain_of(step)
    profile_chain(step, chain)
    assert all(p.grad is None for p in step.model.parameters())
    for module in step.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    assert profile_chain(step, chain) == profile_chain(step, chain)


def test_a_profile_may_differ_from_block_to_block():
    _, _, profile = profiled("resnet-mini")
    assert len(set(profile.blocks)) == 4
    assert profile.boundary_bytes(0) == profile.input_bytes
    assert profile.boundary_bytes(4) == profile.blocks[3].output_bytes


class HeadKeepsItsOutput(nn.Module):
    """A ReLU saves its result, which is the blocks' first boundary; the blocks save it too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))

    def forward(self, x):
        return self.blocks(torch.relu(self.stem(x)))


@pytest.mark.parametrize("text", ["0 1 2", "[0] [1] [2]", "[0 1] 2", "[0 1 2]"])
def test_a_boundary_that_the_head_saves_is_the_blocks_too(text):
    step = tiny.step("mlp-chain")
    step.model = HeadKeepsItsOutput()
    step, _, profile = profile_of(step)
    assert all(b.modes[0].keeps_input and b.modes[0].keeps_output for b in profile.blocks)
    with tiny.under(step, text) as plan:
        ledger = tiny.watch(step)
    assert predicted(profile, plan).saved_bytes == tiny.saved_bytes(ledger)


class OutOfOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x, order):
        for index in order:
            x = self.blocks[index](x)
        return x


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 1, 1, 2), (0, 2)])
def test_a_chain_that_is_none_is_refused(order):
    model = OutOfOrder()

    class Step:
        device = torch.device("cpu")

        def __init__(self):
            self.model = model

        def forward(self):
            return model(torch.ones(2, 4), order).sum()

        def resident_tensors(self):
            return list(model.parameters())

    with pytest.raises(ValueError, match="a chain runs each once, in order"):
        profile_chain(Step(), strategies.find_chain(model))


@pytest.mark.parametrize("short", range(3))
def test_blocks_that_run_in_one_forward_and_not_in_another(short):
    """As layers that are dropped at random: whichever look at the model it is."""
    model, orders = OutOfOrder(), iter([(0, 1, 2)] * short + [(0, 1)] + [(0, 1, 2)] * 9)
    model.forward = lambda x: OutOfOrder.forward(model, x, next(orders))
    with pytest.raises(strategies.Unsupported, match="a chain runs each once, in order"):
        profile_chain(ExampleStep(model, torch.ones(2, 4)), strategies.find_chain(model))


class Counts(nn.Module):
    """A forward leaves all kinds of marks, on which the next ones depend."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls, self.seen = nn.Linear(4, 4), 0, [1.0]
        self.table, self.names = {"a": torch.ones(())}, {"one"}
        self.scale, self.rest = torch.ones(4), types.SimpleNamespace(count=0)
        self.draws = torch.Generator().manual_seed(0)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.seen.append(float(self.calls))
        self.table = {**self.table, "b": torch.ones(())}
        self.names |= {str(self.calls)}
        self.scale += 1
        self.rest.count += 2
        self.mean = self.mean + 1
        self.late = self.calls
        noise = torch.rand((), generator=self.draws)
        marks = sum(self.seen) + len(self.table) + len(self.names) + self.rest.count + self.late
        return self.linear(x) * self.scale * marks + self.mean * noise


def test_what_forwards_leave_on_a_model_is_put_back_when_they_were_to_be_watched():
    model = nn.Sequential(*[Counts() for _ in range(3)])
    wanted, rows = copy.deepcopy(model), torch.ones(2, 4)
    containers = [(block.seen, block.names) for block in model]
    with preserved(model):
        changed = model(rows)
        assert not torch.equal(changed, model(rows))
    assert [(block.seen, block.names) for block in model] == containers
    assert all(b.seen is s and b.names is n for b, (s, n) in zip(model, containers, strict=True))
    assert torch.equal(model(rows), wanted(rows))
