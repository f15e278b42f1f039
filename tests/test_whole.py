"""The whole model compiled, in the place of a plan: measured, within the budget, and faster."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from models import BLOCKS, WIDTH, chain_of, seed
from torch import nn

import strategies
from strategies import auto
from strategies.contract import whole
from strategies.contract.settled import settled
from strategies.execution import compiler
from strategies.memory_budget import MemoryBudget
from strategies.optimal import PER_CENTS
from strategies.profiling import trial
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.step import ExampleStep
from strategies.schedules.budget import resolve
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain
from strategies.schedules.schedule import Schedule

AOT = "aot_eager_decomp_partition"
SPEC = {"compile": True, "backend": AOT}
ROWS = 64
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.skipif(not compiler.can_be_watched(), reason="the partitioner cannot be watched"),
]


class Eager(MemoryBudget):
    """Compiles nothing, so that the step is that of none."""

    def install(self, model, chain):
        return []


class Broken(MemoryBudget):
    """As a compiler is."""

    def install(self, model, chain):
        raise RuntimeError("no such kernel\nsomewhere")


class Wide(nn.Module):
    """A block whose saved tensors a compiler can do without."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 8 * WIDTH), nn.Linear(8 * WIDTH, WIDTH)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        hidden = torch.tanh(self.up(x))
        return x + self.down(self.drop(hidden * torch.sigmoid(hidden)))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def ratio(monkeypatch):
    """Sets what the whole model takes beside the plan: a clock has its days."""

    def settle(value):
        peak_bytes = trial.passing_peak_bytes
        times = {"seconds": lambda *_: [[1.0], [value]], "passing_peak_bytes": peak_bytes}
        monkeypatch.setattr(whole, "trial", SimpleNamespace(**times))

    return settle


def model_of(drop=0.0):
    seed(0)
    return chain_of(BLOCKS, lambda: Wide(drop)), torch.randn(ROWS, WIDTH)


def step(model, rows):
    seed(1)
    model.zero_grad()
    model(rows).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def peak_bytes(model, rows):
    """Of a step that begins without gradients, by the allocator, what is resident included.

    So is an output, as large as the input: the loop holds the one before.
    """
    step(model, rows)
    model.zero_grad()
    with AllocatorTrace() as trace:
        trace.mark("begin")
        loss = model(rows).square().sum()
        loss.backward()
        trace.mark("end")
    resident = (*model.parameters(), rows, rows)
    return trace.working_bytes("begin", "end") + sum(tensor.nbytes for tensor in resident)


@functools.cache
def profiled(drop):
    """A step and its chain with costs, and the gradients of none: it takes a second."""
    model, rows = model_of(drop)
    example = ExampleStep(model, rows, lambda output: output.square().sum())
    chain = strategies.profiled(model, strategies.get("auto", **SPEC), example)
    return example, chain, step(model, rows)


def prepared(budget, drop=0.0):
    example, chain, _ = profiled(drop)
    settle = functools.partial(settled, step=example)
    return strategies.prepare(
        example.model, "auto", budget=budget, chain=chain, settle=settle, **SPEC
    )


def are_close(found, wanted):
    pairs = zip(found, wanted, strict=True)
    return all(torch.allclose(f, w, rtol=1e-4, atol=1e-4) for f, w in pairs)


def planned():
    model, rows = model_of()
    example = ExampleStep(model, rows, lambda output: output.square().sum())
    chain = strategies.profiled(model, "optimal", example)
    return strategies.prepare(model, "optimal", budget="60%", chain=chain), example, chain.profile


@pytest.mark.parametrize(
    ("value", "budget", "is_taken"),
    [(0.5, "100%", True), (0.97, "100%", True), (0.99, "100%", False), (0.5, "99%", False)],
)
def test_what_fits_and_is_faster_is_taken(value, budget, is_taken, ratio):
    ratio(value)
    plan, example, profile = planned()
    done = whole.or_whole(plan, [Eager()], example, profile, resolve(budget, profile))
    if not is_taken:
        more = [f"{Eager().spec()} for the whole model takes 0.99 × the best plan"]
        assert done == dataclasses.replace(plan, notes=plan.notes + more * (budget == "100%"))
        return
    assert done.whole == Eager()
    assert done.prediction is None
    assert done.schedule.render() == " ".join(map(str, range(BLOCKS)))
    assert f"takes {value:.2f} × the best plan" in done.notes[0]
    assert f"a peak of {resolve('100%', profile):,} bytes (100.0%" in done.notes[1]


