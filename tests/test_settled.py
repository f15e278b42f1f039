"""`auto` measures before it settles: which plan is the fastest, and whether its peak is kept."""

import dataclasses
import gc
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import strategies
from strategies import Unsupported
from strategies.auto import Auto
from strategies.contract import settled
from strategies.contract.strategy import Planned
from strategies.profiling import trial
from strategies.profiling.ledger import Ledger, unique_bytes
from strategies.profiling.step import ExampleStep
from strategies.schedules import plan
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import kept_by
from strategies.schedules.schedule import Schedule

WIDTH, ROWS, BLOCKS = 24, 512, 6


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.drop = nn.BatchNorm1d(WIDTH), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.down(torch.tanh(self.up(self.norm(x)))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x):
        random.random()
        np.random.random()
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def case():
    torch.manual_seed(0)
    return Model(), torch.randn(ROWS, WIDTH)


def chain_of(model, batch, change=None):
    """The chain, its profile changed."""
    chain = strategies.profiled(model, "auto", ExampleStep(model, batch))
    return dataclasses.replace(chain, profile=change(chain.profile)) if change else chain


def too_low(profile):
    """What every block saves, and needs to be run again, is believed to be less."""
    blocks = tuple(
        dataclasses.replace(
            block,
            recompute_working_bytes=block.recompute_working_bytes // 2,
            modes=tuple(
                dataclasses.replace(mode, saved_bytes=mode.saved_bytes * 2 // 3)
                for mode in block.modes
            ),
        )
        for block in profile.blocks
    )
    return dataclasses.replace(profile, blocks=blocks)


def answers(**options):
    return strategies.get("auto", **options)


def decided(case, monkeypatch, times):
    model, batch = case
    monkeypatch.setattr(trial, "seconds", lambda *_, **__: times)
    with strategies.apply(model, "auto", budget="60%", example=batch) as applied:
        return applied


# Which is the fastest.


@pytest.mark.parametrize(
    ("expected", "times", "chosen"),
    [
        ([1.0, 1.0], [[1.0, 1.0], [0.5, 0.9]], 1),
        ([1.0, 1.0], [[1.0, 1.0], [1.0, 1.0]], 0),
        ([1.0, 0.95], [[1.0, 1.0], [1.01, 1.01]], 1),  # by less than the clock is off
        ([1.0, 0.95], [[1.0, 1.0], [1.06, 1.06]], 0),
        ([1.0, 0.6], [[1.0], [1.2]], 0),  # by more only a profile is off
        ([1.0, 1.0, 1.0], [[3.0], [2.0], [1.0]], 2),
    ],
)
def test_the_profile_counts_as_a_round(expected, times, chosen):
    assert trial.fastest(times, expected) == chosen


def test_what_dispatches_operators_is_taken_only_if_it_is_measured_to_be_faster(case, monkeypatch):
    even = decided(case, monkeypatch, [[1.0, 1.0], [1.0, 1.0]])
    assert set(even.schedule.modes) <= {"all"}
    slow = decided(case, monkeypatch, [[1.0, 1.0], [2.0, 2.0]])
    fast = decided(case, monkeypatch, [[1.0, 1.0], [0.5, 0.5]])
    assert set(slow.schedule.modes) <= {"all"}
    assert any(map(kept_by, fast.schedule.modes))
    assert "the plan of chosen operators takes 2.00 ×" in " ".join(slow.notes)
    assert "in which no operators are chosen takes 2.00 ×" in " ".join(fast.notes)


def test_a_plan_that_comes_twice_is_the_simplest_still(case, monkeypatch):
    """As from a solver of links, where nothing crosses: chosen operators were not timed then."""
    monkeypatch.setattr(Auto, "_beside_compute", lambda *given: [given[-1][0]])
    applied = decided(case, monkeypatch, [[1.0, 1.0], [2.0, 2.0]])
    assert set(applied.schedule.modes) <= {"all"}
    assert "the plan of chosen operators takes 2.00 ×" in " ".join(applied.notes)


PLAIN, KEEPING = "in which no operators are chosen", "plan of chosen operators"


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([[1.0], [1.5], [1.25]], "the best of 2 plans of chosen operators takes 1.25 ×"),
        (
            [[1.5], [1.0], [1.25]],
            f"the plan {PLAIN} takes 1.50 × and another {KEEPING} takes 1.25 ×",
        ),
    ],
)
def test_two_plans_of_one_kind_are_told_apart(times, told):
    plain = Schedule(plan.plain(BLOCKS))
    kept = [Schedule(plain.plan, (f"keep({n})",) * BLOCKS) for n in (0, 1)]
    contenders = [Planned(one) for one in (plain, *kept)]
    chosen = contenders[times.index([1.0])]
    note = settled._timed(contenders, times, chosen)
    assert note == f"timed on the example, in 1 rounds: {told}"


