"""What a block's forward changes besides making its output: recompute meets what forward met."""

import collections
import copy
import dataclasses
import gc
import random

import numpy as np
import pytest
import torch
from effort import few
from models import WIDTH, Small, assert_same, chain_of, seed, step
from torch import nn

import strategies
from strategies import Unsupported
from strategies.execution import randoms, state

ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)
SPECS = ["every_layer", "every_k(k=2)", "every_k(k=4)", "recursive", "offload(over=sqrt)"]


class Spectral(Small):
    """Improves its estimate of a norm."""

    def __init__(self):
        super().__init__()
        self.linear = nn.utils.parametrizations.spectral_norm(self.linear)


class CountsTokens(Small):
    """Counts what no output depends on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("tokens", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.tokens += len(x)
        return super().forward(x)


class Remembers(Small):
    """Divides by a mean that moves: assigned anew, or written to, or written to behind the back."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.register_buffer("mean", torch.ones(WIDTH))
        self.plain = torch.ones(WIDTH)

    def forward(self, x):
        y = super().forward(x)
        new = 0.5 * self.mean + 0.5 * y.detach().abs().mean(0) + 0.1
        match self.way:
            case "assigned":
                self.mean = new
            case "written":
                self.mean.copy_(new)
            case "data":
                self.mean.data.copy_(new)
            case "plain":
                self.plain.add_(1)
            case "both":
                self.mean.mul_(0.9)
                self.mean = self.mean + 0.1
        return torch.tanh(y / self.mean.clone()) * y / self.plain.clone()


class Anneals(Small):
    """Counts its calls with a number of Python."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(super().forward(x) / self.calls).exp()


@dataclasses.dataclass
class Schedule:
    """Something that counts."""

    calls: int = 0


class Deeper(Small):
    """Counts in an object, and in what it holds."""

    def __init__(self):
        super().__init__()
        self.schedule, self.seen = Schedule(), collections.deque(maxlen=3)
        self.table, self.names = {}, set()

    def forward(self, x):
        self.schedule.calls += 1
        self.seen.append(len(self.seen))
        self.table[len(self.table)] = 1.0
        self.names.add(len(self.names))
        count = self.schedule.calls + len(self.seen) + len(self.table) + len(self.names)
        return torch.tanh(super().forward(x) / count).exp()


class Caches(Small):
    """Makes a table when it is first called."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(0, 1, WIDTH)
        return super().forward(x) * self.table