def test_what_fails_leaves_the_plan_with_a_note():
    plan, example, profile = planned()
    done = whole.or_whole(plan, [Broken(), Eager()], example, profile, resolve("100%", profile))
    noted = [*plan.notes, "the whole model is not compiled: no such kernel"]
    assert done == dataclasses.replace(plan, notes=noted)


@pytest.mark.long
def test_it_takes_the_place_of_a_plan_where_it_is_faster(ratio):
    ratio(0.5)
    example, chain, wanted = profiled(0.0)
    model, rows = example.model, example.example
    with prepared("75%").apply() as done:
        assert done.strategy.name() == "auto"
        assert isinstance(done.whole, MemoryBudget)
        assert done.whole.fraction < 1
        assert done.schedule.render() == " ".join(map(str, range(BLOCKS)))
        assert done.prediction is None
        assert "takes 0.50 × the best plan" in done.notes[0]
        assert done.notes[-1].startswith("gradients are close to those of none")
        assert are_close(step(model, rows), wanted)
        measured = peak_bytes(model, rows)
        assert f"a peak of {measured:,} bytes" in done.notes[1]
        assert measured <= resolve("75%", chain.profile)
    assert all(map(torch.equal, step(model, rows), wanted))


@pytest.mark.long
def test_the_plan_stays_where_it_is_not(ratio):
    ratio(0.99)
    example, _, _ = profiled(0.0)
    example.drop_gradients()
    before = [parameter.detach().clone() for parameter in example.model.parameters()]
    found = prepared("100%")
    assert found.whole is None
    assert found.prediction is not None
    assert "for the whole model takes 0.99 × the best plan" in found.notes[-1]
    assert all(map(torch.equal, example.model.parameters(), before))
    assert all(parameter.grad is None for parameter in example.model.parameters())


@pytest.mark.long
def test_what_would_draw_other_numbers_is_not_compiled_as_a_whole(ratio):
    """Without a budget it may run, and needs too much here; with one no block can, either."""
    ratio(0.5)
    found = prepared("50%", drop=0.5)
    assert found.whole is None
    assert not any("whole model" in note for note in found.notes)


def test_where_compiled_blocks_are_not_watched_the_measured_peak_decides_alone(monkeypatch):
    model, rows = model_of()
    example = ExampleStep(model, rows, lambda output: output.square().sum())
    chain = strategies.profiled(model, "optimal", example)  # no compiled modes
    compiling = strategies.get("auto", budget="30%", **SPEC)
    assert not compiling.wholes(chain)
    monkeypatch.setattr(auto, "device_of", lambda _: torch.device("xpu"))
    assert [one.fraction for one in compiling.wholes(chain)] == [each / 100 for each in PER_CENTS]
    assert not strategies.get("auto", budget="30%").wholes(chain)
    for block in chain.blocks:
        block.compile(backend="eager")
    assert not compiling.wholes(chain)


@pytest.mark.long
def test_what_would_need_too_much_by_its_blocks_is_not_compiled():
    _, chain, _ = profiled(0.0)

    def fractions(budget):
        wholes = strategies.get("auto", budget=budget, **SPEC).wholes(chain)
        assert all(one.backend == AOT for one in wholes)
        return [one.fraction for one in wholes]

    schedules = [
        Schedule(plain(BLOCKS), (f"partitioned({per_cent})",) * BLOCKS) for per_cent in PER_CENTS
    ]
    sizes = [predict(chain.profile, schedule).peak_bytes for schedule in schedules]
    least = [math.ceil(auto.WHOLE * size_bytes) for size_bytes in sizes]
    assert least == sorted(least, reverse=True)
    for n, size_bytes in enumerate(least):
        assert fractions(str(size_bytes)) == [each / 100 for each in PER_CENTS[n:]]
    assert fractions(str(least[-1] - 1)) == []
    eager = dataclasses.replace(chain, profile=chain.profile.eager)
    assert strategies.get("auto", **SPEC).wholes(eager) == ()
