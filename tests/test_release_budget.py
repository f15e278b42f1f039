"""A budget of a step whose gradients are released: predicted, and measured in the usual loop."""

import copy
import dataclasses
import itertools
import re

import pytest
import torch
from effort import few
from test_training_budget import Sided
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import strategies
from strategies import Unsupported
from strategies.profiling import profiler
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.step import ExampleStep
from strategies.profiling.update import update_bytes, update_cost

WIDTH, ROWS, BLOCKS = 96, 512, 6
ALONE = [{index: "products"} for index in range(BLOCKS)]  # so that each block is watched


class Block(nn.Module):
    """A norm, two matrices with biases, and a sum."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Tied(nn.Module):
    """A language model whose first and last weight are one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(160, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        scores = x @ self.embed.weight.T
        return {"loss": nn.functional.cross_entropy(scores, tokens), "scores": scores}


class Wide(nn.Module):
    """Blocks and a small head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return {"loss": self.head(x).square().mean()}


MODELS = {
    "tied": (Tied, lambda: torch.arange(ROWS).remainder(160)),
    "wide": (Wide, lambda: torch.ones(ROWS, WIDTH)),
    "sided": (Sided, lambda: torch.ones(32, 24)),
}


def prepared_model(name, **options):
    torch.manual_seed(0)
    make, batch = MODELS[name]
    model = make()
    return model, batch(), torch.optim.AdamW(model.parameters(), **options)


def states(optimizer):
    leaves = tree_leaves(list(optimizer.state.values()))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def peak_bytes(model, batch, optimizer):
    """The third step of the usual loop, by the allocator's events."""
    out = None
    for number in range(3):
        trace = AllocatorTrace()
        if number == 2:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            held = [*model.parameters(), batch, *states(optimizer), *gradients, *out.values()]
            start_bytes = unique_bytes(held)
            del held, gradients
        with trace:
            trace.follow(one.untyped_storage() for one in (out or {}).values())
            trace.mark("start")
            out = model(batch)
            out["loss"].backward()
            optimizer.step()
            trace.mark("end")
        optimizer.zero_grad()
    return start_bytes + trace.working_bytes("start", "end")


def smallest(error):
    found = re.search(r"the smallest budget that does is ([\d,]+) bytes", str(error))
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "foreach", "share"),
    few(itertools.product(MODELS, [False, True], ["50%", "100%", "70%", "1"]), 4),
)
def test_the_peak_of_the_usual_loop_is_predicted(name, foreach, share):
    model, batch, optimizer = prepared_model(name, foreach=foreach)
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    try:
        applied = strategies.apply(model, "optimal", budget=share, **given)
    except Unsupported as error:
        applied = strategies.apply(model, "optimal", budget=smallest(error), **given)
    predicted_bytes = applied.prediction.peak_bytes
    measured_bytes = peak_bytes(model, batch, optimizer)
    assert 0.97 * predicted_bytes <= measured_bytes <= predicted_bytes


def test_auto_keeps_its_promise_where_operators_are_chosen():
    model, batch, optimizer = prepared_model("wide")
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    applied = strategies.apply(model, "selective_ops", budget="90%", **given)
    assert any(name.startswith("keep(") for name in applied.schedule.modes)
    predicted_bytes = applied.prediction.peak_bytes
    assert 0.97 * predicted_bytes <= peak_bytes(model, batch, optimizer) <= predicted_bytes


def profile_of(name, *, release, optimizer=None, **options):
    model, batch, all_of_it = prepared_model(name)
    optimizer = optimizer(model) if optimizer else all_of_it
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": release}
    with strategies.apply(model, "optimal", budget="100%", **given, **options) as applied:
        return applied.chain.profile