def test_a_plan_that_should_be_the_fastest_anyway_is_not_timed(case, monkeypatch):
    monkeypatch.setattr(trial, "seconds", lambda *_, **__: pytest.fail("timed"))
    model, batch = case
    with strategies.apply(model, "auto", budget="110%", example=batch) as applied:
        assert applied.schedule.render() == "0 1 2 3 4 5"


def test_contenders_take_turns_until_it_is_clear(case, monkeypatch):
    model, batch = case
    order = []
    clock = iter([1.05, 1.0, 1.0])
    monkeypatch.setattr(trial, "_time", lambda _: next(clock))
    installs = [lambda name=name: order.append(name) or [] for name in "ab"]
    step = ExampleStep(model, batch)
    # Whoever was last in the first round is the first of the second, by the same step.
    assert trial.seconds(step, installs, [1.0, 1.0], rounds=2) == [[1.0, 1.0], [1.05, 1.0]]
    assert order == ["a", "b", "a", "b"]  # one that is not timed, and two rounds
    for times in ([1.0, 2.0], [2.0, 1.0], [1.0, 1.2]):  # it is clear
        clock = iter(times[::-1])
        assert trial.seconds(step, installs, [1.0, 1.0], rounds=2) == [[one] for one in times]


@pytest.mark.parametrize(
    ("simplest_s", "other_s", "contenders"),
    [(1.0, 0.99, 0), (1.0, 0.98, 2), (0.01, 0.0099, 2), (0.01, 0.01, 0)],
)
def test_a_long_step_is_not_run_for_a_small_gain(monkeypatch, simplest_s, other_s, contenders):
    times, timed = {"0 1": simplest_s, "[0] 1": other_s}, []
    monkeypatch.setattr(settled, "_predicted_s", lambda one: times[one.schedule.render()])
    monkeypatch.setattr(settled._Settling, "_install", lambda *_: list)

    def seconds(step, installs, expected_s, **options):
        timed.extend(installs)
        return [[1.0]] * len(installs)

    monkeypatch.setattr(trial, "seconds", seconds)
    settling = settled._Settling(None, None, None, None, False)
    settling.fastest([Planned(Schedule.parse(text)) for text in times])
    assert len(timed) == contenders