class Draws(Small):
    """Draws numbers, and not PyTorch's own."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.own = {
            "torch": torch.Generator().manual_seed(3),
            "random": random.Random(3),
            "older": np.random.RandomState(3),
            "newer": np.random.default_rng(3),
        }.get(source)

    def draw(self):
        match self.source:
            case "python":
                return random.random()
            case "gauss":
                return random.gauss(0, 1)
            case "numpy":
                return float(np.random.rand())
            case "normal":
                return float(np.random.randn())
            case "torch":
                return float(torch.rand((), generator=self.own))
            case "random" | "newer":
                return self.own.random()
            case _:
                return self.own.rand()

    def forward(self, x):
        return torch.tanh(super().forward(x) * (0.5 + self.draw())).exp()


BLOCKS = {
    "spectral": Spectral,
    "counts-tokens": CountsTokens,
    **{
        way: lambda way=way: Remembers(way)
        for way in ("assigned", "written", "data", "plain", "both")
    },
    "anneals": Anneals,
    "deeper": Deeper,
    "caches": Caches,
    **{
        source: lambda source=source: Draws(source)
        for source in ("python", "gauss", "numpy", "normal", "torch", "random", "older", "newer")
    },
}


def everything(model):
    """Attributes of every block that are no modules, and buffers."""
    plain = (bool, int, float, set, dict, collections.deque, Schedule)
    return [
        ({k: v for k, v in vars(module).items() if isinstance(v, plain) and k[0] != "_"}, buffers)
        for module in model.modules()
        for buffers in [{name: buffer.tolist() for name, buffer in module.named_buffers()}]
    ]


def generators():
    return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]


def steps(model, **options):
    """Three steps, and all that they leave."""
    random.seed(5)
    np.random.seed(5)
    results = [step(model, ROWS, **options) for _ in range(3)]
    return results, everything(model), generators()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("spec", few(SPECS, 3))
@pytest.mark.parametrize("backwards", few([2, 1]))
def test_a_recompute_meets_what_forward_met_and_leaves_what_it_finds(name, spec, backwards):
    seed(0)
    model = chain_of(4, BLOCKS[name])
    wanted = steps(copy.deepcopy(model), backwards=backwards)
    strategies.apply(model, spec)
    found = steps(model, backwards=backwards)
    for one, other in zip(found[0], wanted[0], strict=True):
        assert_same(one, other)
    assert found[1:] == wanted[1:]


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)"])
def test_the_state_of_a_replica_is_its_own(spec):
    """As `DataParallel` makes them: copies of one level, of which each counts for itself."""
    gradients = []
    for chosen in ("none", spec):
        seed(0)
        model = chain_of(2, Anneals)
        with strategies.apply(model, chosen):
            replicas = [block._replicate_for_data_parallel() for block in model]
            seed(2)
            x = ROWS
            for replica in replicas:
                x = replica(x)
            x.sum().backward()
            assert [block.calls for block in (*model, *replicas)] == [0, 0, 1, 1]
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("spec", SPECS)
def test_what_changes_between_forward_and_backward_is_no_matter(spec):
    model = chain_of(4, Small)
    gradients = []
    for chosen in ("none", spec):
        with strategies.apply(model, chosen):
            model.train().zero_grad()
            seed(2)
            loss = model(ROWS).square().sum()
            model.eval()
            for block in model:
                block.drop.p = 0.5
            loss.backward()
            assert not any(module.training for module in model.modules())
            assert all(block.drop.p == 0.5 for block in model)
            for block in model:
                block.drop.p = 0.1
            gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


class Args(nn.Module):
    """Gives its blocks what they write to."""

    def __init__(self, block):
        super().__init__()
        self.h = nn.ModuleList([block() for _ in range(4)])
        self.given = dict

    def forward(self, x):
        given = self.given()
        for block in self.h:
            x = block(x, **given)
        return x


class Fills(Small):
    """Writes to a list, a dictionary and an object that it is given, and draws from a generator."""

    def forward(self, x, seen, table, schedule, generator):
        seen.append(len(seen))
        table["n"] = table["n"] * 0.9
        schedule.calls += 1
        noise = torch.rand(WIDTH, generator=generator)
        return torch.tanh(super().forward(x) * table["n"] / (len(seen) + schedule.calls)) * noise


@pytest.mark.parametrize("spec", SPECS)
def test_containers_and_objects_among_the_arguments(spec):
    seed(0)
    model = Args(Fills)
    kept = []

    def given():
        values = {"seen": [], "table": {"n": torch.ones(())}, "schedule": Schedule()}
        kept.append(values)
        return {**values, "generator": torch.Generator().manual_seed(1)}

    model.given = given
    wanted = step(copy.deepcopy(model), ROWS)
    with strategies.apply(model, spec):
        assert_same(step(model, ROWS), wanted)
    one, other = kept
    assert one["seen"] == other["seen"] == list(range(4))
    assert one["schedule"] == other["schedule"] == Schedule(4)
    assert torch.equal(one["table"]["n"], other["table"]["n"])


class Layer:
    """Of a cache: what one block kept."""

    def __init__(self):
        self.keys = None


class Cache:
    """Holds layers, which come when they are wanted, and a cache of the same kind, and itself."""

    def __init__(self, depth=1):
        self.layers, self.updated, self.owner = [], {}, self
        self.inner = Cache(depth - 1) if depth else None


class Attends(Small):
    """Appends to what the cache holds of its layer, as XLM's attention does."""

    def forward(self, x, caches, number):
        cache = caches[0].inner
        while len(cache.layers) <= number:
            cache.layers.append(Layer())
        layer = cache.layers[number]
        layer.keys = x if layer.keys is None else torch.cat([layer.keys, x])
        cache.updated[number] = True
        return torch.tanh(super().forward(x) @ layer.keys.T @ layer.keys / len(cache.updated))


