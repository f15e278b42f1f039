"""Blocks that run several times in one forward, or in another order: budgets for their calls."""

import copy
import functools

import pytest
import torch
from effort import few
from models import assert_same, loss_of, step
from torch import nn

import strategies
from strategies.contract.registry import get
from strategies.execution import layout
from strategies.execution.undo import installed
from strategies.profiling import trial
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import ExampleStep
from strategies.schedules import budget as budgets
from strategies.schedules import plan as plans

WIDTH, ROWS = 32, 256
TEN = range(10)
PLANNERS = ("optimal", "auto", "hybrid", "selective_ops")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.down(torch.tanh(self.up(x))))


class RecurrentDepth(nn.Module):
    """Two blocks, run in turns, what was read first added before every turn but the first."""

    def __init__(self):
        super().__init__()
        self.read, self.write = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 8)
        self.blocks, self.turns, self.adds = nn.ModuleList([Residual(), Residual()]), 3, False

    def forward(self, x):
        first = x = self.read(x)
        for turn in range(self.turns):
            x = x + first if turn and self.adds else x
            for block in self.blocks:
                x = block(x)
        return self.write(x)


class Injected(RecurrentDepth):
    def __init__(self):
        super().__init__()
        self.adds = True


class Siamese(nn.Module):
    """One encoder for both halves of a batch."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(8, WIDTH)
        self.layers = nn.ModuleList(Residual() for _ in range(3))

    def encoded(self, x):
        x = self.read(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, pair):
        one, other = (self.encoded(half) for half in pair.chunk(2))
        return (one * other).sum(1)


class Alternating(Siamese):
    """Both halves go through a layer before any goes through the next."""

    def forward(self, pair):
        halves = [self.read(half) for half in pair.chunk(2)]
        for layer in self.layers:
            halves = [layer(half) for half in halves]
        return (halves[0] * halves[1]).sum(1)


class Backward(Siamese):
    """Its blocks run once each, the last one first."""

    def __init__(self):
        super().__init__()
        self.layers.extend(Residual() for _ in range(3))

    def forward(self, x):
        x = self.read(x)
        for layer in reversed(self.layers):
            x = layer(x)
        return x


def albert():
    transformers = pytest.importorskip("transformers")
    config = transformers.AlbertConfig(
        vocab_size=99,
        hidden_size=WIDTH,
        embedding_size=8,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=2,
        hidden_act="gelu",  # no plain numbers in its graph
        hidden_dropout_prob=0.1,
    )
    return transformers.AlbertModel(config).train()


MAKERS = (albert, RecurrentDepth, Injected, Siamese, Alternating, Backward)


def made(make):
    """A model and a batch."""
    torch.manual_seed(0)
    batch = torch.randint(99, (4, 32)) if make is albert else torch.randn(2 * ROWS, 8)
    return make(), batch


@functools.cache
def planned(make, planner, *, accumulation=False):
    """A model, its step and its chain of calls."""
    model, batch = made(make)
    example = ExampleStep(model, batch, loss=loss_of, accumulation=accumulation)
    return model, batch, example, strategies.profiled(model, planner, example)


def budget_of(chain, planner, number):
    """Of ten, from the smallest that fits to that of no checkpoints."""
    low = get(planner).smallest_bytes(chain.profile)
    high = budgets.resolve("100%", chain.profile)
    return low + (high - low) * number // 9


def check(make, planner, number, *, accumulation=False):
    """The budget is kept, the prediction measured, the gradient that of no checkpoints."""
    model, batch, example, chain = planned(make, planner, accumulation=accumulation)
    wanted, budget_bytes = step(model, batch, passes=2), budget_of(chain, planner, number)
    with strategies.apply(model, planner, budget=str(budget_bytes), chain=chain) as applied:
        assert_same(step(model, batch, passes=2), wanted)
        model.zero_grad(set_to_none=True)
        peak_bytes = trial.peak_bytes(example, chain.profile)
    groups = plans.render(applied.plan).count("[")
    states_bytes = groups * chain.profile.group_bytes  # which some groups have no need to keep
    predicted_bytes = applied.prediction.peak_bytes
    assert predicted_bytes - states_bytes <= peak_bytes <= predicted_bytes <= budget_bytes
    if not groups:
        assert peak_bytes == predicted_bytes


@pytest.mark.parametrize("number", few(TEN, 5))
@pytest.mark.parametrize("make", MAKERS)
def test_ten_budgets_are_kept_to_the_byte(make, number):
    check(make, "optimal", number)


@pytest.mark.parametrize("number", few(TEN, 2))
@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("make", few([albert, RecurrentDepth, Siamese], 3))
def test_every_planner_knows_calls(make, planner, number):
    check(make, planner, number, accumulation=True)


def test_groups_reach_from_one_turn_to_the_next():
    model, batch = made(RecurrentDepth)
    with strategies.apply(model, "optimal", budget="55%", example=batch, loss=loss_of) as applied:
        across = [each for each in applied.plan if each != plans.first(each) and len(each) > 1]
        assert across
        assert applied.chain.borders == ()


@pytest.mark.parametrize("make", MAKERS)
def test_auto_measures_that_it_keeps_half(make):
    model, batch = made(make)
    plain, wanted = copy.deepcopy(model), step(model, batch)
    model.zero_grad(set_to_none=True)
    with strategies.apply(model, "auto", budget="60%", example=batch, loss=loss_of) as applied:
        assert len(applied.chain) == 6
        assert any("measured on the example" in note for note in applied.notes)
        assert_same(step(model, batch), wanted)
    assert_same(step(model, batch), step(plain, batch))


def test_a_plan_for_calls_bears_other_depths_and_forwards_at_once():
    model, batch = made(RecurrentDepth)
    plain = copy.deepcopy(model)
    strategies.apply(model, "optimal", budget="55%", example=batch, loss=loss_of)
    for turns in (1, 2, 4, 7, 3):
        gradients = []
        for each in (model, plain):
            torch.manual_seed(1)
            each.turns = turns
            with torch.no_grad():
                each(batch)
            each.zero_grad()
            one, other = each(batch), each(batch[:7])
            (loss_of(other) + loss_of(one)).backward()
            gradients.append([parameter.grad for parameter in each.parameters()])
        assert all(map(torch.equal, *gradients))


def test_a_forward_that_fails_within_a_group_leaves_no_call_counted():
    model, batch = made(RecurrentDepth)
    wanted = step(model, batch)
    strategies.apply(model, "optimal", budget="55%", example=batch, loss=loss_of)
    handle = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch)
    handle.remove()
    assert_same(step(model, batch), wanted)


class Interleaved(RecurrentDepth):
    """Two lists, their blocks in turns."""

    def __init__(self):
        super().__init__()
        self.others = nn.ModuleList([Residual(), Residual()])

    def forward(self, x):
        x = self.read(x)
        for block, other in zip(self.blocks, self.others, strict=True):
            x = other(block(x))
        return self.write(x)


def test_an_order_that_no_tower_has_is_refused():
    model, batch = made(Interleaved)
    with pytest.raises(strategies.Unsupported, match=r"in the order \[0, 2, 1, 3\]"):
        strategies.apply(model, "optimal", example=batch)


def test_a_list_may_run_in_another_order_than_its_own():
    _, _, _, chain = planned(Backward, "optimal")
    assert chain.names == tuple(f"layers.{n}" for n in (5, 4, 3, 2, 1, 0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_compiled_blocks_that_repeat_are_refused_in_words():
    model, batch = made(RecurrentDepth)
    with pytest.raises(strategies.Unsupported, match="compiled and run several times"):
        strategies.apply(model, "auto", example=batch, loss=loss_of, compile_blocks=True)


def test_a_block_of_its_own_path_is_a_chain_of_calls():
    model, batch = made(RecurrentDepth)
    model.blocks = nn.ModuleList([model.blocks[0]])
    with strategies.apply(model, "optimal", budget="70%", example=batch, blocks="blocks.0") as one:
        assert one.chain.names == ("blocks.0",) * 3
        assert one.notes[0].startswith("blocks: 3 calls of the 1 of blocks.0; ")


def test_a_list_that_holds_one_block_several_times():
    model, batch = made(RecurrentDepth)
    model.blocks, model.turns = nn.ModuleList([model.blocks[0]] * 4), 1
    wanted = step(model, batch)
    with strategies.apply(model, "optimal", budget="60%", example=batch, loss=loss_of) as applied:
        assert len(applied.chain) == 4
        assert_same(step(model, batch), wanted)


def runs_of(model, batch, plan, monkeypatch):
    """Of the blocks, in the order in which they run in a step."""
    runs, forward = [], Residual.forward

    def noted(block, x):
        runs.append(block)
        return forward(block, x)

    chain = strategies.profiled(model, "optimal", ExampleStep(model, batch, loss=loss_of))
    with (
        monkeypatch.context() as patch,
        installed(lambda: layout.install(chain, plan, model=model)),
    ):
        patch.setattr(Residual, "forward", noted)
        step(model, batch)
    return [list(model.blocks).index(block) for block in runs]


@pytest.mark.parametrize("text", ["[0 1 2] [3] 4 [5]", "[[0 1] [2 3]] 4 5", "0 [1] 2 3 [4 5]"])
def test_every_call_has_the_groups_of_its_own_place(text, monkeypatch):
    model, batch = made(RecurrentDepth)
    other = copy.deepcopy(model)
    other.blocks, other.turns = nn.ModuleList(Residual() for _ in range(6)), 1
    ran, wanted = (runs_of(m, batch, plans.parse(text), monkeypatch) for m in (model, other))
    assert len(wanted) > 6
    assert ran == [place % 2 for place in wanted]


def test_a_chain_that_lacks_a_call_is_refused():
    model, batch = made(RecurrentDepth)
    with pytest.raises(strategies.Unsupported, match="a chain runs each once, in order"):
        profile_chain(ExampleStep(model, batch, loss=loss_of), strategies.find_chain(model))
