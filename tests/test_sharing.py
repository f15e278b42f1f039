"""Tensors with readers beside the next block: what plans predict where skips and sides are held."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

import strategies
from strategies import Unsupported
from strategies.execution.undo import installed
from strategies.profiling import lives
from strategies.profiling.ledger import Ledger
from strategies.profiling.profiler import profile_chain
from strategies.profiling.scout import scout
from strategies.profiling.step import ExampleStep
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule

WIDTH, ROWS, BLOCKS = 16, 64, 6
BOUNDARY_BYTES = 4 * ROWS * WIDTH
PLANS = (
    "0 1 2 3 4 5",
    "[0] [1] [2] [3] [4] [5]",
    "[0 1] [2 3] [4 5]",
    "[0 1 2 3] 4 5",
    "0 [1 2] 3 [4] 5",
    "[[0 1] 2 [3 4] 5]",
)


class Block(nn.Module):
    """Saves neither its input nor its output but what lies between."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Skipping(Chain):
    """The first blocks' outputs are added on the way up, as those of a U-Net."""

    def forward(self, x):
        skips = []
        for index, block in enumerate(self.blocks):
            if index > 3:
                x = x + skips.pop()
            x = block(x)
            if index < 2:
                skips.append(x)
        return x


class Listing(Chain):
    """All hidden states are held until the end."""

    def forward(self, x):
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return x + 0 * len(states)


class Stacking(Chain):
    """All hidden states are held until the tail has begun, and let go before it ends."""

    def forward(self, x):
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        mean = torch.stack(states).mean(0)
        del states
        return torch.tanh(x * mean)


class Biased(Block):
    """Adds a bias, which the first block makes; no autograd keeps it."""

    def __init__(self, first):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(ROWS, WIDTH)) if first else None

    def forward(self, x, bias):
        bias = self.table * 2 if self.table is not None else bias
        return super().forward(x + bias), bias


class Sided(Chain):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Biased(first=index == 0) for index in range(BLOCKS))

    def forward(self, x):
        bias = None
        for block in self.blocks:
            x, bias = block(x, bias)
        return torch.sin(x)


class Headed(Sided):
    """The bias is let go before the peak, which is in the tail."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, 64 * WIDTH)

    def forward(self, x):
        return self.head(super().forward(x))


@dataclasses.dataclass
class State:
    """What passes between blocks, as no tree of PyTorch's: groups see no tensor in it."""

    hidden: torch.Tensor
    mask: torch.Tensor | None = None


class Stateful(Block):
    """Takes a state and returns another."""

    def forward(self, state):
        return State(super().forward(state.hidden))