class Attention(nn.Module):
    """A cache in a list, which a forward makes even when it trains."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([Attends() for _ in range(4)])

    def forward(self, x):
        caches = [Cache()]
        for number, block in enumerate(self.h):
            x = block(x, caches, number)
        return x


@pytest.mark.parametrize("spec", SPECS)
def test_what_objects_among_the_arguments_hold(spec):
    seed(0)
    model = Attention()
    wanted = step(copy.deepcopy(model), ROWS)
    with strategies.apply(model, spec):
        assert_same(step(model, ROWS), wanted)


class Accumulates(Small):
    """Writes to a tensor that it is given."""

    def forward(self, x, memory):
        y = torch.tanh(x + memory) * super().forward(x)
        with torch.no_grad():
            memory.add_(0.3 * y)
        return y


@pytest.mark.parametrize("spec", SPECS)
def test_an_argument_that_is_written_to_is_refused(spec):
    model = Args(Accumulates)
    model.given = lambda: {"memory": torch.zeros(3, WIDTH)}
    with (
        strategies.apply(model, spec),
        pytest.raises(Unsupported, match=r"^Accumulates writes to one of its arguments in place"),
    ):
        step(model, ROWS)


class Rarely(Small):
    """Does at its second call what it did not at its first."""

    def __init__(self, what):
        super().__init__()
        self.what, self.register = what, self.register_buffer("mean", torch.ones(WIDTH))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 1 and self.what == "writes":
            self.mean.mul_(0.5)
        if self.calls > 1 and self.what == "draws":
            return super().forward(x) * np.random.rand()
        return super().forward(x) * self.mean.clone()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("writes", "writes 'mean' in this forward"),
        ("draws", "draws from random or numpy.random, as it did"),
    ],
)
def test_what_comes_late_is_refused_once(what, message):
    seed(0)
    model = chain_of(4, lambda: Rarely(what))
    strategies.apply(model, "every_layer")
    step(model, ROWS)
    for _ in model:  # each block is another surprise
        with pytest.raises(Unsupported, match=message):
            step(model, ROWS)
    other = copy.deepcopy(model)
    strategies.undo(other)
    np.random.seed(5)
    wanted = step(other, ROWS)
    np.random.seed(5)
    assert_same(step(model, ROWS), wanted)


class RarelyPython(Small):
    """Draws at its second call what it did not at its first."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.calls = draw, 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (self.draw() if self.calls > 1 else 1)


@pytest.mark.parametrize("draw", [random.random, lambda: random.gauss(1, 1)])
def test_where_python_drew_from_is_told_though_it_comes_late(draw):
    seed(0)
    model = chain_of(3, lambda: RarelyPython(draw))
    other = copy.deepcopy(model)
    strategies.apply(model, "every_layer")
    for _ in range(4):
        results = []
        for one in (model, other):
            random.seed(5)
            random.random()  # the words that a seed leaves are used up
            results.append(step(one, ROWS))
        assert_same(*results)


class Auxiliary(Small):
    """Leaves a loss of its own on itself."""

    def forward(self, x):
        y = super().forward(x)
        self.auxiliary = y.square().mean()
        return y


class WithAuxiliary(nn.Module):
    """Adds up what its blocks left."""

    def __init__(self):
        super().__init__()
        self.h = chain_of(4, Auxiliary)

    def forward(self, x):
        return self.h(x) + sum(block.auxiliary for block in self.h)


@pytest.mark.parametrize("spec", SPECS)
def test_a_loss_that_a_block_leaves_on_itself(spec):
    seed(0)
    model = WithAuxiliary()
    wanted = step(copy.deepcopy(model), ROWS)
    with strategies.apply(model, spec):
        for _ in range(3):
            assert_same(step(model, ROWS), wanted)


