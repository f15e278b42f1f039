"""Composing a profile from one watched block of each kind equals watching all, to the byte."""

import dataclasses

import pytest
import tiny
import torch
from effort import few
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from strategies.profiling import profiler
from strategies.profiling.order import ordered
from strategies.profiling.scout import Alike, calls_of, scout
from strategies.profiling.step import ExampleStep

OPTIONS = {"modes": ("core", "products"), "operators": True}


def watched_all(step, chain, **options):
    """The profile with every block watched for itself."""
    with pytest.MonkeyPatch.context() as patch:
        everyone = Alike(tuple(range(len(chain))), {}, frozenset())
        patch.setattr(profiler, "scout", lambda *arguments: everyone)
        return profiler.profile_chain(step, chain, **options)


def check(step, chain, watched, **options):
    assert scout(step, chain).watched == watched
    composed = profiler.profile_chain(step, chain, **options)
    assert composed == watched_all(step, chain, **options)
    assert composed == profiler.profile_chain(step, chain, **options)


# Workloads.

ENDS = [0, 1, 5]
WATCHED = {
    "mlp-chain": ENDS,
    "gpt-mini": ENDS,
    "gpt-mini-dropout": ENDS,
    "llama-mini": ENDS,
    "vit-mini": ENDS,
    "resnet-mini": [0, 1, 2, 3],
}


@pytest.mark.parametrize("workload", WATCHED)
def test_workloads(workload):
    step = tiny.step(workload)
    check(step, tiny.chain_of(step), WATCHED[workload], **OPTIONS)


@pytest.mark.parametrize("workload", few(["mlp-chain", "gpt-mini"]))
def test_on_fake_tensors(workload):
    with FakeTensorMode():
        step = tiny.step(workload)
        check(step, tiny.chain_of(step), WATCHED[workload], **OPTIONS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_with_the_optimizers_update(optimizer):
    step = tiny.step("gpt-mini")
    step = dataclasses.replace(step, optimizer=optimizer)
    step()
    check(step, tiny.chain_of(step), ENDS)


def test_under_autocast():
    step = dataclasses.replace(tiny.step("gpt-mini"), precision="bf16-autocast")
    check(step, tiny.chain_of(step), ENDS)


# Models.


class Block(nn.Module):
    """A residual block that takes more than it needs."""

    def __init__(self, width=8, inner=16):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, *others, **named):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, blocks, stem=None):
        super().__init__()
        self.stem = stem or nn.Linear(8, 8)
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.Linear(8, 8)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.tail(x).square().mean()


def check_model(model, watched, **options):
    step = ExampleStep(model, torch.ones(4, 8))
    check(step, strategies.find_chain(model, "blocks"), watched, **options)


class Backwards(Model):
    """Runs its last block first."""

    def forward(self, x):
        for block in reversed(self.blocks):
            x = block(x)
        return self.tail(x).square().mean()


class Leaping(Model):
    """Runs the rest of its blocks where what comes out of some is not zero."""

    def forward(self, x):
        for block in self.blocks[:4]:
            x = block(x)
        return self.tail(self.blocks[4:6](x) if bool(x.any()) else x).square().mean()


def test_the_order_of_blocks_takes_one_run_of_each_kind(monkeypatch):
    runs = []
    model = Backwards(Block() for _ in range(6))
    step, chain = ExampleStep(model, torch.ones(4, 8)), strategies.find_chain(model, "blocks")
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda *call: runs.append(call[0]) or forward(*call))
    assert calls_of(step, chain) == [5, 4, 3, 2, 1, 0]
    assert runs == [model.blocks[index] for index in (5, 4, 0)]
    assert ordered(chain, step).blocks == chain.blocks[::-1]


def test_nothing_is_passed_by_where_values_decide_the_order():
    model = Leaping(Block() for _ in range(4))
    model.blocks = nn.Sequential(*model.blocks, Block(), Block())
    step, chain = ExampleStep(model, torch.ones(4, 8)), strategies.find_chain(model, "blocks")
    assert calls_of(step, chain) is None
    assert ordered(chain, step).blocks == chain.blocks


def test_unequal_first_and_last_blocks():
    inner = (32, *[16] * 5, 24)
    check_model(Model(Block(inner=i) for i in inner), [0, 1, 6], **OPTIONS)


def test_two_kinds_in_turn():
    inner = (16, 32) * 4
    check_model(Model(Block(inner=i) for i in inner), [0, 1, 2, 7], **OPTIONS)


def test_blocks_that_learn_nothing_are_another_kind():
    model = Model(Block() for _ in range(9))
    for block in model.blocks[:4]:
        block.requires_grad_(False)
    check_model(model, [0, 1, 4, 8])


def test_a_stem_that_learns_nothing():
    """The first blocks' inputs have no gradient until a block learns."""
    model = Model([Block() for _ in range(8)], nn.Identity())
    for block in model.blocks[:3]:
        block.requires_grad_(False)
    check_model(model, [0, 1, 3, 4, 7])