def test_no_gradient_outlives_a_block_and_the_update_is_over_with_backward():
    plain, released = (profile_of("wide", release=release) for release in (False, True))
    own_bytes = 4 * sum(p.numel() for p in Block().parameters())
    assert [block.gradient_bytes for block in plain.blocks[1:]] == [own_bytes] * (BLOCKS - 1)
    assert [block.gradient_bytes for block in released.blocks[1:]] == [0] * (BLOCKS - 1)
    assert plain.blocks[0].gradient_bytes - released.blocks[0].gradient_bytes == own_bytes
    assert plain.tail_gradient_bytes - released.tail_gradient_bytes == 4 * (WIDTH + 1)
    assert released.update_working_bytes == 0
    assert plain.update_working_bytes > 0
    assert released.resident_bytes == plain.resident_bytes


def test_what_the_optimizer_does_not_have_keeps_its_gradient():
    def of_three(model):
        return torch.optim.AdamW(p for b in model.blocks[:3] for p in b.parameters())

    profile = profile_of("wide", release=True, optimizer=of_three)
    own_bytes = 4 * sum(p.numel() for p in Block().parameters())
    assert [block.gradient_bytes for block in profile.blocks[1:]] == [0] * 2 + [own_bytes] * 3


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"amsgrad": True, "fused": True}])
def test_an_update_alone_costs_what_it_costs(options):
    model, _, optimizer = prepared_model("tied", **options)
    found = update_bytes(model, optimizer)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert not optimizer.state
    for name, parameter in model.named_parameters():
        alone = torch.optim.AdamW([parameter], **options)
        assert found[name] == update_cost(alone).working_bytes


def test_fake_tensors_say_the_same():
    model, batch, optimizer = prepared_model("tied")
    sizes = update_bytes(model, optimizer)
    step = ExampleStep(model, batch, optimizer=optimizer, release_gradients=True)
    step.update_bytes = sizes
    real = profiler.profile_chain(step, strategies.find_chain(model), operators=True)
    mode = FakeTensorMode()
    fake = step.faked(mode)
    with mode:
        chain = strategies.find_chain(fake.model)
        assert profiler.profile_chain(fake, chain, operators=True) == real


def test_equal_blocks_are_those_whose_updates_are_equal(monkeypatch):
    """The third to the fifth block are equal, but the fourth is updated with momentum."""
    model, batch, _ = prepared_model("wide")
    fourth = list(model.blocks[3].parameters())
    others = [p for p in model.parameters() if all(p is not each for each in fourth)]
    options = {"lr": 0.1, "foreach": True}
    groups = [{"params": others}, {"params": fourth, "maximize": True}]
    optimizer = torch.optim.SGD(groups, **options)
    step = ExampleStep(model, batch, optimizer=optimizer, release_gradients=True)
    step.update_bytes = update_bytes(model, optimizer)
    assert step.update_bytes["blocks.3.up.weight"] > step.update_bytes["blocks.2.up.weight"]
    watched = []
    scout = profiler.scout
    monkeypatch.setattr(profiler, "scout", lambda *a: watched.append(scout(*a)) or watched[-1])
    composed = profiler.profile_chain(step, strategies.find_chain(model))
    assert watched[0].watched == [0, 1, 3, 5]
    each = profiler.profile_chain(step, strategies.find_chain(model), assigned=ALONE)
    plain = [dataclasses.replace(b, modes=b.modes[:1]) for b in each.blocks]
    assert dataclasses.replace(each, blocks=tuple(plain)) == composed


def test_weights_and_state_are_untouched():
    model, batch, optimizer = prepared_model("wide")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    strategies.apply(model, "optimal", budget="100%", **given).undo()
    after = (model.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_an_optimizer_that_cannot_be_tried_on_fake_tensors_is_refused_in_words():
    class Reading(torch.optim.SGD):
        """Looks at the values of gradients."""

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    assert p.grad is None or p.grad.nonzero().shape[0] >= 0
            return super().step(closure)

    model, batch, _ = prepared_model("wide")
    optimizer = Reading(model.parameters(), lr=0.1)
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    with pytest.raises(Unsupported, match="update of Reading cannot be tried on fake tensors"):
        strategies.apply(model, "optimal", **given)


def test_the_notes_say_that_gradients_are_released():
    model, batch, optimizer = prepared_model("wide")
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    applied = strategies.apply(model, "optimal", budget="100%", **given)
    assert any("has its update in backward (release_gradients)" in n for n in applied.notes)