class Carrying(nn.Module):
    """Blocks that hand a dataclass to each other."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Stateful() for _ in range(BLOCKS))

    def forward(self, x):
        state = State(x * 1.0)
        for block in self.blocks:
            state = block(state)
        return state.hidden


MODELS = {
    "skips": Skipping,
    "a list": Listing,
    "a stack": Stacking,
    "a side": Sided,
    "a tail": Headed,
    "states": Carrying,
}


@functools.cache
def profiled(name):
    torch.manual_seed(0)
    step = ExampleStep(MODELS[name](), torch.randn(ROWS, WIDTH), keep_output=False)
    chain = strategies.find_chain(step.model)
    profile = profile_chain(step, chain)
    step.drop_gradients()
    return step, chain, dataclasses.replace(profile, group_bytes=0)


def peak_bytes(step, chain, schedule):
    prepared = strategies.prepare(step.model, "none", chain=chain)
    ledger = Ledger()
    with installed(dataclasses.replace(prepared, schedule=schedule).install):
        step.drop_gradients()
        ledger.adopt(step.resident_tensors())
        with ledger:
            loss = step.forward()
            ledger.mark("forward done")
            loss.backward()
            del loss
    step.drop_gradients()
    return ledger.peak_bytes()


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.parametrize("name", MODELS)
def test_what_others_hold_is_predicted(name, text):
    step, chain, profile = profiled(name)
    schedule = Schedule.parse(text).split(profile.borders)
    more_bytes = predict(profile, schedule).peak_bytes - peak_bytes(step, chain, schedule)
    # A side that a group makes for itself is counted for as long as the group is run again.
    remade = name == "a side" and schedule.plan[0] != 0 and schedule.plan[0] != (0,)
    assert more_bytes == (BOUNDARY_BYTES if remade else 0)


def test_a_boundary_that_the_model_lists_is_not_freed_by_a_group():
    _, _, held = profiled("a list")
    bare = dataclasses.replace(held, shared=())
    schedule = Schedule.parse("[0 1 2 3 4 5]")
    freed_bytes = predict(held, schedule).after_forward_bytes
    assert freed_bytes == predict(bare, schedule).after_forward_bytes  # forward is over
    more_bytes = predict(held, schedule).peak_bytes - predict(bare, schedule).peak_bytes
    assert more_bytes <= (BLOCKS - 1) * BOUNDARY_BYTES
    assert {one.boundary for one in held.shared} == set(range(1, BLOCKS))


def test_no_group_runs_across_what_the_model_computes_between():
    step, chain, profile = profiled("skips")
    assert profile.borders == (4, 5)
    assert chain.borders == ()
    with strategies.apply(step.model, "optimal", budget="100%", example=step.example) as applied:
        assert applied.chain.profile.borders == (4, 5)


def test_no_group_runs_across_what_no_tree_holds():
    _, chain, profile = profiled("states")
    assert profile.borders == tuple(range(1, BLOCKS))
    assert chain.borders == ()


def test_a_checkpoint_keeps_what_it_is_given_in_an_object():
    step, _, _ = profiled("states")
    chain = strategies.profiled(step.model, "optimal", step)
    modes = [mode for block in chain.profile.blocks for mode in block.modes]
    kept = {mode.name: mode.keeps_input for mode in modes}
    assert kept["products"]
    for index in (0, BLOCKS - 1):
        names = tuple("products" if i == index else "all" for i in range(BLOCKS))
        schedule = dataclasses.replace(Schedule(tuple(range(BLOCKS))), modes=names)
        unseen_bytes = predict(chain.profile, schedule).peak_bytes - peak_bytes(
            step, chain, schedule
        )
        assert unseen_bytes == chain.profile.group_bytes  # a random state is no operator's


@pytest.mark.parametrize("spec", ["optimal", "selective_ops", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_budgets_are_kept(name, spec):
    step, chain, _ = profiled(name)
    chain = strategies.profiled(step.model, spec, step)
    smallest_bytes = strategies.get(spec).smallest_bytes(chain.profile)
    plain_bytes = predict(chain.profile, tuple(range(BLOCKS))).peak_bytes
    for part in range(4):
        budget_bytes = smallest_bytes + part * (plain_bytes - smallest_bytes) // 4
        strategy = strategies.get(spec, budget=str(budget_bytes))
        schedule = strategies.prepare(step.model, strategy, chain=chain).schedule
        assert peak_bytes(step, chain, schedule) <= budget_bytes


# Blocks that are dropped at random.


class Dropping(Chain):
    def __init__(self):
        super().__init__()
        self.layerdrop = 0.9

    def forward(self, x):
        for block in self.blocks:
            if not self.training or torch.rand([]) >= self.layerdrop:
                x = block(x)
        return x


def test_blocks_that_are_dropped_are_planned_for_as_if_they_ran():
    torch.manual_seed(0)
    model, batch = Dropping(), torch.randn(ROWS, WIDTH)
    with strategies.apply(model, "optimal", budget="100%", example=batch) as applied:
        assert len(applied.chain.profile.blocks) == BLOCKS
        assert model.layerdrop == 0.9
    plain, _, _ = profiled("a list")
    whole = strategies.profiled(plain.model, "optimal", plain).profile
    costs = [block.modes[0].saved_bytes for block in applied.chain.profile.blocks]
    assert costs == [block.modes[0].saved_bytes for block in whole.blocks]


# What leaves a block by another way than its output.


class Collecting(Chain):
    """Returns what hooks collect inside its blocks, as models return their routers' scores."""

    def forward(self, x):
        scores = []
        for block in self.blocks:
            block.up._forward_hooks.clear()
            block.up.register_forward_hook(lambda *call: scores.append(call[-1]))
        return super().forward(x), scores


def test_blocks_that_hooks_look_into_are_watched_one_by_one():
    step = ExampleStep(Collecting(), torch.randn(ROWS, WIDTH), keep_output=True)
    plain = ExampleStep(Chain(), torch.randn(ROWS, WIDTH), keep_output=True)
    assert scout(plain, strategies.find_chain(plain.model)).watched == [0, 1, BLOCKS - 1]
    step.forward()  # from now on the hooks are there
    hooked = strategies.find_chain(step.model)
    assert scout(step, hooked).watched == list(range(BLOCKS))


def test_what_no_operator_was_seen_to_make_is_refused():
    """As the outputs of blocks in a model that is compiled as a whole."""
    with pytest.raises(Unsupported, match="apply the strategy first, and compile then"):
        lives._Watcher(1).leave(0, torch.ones(2))