def test_blocks_in_evaluation_are_another_kind():
    model = Model(nn.Sequential(Block(), nn.Dropout(0.5)) for _ in range(8))
    model.blocks[3].eval()
    check_model(model, [0, 1, 3, 7], **OPTIONS)


def test_boundaries_that_head_and_blocks_keep():
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(6)]
    model = Model(blocks, nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    check_model(model, ENDS, **OPTIONS)
    profile = profiler.profile_chain(
        ExampleStep(model, torch.ones(4, 8)), strategies.find_chain(model, "blocks")
    )
    assert all(b.modes[0].keeps_input and b.modes[0].keeps_output for b in profile.blocks)


def test_running_statistics():
    check_model(Model(nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8)) for _ in range(6)), ENDS)


def test_gradients_of_shared_parameters_come_once():
    model = Model(Block() for _ in range(7))
    for block in model.blocks[1:5]:
        block.up.weight = model.blocks[1].up.weight
    check_model(model, [0, 1, 2, 4, 5, 6])
    model = Model(Block() for _ in range(6))
    for block in model.blocks:
        block.up.weight, block.up.bias = model.blocks[0].up.weight, model.blocks[0].up.bias
    check_model(model, ENDS)


class SideInputs(Model):
    """Every block reads the first layer's states, and hands a bias on."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self.bias, self.states = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        states, bias, mask = self.states(x), self.bias(x), torch.ones(4, 8)
        x = self.stem(x)
        for block in self.blocks:
            x, bias, _ = block(x, {"states": states, "mask": mask}, bias=bias)
        return (self.tail(x) + bias).square().mean()


class Reading(Block):
    def forward(self, x, given, bias):
        x = super().forward(x) * torch.sigmoid(given["states"]) * given["mask"]
        return x + bias.exp(), bias, None


def test_side_inputs_that_learn_and_are_handed_on():
    check_model(SideInputs(Reading() for _ in range(7)), [0, 1, 6], **OPTIONS)


class Numbered(Block):
    def __init__(self, layer_idx, every):
        super().__init__()
        self.layer_idx, self.every = layer_idx, every

    def forward(self, x):
        return super().forward(x.sin() if self.layer_idx % self.every == 0 else x)


@pytest.mark.parametrize(("every", "watched"), [(100, [0, 1, 8]), (3, [0, 1, 3, 8])])
def test_blocks_that_know_their_number_are_equal_if_they_run_equally(every, watched):
    check_model(Model(Numbered(i, every) for i in range(9)), watched)


# What is not taken for equal.


class Routed(Block):
    """Values decide how many rows run."""

    def forward(self, x):
        return x.index_put((x[:, 0] > 0,), super().forward(x[x[:, 0] > 0]))


class Asking(Block):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x * 2


class Leaving(Block):
    def forward(self, x):
        self.loss = x.mean()
        return super().forward(x)


class Viewing(Block):
    def forward(self, x):
        return super().forward(x).t().contiguous().t()[:]


class Writing(Block):
    def forward(self, x):
        return super().forward(x.mul_(2))


SCALE = nn.Parameter(torch.ones(8))


class Learning(Block):
    """It learns what no argument or parameter of its own is."""

    def forward(self, x):
        return super().forward(x * SCALE)


@pytest.mark.parametrize("kind", [Routed, Asking, Leaving, Writing, Learning])
def test_blocks_with_more_than_arguments_and_outputs_are_watched_one_by_one(kind):
    model = Model(kind() for _ in range(6))
    step = ExampleStep(model, torch.ones(4, 8))
    assert scout(step, strategies.find_chain(model, "blocks")).watched == list(range(6))


def test_an_output_in_another_layout():
    check_model(Model(Viewing() for _ in range(6)), ENDS)


def test_hooks_on_blocks():
    model = Model(Block() for _ in range(6))
    model.blocks[2].register_forward_hook(lambda *arguments: None)
    check_model(model, [0, 1, 2, 5])


def test_attributes_that_cannot_be_compared():
    model = Model(Block() for _ in range(6))
    for block in model.blocks:
        block.thing = object()
    check_model(model, list(range(6)))


def test_blocks_with_policies_of_their_own_are_watched():
    step = tiny.step("gpt-mini")
    chain = tiny.chain_of(step)
    assigned = [{3: "products"}]
    composed = profiler.profile_chain(step, chain, assigned=assigned)
    assert composed == watched_all(step, chain, assigned=assigned)
    assert [len(block.modes) for block in composed.blocks] == [1, 1, 1, 2, 1, 1]


def test_nothing_is_left_on_the_model():
    step = tiny.step("gpt-mini")
    profiler.profile_chain(step, tiny.chain_of(step), **OPTIONS)
    for module in step.model.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
    assert all(parameter.grad is None for parameter in step.model.parameters())