@pytest.mark.parametrize("frozen", [False, True])
def test_objects_are_frozen_while_the_clock_runs_alone(case, monkeypatch, frozen):
    monkeypatch.setattr(gc, "get_freeze_count", lambda: int(frozen))
    calls = []
    for name in ("freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, lambda name=name: calls.append(name))
    timed(case, monkeypatch, iter([1.0, 2.0]))
    assert calls == ([] if frozen else ["freeze", "unfreeze"])


def timed(case, monkeypatch, clock, contenders=2):
    """What is timed of contenders of whom the profile expects the same."""
    monkeypatch.setattr(trial, "_time", lambda _: next(clock))
    step, installs = ExampleStep(*case), [list] * contenders
    return trial.seconds(step, installs, [1.0] * contenders)


def test_short_steps_take_turns_for_longer(case, monkeypatch):
    """Whatever else runs may take as long as one of them does."""
    times = timed(case, monkeypatch, itertools.repeat(0.001))
    assert list(map(len, times)) == [trial.SHORT_ROUNDS[-1]] * 2
    times = timed(case, monkeypatch, itertools.repeat(0.1))  # the fifth spends what may be spent
    assert list(map(len, times)) == [5, 5]
    times = timed(case, monkeypatch, itertools.cycle([0.002, 0.001, 0.001, 0.002]))  # it is clear
    assert times == [[0.001] * 5, [0.002] * 5]


def test_disturbed_rounds_decide_nothing_of_short_steps(case, monkeypatch):
    """The first is disturbed twice, by much; it is faster by a tenth in all other rounds."""
    rounds = [[0.01, 0.011], [0.05, 0.011], [0.01, 0.011], [0.03, 0.011], [0.01, 0.011]]
    clock = iter([t for n, pair in enumerate(rounds) for t in (pair if n % 2 else pair[::-1])])
    times = timed(case, monkeypatch, itertools.chain(clock, itertools.repeat(1.0)))
    assert trial.fastest(times, [1.0, 1.0]) == 0


@pytest.mark.parametrize(
    ("clock", "times", "chosen"),
    [
        # The simplest is the last of the first round, and so the first of the second.
        ([2.0, 1.01, 1.0, 1.03], [[1.0, 1.0], [2.0], [1.01, 1.03]], 0),
        ([1.0, 1.01, 2.0, 1.0, 1.03], [[2.0], [1.0, 1.03], [1.01, 1.0]], 2),
        ([1.01, 1.02, 1.0, 1.2], [[1.0, 1.0], [1.01, 1.2], [1.02]], 0),
        # Whoever left is not taken, whatever the others do then.
        ([1.0, 1.01, 1.02, 1.2, 1.2], [[1.02], [1.0, 1.2], [1.01, 1.2]], 1),
    ],
)
def test_two_at_most_go_on(case, monkeypatch, clock, times, chosen):
    seconds = iter(clock)
    monkeypatch.setattr(trial, "_time", lambda _: next(seconds))
    installs, expected = [list] * 3, [1.0] * 3
    assert trial.seconds(ExampleStep(*case), installs, expected, rounds=2) == times
    assert next(seconds, None) is None
    assert trial.fastest(times, expected) == chosen


def test_no_step_runs_but_for_the_clock_the_peak_and_the_notes(case, monkeypatch):
    """One to warm up, whose peak is read; the timed ones; and a fake forward, for the notes."""
    model, batch = case
    chain = chain_of(model, batch)
    calls, timed = [], []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(type(inputs[0])))
    # The simplest is the last of the first round, and the fastest.
    monkeypatch.setattr(trial, "_time", lambda _: timed.append(1) or 9.0 - len(timed))
    with strategies.apply(model, "auto", budget="60%", example=batch, chain=chain):
        begun, watched = [torch.Tensor], [torch.Tensor]  # what the loop holds, and the first step
        assert calls == [*begun, *watched, FakeTensor]
    assert len(timed) in (2, 3)  # a round of two plans or of three


@pytest.mark.parametrize("dispatches", [False, True])
def test_the_peak_of_the_simplest_is_read_before_the_clock_runs(case, monkeypatch, dispatches):
    """Of another that wins, in a step of its own."""
    model, batch = case
    chain, peaks, peak_of = chain_of(model, batch), [], trial.passing_peak_bytes
    monkeypatch.setattr(trial, "fastest", lambda *_: int(dispatches))
    monkeypatch.setattr(
        trial, "passing_peak_bytes", lambda *given: peaks.append(peak_of(*given)) or peaks[-1]
    )
    with strategies.apply(model, "auto", budget="60%", example=batch, chain=chain) as applied:
        assert any(map(kept_by, applied.schedule.modes)) == dispatches
    assert len(peaks) == 1 + dispatches
    assert any(f"a peak of {peaks[-1]:,} bytes" in note for note in applied.notes)


# Whether the budget is kept.


def measured_bytes(model, batch):
    """The second step's peak, by tensors alone."""
    ledger, out = Ledger(), None
    for number in range(2):
        model.zero_grad(set_to_none=True)
        if number:
            ledger.adopt([*model.parameters(), *model.buffers(), batch, out])
        with ledger if number else torch.enable_grad():
            out = model(batch)
            out.sum().backward()
    return ledger.peak_bytes()