def test_no_step_keeps_what_a_step_before_it_left():
    class Leaves(Small):
        def forward(self, x):
            y = super().forward(x)
            self.unused = y.square()  # its graph is never run backward
            return y

    model = chain_of(3, Leaves)
    strategies.apply(model, "every_layer")
    for _ in range(2):
        step(model, ROWS)
    before = sum(isinstance(each, torch.Tensor) for each in gc_objects())
    for _ in range(5):
        step(model, ROWS)
    assert sum(isinstance(each, torch.Tensor) for each in gc_objects()) <= before


def gc_objects():
    gc.collect()
    return gc.get_objects()


# Parts.


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        np.random.rand,
        lambda: random.gauss(0, 1),
        lambda: np.random.shuffle([1, 2, 3]),
    ],
)
def test_draws_from_what_all_share_are_seen(full, draw):
    before = generators()
    shared = randoms.Shared(full=full)
    assert not shared.moved()
    for _ in range(3):
        draw()
        assert shared.moved()
    if full:
        shared.restore()
        assert generators() == before


def test_a_number_that_was_left_over_is_seen_by_the_whole_state_alone():
    np.random.randn()
    full, mark = randoms.Shared(full=True), randoms.Shared(full=False)
    np.random.randn()
    assert (full.moved(), mark.moved()) == (True, False)


def test_modules_that_come_later_are_watched_too():
    block = Small()
    watched = state.BlockState(block)
    watched.end(watched.begin())
    block.more = Anneals()
    met = watched.begin()
    block.more(ROWS)
    watched.end(met)
    assert block.more.calls == 1
    with met:
        assert block.more.calls == 0
        block.more(ROWS)
    assert block.more.calls == 1


# What the fuzz found (`test_fuzz`).


class NormAndCounter(Small):
    """Has statistics to freeze, and something else that changes."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(WIDTH), 0

    def forward(self, x):
        self.calls += 1
        return self.norm(super().forward(x)) * self.calls


@pytest.mark.parametrize("spec", SPECS)
def test_statistics_are_frozen_in_a_block_that_changes_something_else(spec):
    model = chain_of(4, NormAndCounter)
    wanted = steps(copy.deepcopy(model))[0]
    strategies.apply(model, spec)
    for one, other in zip(steps(model)[0], wanted, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("spec", SPECS)
def test_what_the_model_took_from_a_block_stays_taken(spec):
    model = WithAuxiliary()
    strategies.apply(model, spec)
    loss = model(ROWS).sum()
    for block in model.h:
        block.auxiliary = None
    loss.backward()
    assert [block.auxiliary for block in model.h] == [None] * 4


class Given(Small):
    """Writes to a tensor that the model puts where there was none."""

    memory = None

    def forward(self, x):
        self.memory.add_(x.detach().mean(0))
        return super().forward(x) * self.memory


class Gives(Args):
    """Puts it there anew in each forward, on a name that was None or was not at all."""

    def forward(self, x):
        for block in self.h:
            block.memory = torch.zeros(WIDTH)
        x = super().forward(x)
        for block in self.h:
            del block.memory
        return x


@pytest.mark.parametrize("spec", SPECS)
def test_a_tensor_that_the_model_puts_on_a_block(spec):
    seed(0)
    model = Gives(Given)
    wanted = [step(copy.deepcopy(model), ROWS) for _ in range(2)]
    strategies.apply(model, spec)
    for result in wanted:
        assert_same(step(model, ROWS), result)


@dataclasses.dataclass
class Hidden:
    """What is no tensor, and holds one."""

    states: torch.Tensor


class Unpacks(Small):
    """Is given an object, whose tensor it may write to."""

    writes = False

    def forward(self, x, hidden):
        if self.writes:
            hidden.states.mul_(0.9)
        return super().forward(x) + hidden.states


@pytest.mark.parametrize("spec", SPECS)
def test_a_tensor_in_an_object_is_no_more_written_to_than_another(spec):
    model, hidden = Args(Unpacks), Hidden(torch.ones(WIDTH))
    model.given = lambda: {"hidden": hidden}
    strategies.apply(model, spec)
    loss = model(ROWS).sum()
    hidden.states.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation: a tensor in an obj"):
        loss.backward()
    model.h[1].writes = True
    with pytest.raises(Unsupported, match="Unpacks writes to one of its arguments in place"):
        model(ROWS)
