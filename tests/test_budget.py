"""Budgets: written in every way, kept by what is measured, refused when nothing fits."""

import functools

import pytest
import tiny
import torch
from effort import few
from models import CASES, assert_same, seed, step
from torch import nn

import strategies
from bench.measure import gradients, memory
from strategies import Unsupported
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.step import ExampleStep
from strategies.schedules import budget
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain
from strategies.solvers import optimal

SIZES = {
    "gpt-mini": {"dim": 64, "seq": 128, "batch": 4, "layers": 4},
    "gpt-mini-dropout": {"dim": 64, "seq": 128, "batch": 4, "layers": 4},
    "llama-mini": {"dim": 64, "seq": 128, "batch": 4, "layers": 4},
    "vit-mini": {"dim": 64, "image": 64, "batch": 8, "layers": 5},
    "resnet-mini": {"batch": 8},
    "mlp-chain": {"dim": 32, "batch": 512, "layers": 8},
}
TEN = range(10)


@functools.cache
def profiled(workload):
    """A step and its chain, with costs."""
    made = tiny.step(workload, **SIZES[workload])
    return made, strategies.profiled(made.model, "optimal", made, blocks=made.workload.blocks)


def budgets(profile):
    """Ten, from the smallest that fits to that of no checkpoints."""
    low = optimal.smallest_bytes(profile)
    high = predict(profile, plain(len(profile.blocks))).peak_bytes
    return [low + (high - low) * n // 9 for n in TEN]


def measured_peak_bytes(made):
    taken = memory.measure_cpu(made.forward, made.backward)
    made.drop_gradients()
    return taken.peak_bytes + unique_bytes(made.resident_tensors())


# What must hold.


@pytest.mark.parametrize("number", few(TEN, 2))
@pytest.mark.parametrize("workload", SIZES)
def test_the_measured_peak_is_within_the_budget(workload, number):
    made, chain = profiled(workload)
    budget_bytes = budgets(chain.profile)[number]
    reference = gradients.run(made, 0)
    with strategies.apply(made.model, "optimal", budget=str(budget_bytes), chain=chain) as applied:
        assert measured_peak_bytes(made) <= budget_bytes
        same = gradients.compare(reference, gradients.run(made, 0))
        assert same.bitwise_equal
        assert not same.missing
        prediction = predict(chain.profile, applied.schedule)
    assert prediction.peak_bytes <= budget_bytes


@pytest.mark.parametrize("workload", SIZES)
def test_more_memory_never_costs_more_time(workload):
    profile = profiled(workload)[1].profile
    found = [optimal.solve(profile, budget_bytes).schedule for budget_bytes in budgets(profile)]
    times = [predict(profile, schedule).recompute_s for schedule in found]
    assert times[-1] == 0
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("workload", SIZES)
def test_too_little_names_the_smallest_that_is_enough(workload):
    made, chain = profiled(workload)
    low = optimal.smallest_bytes(chain.profile)
    with pytest.raises(Unsupported, match=f"the smallest budget that does is {low:,} bytes"):
        strategies.apply(made.model, "optimal", budget=str(low - 1), chain=chain)
    strategies.apply(made.model, "optimal", budget=str(low), chain=chain).undo()


def test_what_was_found_out_is_noted():
    made, chain = profiled("gpt-mini")
    with strategies.apply(made.model, "optimal", budget="50%", chain=chain) as applied:
        used, gap = applied.notes
    none = predict(chain.profile, plain(len(chain))).peak_bytes
    peak = predict(chain.profile, applied.schedule).peak_bytes
    assert used.startswith(f"budget {none // 2:,} bytes; predicted peak {peak:,} bytes")
    assert gap.startswith("no nested plan is faster by more than ")


# How it is asked for.


def test_an_example_is_asked_for():
    with pytest.raises(ValueError, match=r"strategies\.apply\(model, 'auto', example=batch\)"):
        strategies.apply(CASES["gpt"].model(), "auto")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(8, 64), nn.Linear(64, 8), nn.Dropout(0.5)

    def forward(self, x):
        return self.down(self.drop(torch.nn.functional.gelu(self.up(x))))


class Stack(nn.Module):
    """Blocks with much to keep, and a loss of its own if asked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(6))

    def forward(self, x, scale=1.0, labels=None):
        for block in self.blocks:
            x = x + block(x)
        x = x * scale
        return x if labels is None else {"loss": (x - labels).square().mean(), "out": x}


BATCH = torch.ones(256, 8)


@pytest.mark.parametrize(
    "example",
    [BATCH, (BATCH,), [BATCH, 2.0], {"x": BATCH, "labels": BATCH}],
    ids=["tensor", "tuple", "list", "mapping"],
)
def test_any_kind_of_example(example):
    model = Stack()
    applied = strategies.apply(model, "auto", budget="60%", example=example)
    assert any(isinstance(node, tuple) for node in applied.plan)
    assert_same(step(model, BATCH), step(Stack(), BATCH))


def test_a_loss_of_ones_own():
    seen = []

    def loss(output):
        seen.append(output.shape)
        return output.square().mean()

    strategies.apply(Stack(), "auto", budget="60%", example=BATCH, loss=loss)
    assert set(seen) == {BATCH.shape}


def test_an_output_without_a_gradient_is_refused():
    model = Stack().requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="holds no tensor with a gradient"):
        strategies.apply(model, "auto", example=BATCH)


def test_profiling_leaves_no_trace():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(4)))
    model(BATCH).sum().backward()
    gradients_before = [p.grad for p in model.parameters()]
    values = [tensor.clone() for tensor in (*gradients_before, *model.buffers())]
    seed(5)
    state = torch.get_rng_state()
    strategies.apply(model, "auto", budget="100%", example=BATCH)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients_before, strict=True))
    after = (*gradients_before, *model.buffers())
    assert all(torch.equal(one, other) for one, other in zip(values, after, strict=True))


def test_the_optimizers_state_counts():
    model = Stack()
    optimizer = torch.optim.Adam(model.parameters())
    model(BATCH).sum().backward()
    optimizer.step()
    plainly, counted = (
        sum(t.nbytes for t in ExampleStep(model, BATCH, optimizer=o).resident_tensors())
        for o in (None, optimizer)
    )
    parameters = sum(p.nbytes for p in model.parameters())
    assert counted - plainly == 2 * parameters + 4 * len(list(model.parameters()))


def test_the_optimizers_state_leaves_less_for_the_rest():
    model = Stack()
    optimizer = torch.optim.Adam(model.parameters())
    model(BATCH).sum().backward()
    optimizer.step()
    peaks = []
    for given in (None, optimizer):
        with strategies.apply(model, "auto", example=BATCH, optimizer=given) as applied:
            peaks.append(applied.chain.profile.resident_bytes)
    assert peaks[1] - peaks[0] > 2 * sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("budget", few(["45%", "60%", "85%"]))
def test_auto_is_the_faster_of_optimal_and_selective_ops(budget):
    made = profiled("gpt-mini")[0]
    chain = strategies.profiled(made.model, "auto", made, blocks=made.workload.blocks)
    steps = {}
    for name in ("auto", "optimal", "selective_ops"):
        with strategies.apply(made.model, name, budget=budget, chain=chain) as applied:
            steps[name] = predict(chain.profile, applied.schedule).step_s
            assert measured_peak_bytes(made) <= budgets_of(applied)
    assert steps["auto"] == min(steps["optimal"], steps["selective_ops"])


def budgets_of(applied):
    return budget.resolve(applied.strategy.budget, applied.chain.profile)


def test_a_record_says_what_the_budget_led_to():
    found = tiny.measure("gpt-mini", "optimal(budget='60%')", SIZES["gpt-mini"])
    assert found.status == "ok"
    assert found.grads_bitwise_equal
    assert found.peak_allocated_bytes == pytest.approx(found.predicted_peak_bytes, rel=1e-3)
    assert found.recompute_flops == found.predicted_recompute_flops
    assert found.notes[0].startswith("budget ")
    assert "[" in found.plan