def test_a_first_step_is_measured_as_a_second_one(case):
    """The output that the loop holds was there before the trace, which sees it go all the same."""
    model, batch = case
    step = ExampleStep(model, batch)
    profile = chain_of(model, batch).profile
    step.backward(step.forward())
    first = trial.peak_bytes(step, profile)
    assert step.output
    assert first == trial.peak_bytes(step, profile)


@pytest.mark.long
def test_planning_a_small_gpt_takes_little_memory():
    """Of the whole process, Python and torch included; a compiler would take 100 MB.

    Pages of libraries' files are not counted: the system decides how many it maps around each that
    is read, 95 to 195 MB of the same files, most where they have just been installed.
    """
    code = """
import sys
from torch.nn.functional import cross_entropy
import strategies
from bench.measure.memory import resident_peak_bytes
from bench.workloads import get
shape = get("gpt-mini")
ids, targets = shape.make_batch()
loss = lambda out: cross_entropy(out.flatten(0, 1), targets.flatten())
strategies.apply(shape.model(), "auto", budget="50%", example=ids, loss=loss)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
files_bytes = int(status["RssFile"].split()[0]) * 1024
print(resident_peak_bytes() - files_bytes, "numba" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size_bytes, compiles = done.stdout.split()
    assert int(size_bytes) < 540_000_000
    assert compiles == "False"


def test_a_prediction_that_is_too_low_is_found_out(case):
    model, batch = case
    chain = chain_of(model, batch, too_low)
    budget = {"budget": "75%", "example": batch, "chain": chain}
    with strategies.apply(model, "auto", verify=False, **budget) as believed:
        believed_bytes = measured_bytes(model, batch)
    budget_bytes = int(0.75 * plain_bytes(chain))
    assert believed_bytes > budget_bytes >= believed.prediction.peak_bytes
    with strategies.apply(model, "auto", **budget) as applied:
        assert measured_bytes(model, batch) <= budget_bytes
        assert applied.schedule != believed.schedule
    assert any(note.startswith("measured on the example: a peak of") for note in applied.notes)


def plain_bytes(chain):
    return predict(chain.profile, tuple(range(BLOCKS))).peak_bytes


def test_what_no_plan_keeps_is_refused_with_what_was_measured(case):
    model, batch = case
    chain = chain_of(model, batch, too_low)
    smallest_bytes = answers().smallest_bytes(chain.profile)
    with pytest.raises(Unsupported, match=r"takes [\d,]+ bytes, as measured, of a budget of"):
        strategies.apply(model, "auto", budget=smallest_bytes, chain=chain, example=batch)
    assert not hasattr(model, "ckpt_applied")


def test_the_peak_that_is_measured_is_that_of_the_usual_loop(case):
    model, batch = case
    with strategies.apply(model, "auto", budget="70%", example=batch) as applied:
        step = ExampleStep(model, batch)
        peak_bytes = trial.peak_bytes(step, applied.chain.profile)
        more_bytes = peak_bytes - measured_bytes(model, batch)
    assert 0 <= more_bytes <= 0.05 * peak_bytes  # random states, and kernels' scratch memory


# What is left behind.


def test_nothing_of_the_model_or_of_the_generators_changes(case):
    model, batch = case
    model(batch).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    strategies.apply(model, "auto", budget="60%", example=batch).undo()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for parameter, (gradient, value) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert unique_bytes(model.parameters()) > 0


@pytest.mark.parametrize("way", ["verify=False", "on fake tensors", "optimal"])
def test_nothing_is_measured(case, way, monkeypatch):
    for name in ("seconds", "peak_bytes"):
        monkeypatch.setattr(trial, name, lambda *_, **__: pytest.fail("measured"))
    model, batch = case
    options = {"example": batch, "budget": "60%"}
    if way == "on fake tensors":
        options["chain"] = chain_of(model, batch, lambda p: dataclasses.replace(p, faked=True))
    spec = {"verify=False": "auto(verify=False)", "optimal": "optimal"}.get(way, "auto")
    strategies.apply(model, spec, **options).undo()
