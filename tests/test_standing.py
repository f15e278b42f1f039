"""What is there from step to step beside parameters, buffers and batch: tables, last results."""

import dataclasses
import gc

import pytest
import torch
from effort import few
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from strategies.execution import layout
from strategies.execution.undo import installed
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.standing import noted, standing
from strategies.profiling.step import ExampleStep
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import groups_in
from strategies.schedules.schedule import Schedule

WIDTH, ROWS, BLOCKS = 32, 256, 6
TABLE = 50_000
STATE_BYTES = 5056
PLANS = (
    "0 1 2 3 4 5",
    "[0] [1] [2] [3] [4] [5]",
    "[0 1] [2 3] [4 5]",
    "[0 1 2 3 4 5]",
    "[[0 1] 2] [3] 4 5",
    "0 1 [2] 3 4 5",
    "[[[[0] 1] 2] 3] [4] 5",
)
CACHE = {}
TARGET = torch.zeros(ROWS, WIDTH)


class Block(nn.Module):
    """Keeps nothing."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.last = None

    def inner(self, x):
        return nn.functional.gelu(self.up(x))

    def forward(self, x):
        return x + self.down(self.inner(x))


class Copying(Block):
    """Keeps a part of what it computed last."""

    def inner(self, x):
        h = super().inner(x)
        self.last = h.detach()[:, :WIDTH].clone()
        return h


class Detaching(Block):
    """Keeps what it saved, too, as layers do that show their attention."""

    def inner(self, x):
        h = super().inner(x)
        self.last = h.detach()
        return h


class Attached(Block):
    """The same with its graph."""

    def inner(self, x):
        self.last = super().inner(x)
        return self.last


class Outputs(Block):
    """Keeps what it returned last, which is a boundary."""

    def forward(self, x):
        y = super().forward(x)
        self.last = y.detach()
        return y


class Scaling(Block):
    """Has a table that is no buffer."""

    def __init__(self):
        super().__init__()
        self.last = torch.rand(ROWS, 4 * WIDTH)

    def inner(self, x):
        return super().inner(x) * self.last


class Lazy(Block):
    """Makes that table when it is first run."""

    def inner(self, x):
        if self.last is None:
            self.last = torch.rand(ROWS, 4 * WIDTH)
        return super().inner(x) * self.last


class Model(nn.Module):
    """Keeps nothing but what its blocks do."""

    def __init__(self, kind=Block):
        super().__init__()
        self.head, self.tail = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(kind() for _ in range(BLOCKS))
        self.last = None

    def begin(self, x):
        return self.head(x)

    def forward(self, x):
        x = self.begin(x)
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


class Tables(Model):
    """Has some that nobody reads, on a list in a dictionary."""

    def __init__(self):
        super().__init__()
        self.tables = {"of": [torch.zeros(TABLE), torch.zeros(TABLE)]}


class LazyHead(Model):
    def begin(self, x):
        if self.last is None:
            self.last = torch.zeros(TABLE)
        return super().begin(x)


class RenewedHead(Model):
    def begin(self, x):
        x = super().begin(x)
        self.last = x.detach().clone()
        return x


class Cached(Model):
    """A module of Python has the cache."""

    def begin(self, x):
        if "table" not in CACHE:
            CACHE["table"] = torch.zeros(TABLE)
        return super().begin(x)


class Renewing(Model):
    """A cache in a module of Python has one entry, and never the right one."""

    def begin(self, x):
        x = super().begin(x.repeat(1, 8)[:, :WIDTH])
        table = torch.zeros(TABLE)
        CACHE["table"] = table
        return x


class KeepsTail(Model):
    def forward(self, x):
        x = super().forward(x)
        self.last = x.detach().clone()
        return x


KINDS = [Copying, Detaching, Attached, Outputs, Scaling, Lazy]
MODELS = [Tables, LazyHead, RenewedHead, Cached, Renewing, KeepsTail]


@pytest.fixture(autouse=True)
def _no_cache():
    CACHE.clear()
    yield
    CACHE.clear()


def make(kind):
    return Model(kind) if issubclass(kind, Block) else kind()


def loss_of(output):
    return output.square().mean()


def step_of(model):
    return ExampleStep(model, torch.ones(ROWS, WIDTH), loss_of)


def profile_of(kind):
    step = step_of(make(kind))
    profile = strategies.profiled(step.model, "auto", step).profile
    CACHE.clear()
    return profile


def measured_bytes(kind, plan):
    """Most allocated in a few steps of the usual loop that follow the first."""
    CACHE.clear()
    gc.collect()
    with AllocatorTrace() as trace:
        trace.mark("begin")
        step = step_of(make(kind))
        chain = strategies.find_chain(step.model)
        with installed(lambda: layout.install(chain, plan)):
            for number in range(3):
                trace.mark(f"step {number}")
                output = step.model(step.example)
                loss_of(output).backward()
                step.model.zero_grad()
        trace.mark("end")
    return trace.above_bytes("begin", "step 1", "end")


@pytest.mark.parametrize("kind", [Block, *KINDS, *MODELS], ids=lambda kind: kind.__name__)
def test_what_stands_is_predicted_to_the_byte(kind):
    """But for groups of several blocks that draw nothing: of each a random state too many."""
    profile = profile_of(kind)
    for text in PLANS:
        plan = Schedule.parse(text).plan
        more = predict(profile, plan).peak_bytes - measured_bytes(kind, plan)
        several = sum(groups_in(node) for node in plan if not isinstance(node, int))
        assert 0 <= more <= several * STATE_BYTES, text


@pytest.mark.parametrize("kind", few([Copying, Detaching, Outputs, Lazy]))
def test_budgets_are_kept_under_every_kind_of_plan(kind):
    step = dataclasses.replace(step_of(make(kind)), keep_output=False)
    auto = strategies.get("auto", budget="100%", verify=False)
    chain = strategies.profiled(step.model, auto, step)
    most_bytes = predict(chain.profile, tuple(range(BLOCKS))).peak_bytes
    least_bytes = auto.smallest_bytes(chain.profile)
    for tenth in (0, 2, 4, 6, 8):
        budget_bytes = least_bytes + (most_bytes - least_bytes) * tenth // 10
        asked = dataclasses.replace(auto, budget=str(budget_bytes))
        with strategies.apply(step.model, asked, chain=chain):
            for _ in range(2):
                step.backward(step.forward())
            step.drop_gradients()
            with AllocatorTrace() as trace:
                trace.follow(standing(step))
                trace.mark("begin")
                for _ in range(3):
                    step.backward(step.forward())
                    step.drop_gradients()
                trace.mark("end")
        assert chain.profile.start_bytes + trace.working_bytes("begin", "end") <= budget_bytes


def test_auto_measures_what_is_there_when_a_step_begins():
    step = step_of(make(Outputs))
    budget = "70%"
    with strategies.apply(
        step.model, "auto", budget=budget, example=step.example, loss=loss_of
    ) as applied:
        said = next(note for note in applied.notes if note.startswith("measured on the example"))
    peak_bytes = int(said.split("a peak of ")[1].split(" bytes")[0].replace(",", ""))
    assert 0 <= applied.prediction.peak_bytes - peak_bytes <= BLOCKS * STATE_BYTES
    assert peak_bytes <= 0.7 * predict(profile_of(Outputs), tuple(range(BLOCKS))).peak_bytes


@pytest.mark.parametrize("kind", few([Copying, Outputs, Scaling, Tables, LazyHead]))
def test_on_fake_tensors(kind):
    real = profile_of(kind)
    with FakeTensorMode():
        fake = profile_of(kind)
    for text in PLANS:
        plan = Schedule.parse(text).plan
        assert predict(fake, plan).peak_bytes == predict(real, plan).peak_bytes


def test_a_loss_may_read_what_the_example_does_not_have():
    step = step_of(make(Block))
    step.loss = lambda output: (output - TARGET).square().mean()
    target = strategies.profiled(step.model, "auto", step).profile.resident_bytes
    assert target - profile_of(Block).resident_bytes == TARGET.nbytes


def test_what_only_a_circle_holds_does_not_stand():
    class Circle:
        def __init__(self, tensor):
            self.tensor, self.own = tensor, self

    step = step_of(make(Block))
    circles = []
    step.model.head.register_forward_hook(lambda *call: circles.append(Circle(call[2].clone())))
    gc.disable()
    try:
        with noted(step):
            step.forward()
        assert len(standing(step)) == 1
        with noted(step):
            circles.clear()
            step.forward()
            circles.clear()
        assert not standing(step)
    finally:
        gc.enable()


def test_a_trace_sees_the_end_of_what_was_there_before():
    """Whatever the allocator, which saw another tensor at that address, tells of it."""
    sizes = (1000, 3000)
    for size in sizes:
        with AllocatorTrace():
            there = torch.zeros(size)  # the allocator knows the address from now on
        del there
    there = torch.zeros(sizes[0])
    with AllocatorTrace() as trace:
        trace.follow([there.untyped_storage()])
        trace.mark("begin")
        del there
        trace.mark("middle")
        other = torch.ones(sizes[1])
        trace.mark("end")
    assert trace.gained_bytes("begin", "middle") == -4 * sizes[0]
    assert trace.gained_bytes("middle", "end") == other.nbytes
    assert trace.working_bytes("begin", "end") == other.nbytes - 4 * sizes[0]
