"""Autocast's copies of weights live until it ends, whatever a plan keeps: predicted to the byte."""

import dataclasses
import functools

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import strategies
from bench.architectures.decoders import DECODERS
from strategies.execution import layout
from strategies.execution.undo import installed
from strategies.profiling.autocast import Autocast
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import ExampleStep
from strategies.schedules import plan
from strategies.schedules.abstract_machine import Machine
from strategies.schedules.profile import Casts
from strategies.solvers import optimal, selective_ops

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:transformers")
    for kind in ("DeprecationWarning", "FutureWarning")
]
BF16 = Autocast((("cpu", torch.bfloat16),))
WIDTH, ROWS = 16, 4
PLANS = (
    "0 1 2 3 4 5",
    "[0] 1 [2] 3 4 5",
    "[0 1] [2 3] [4 5]",
    "[0 1 2 3 4 5]",
    "[[0 1] 2 3] 4 5",
    "[0 [1 2] 3] 4 5",
    "[[0 1 2] 3] [[4] 5]",
)


def gpt():
    made = tiny.step("gpt-mini", dim=32, seq=8)
    ids, labels = made.batch
    return made.model, ids, lambda out: F.cross_entropy(out.flatten(0, 1), labels.flatten())


def foreign(name):
    pytest.importorskip("transformers")
    model, batch = DECODERS[name].build()
    model.config.use_cache = False
    return model, {key: value for key, value in batch.items() if key != "attention_mask"}, None


class Inside(nn.Module):
    """Casts by itself, and no longer where it computes its loss."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(6))
        )
        self.out = nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.blocks(x)
        return self.out(x.float()).square().mean()


def inside():
    return Inside(), torch.randn(ROWS, WIDTH), None


MODELS = {
    "gpt": gpt,
    "llama": functools.partial(foreign, "llama"),
    "gpt_neox": functools.partial(foreign, "gpt_neox"),
    "inside": inside,
}


@functools.cache
def known(name, caches=True):
    """A step with gradients that are there already, its chain and profile."""
    torch.manual_seed(0)
    model, example, loss = MODELS[name]()
    cast = dataclasses.replace(BF16, caches=caches) if name != "inside" else Autocast()
    step = ExampleStep(model, example, loss, accumulation=True, autocast=cast)
    step.drop_gradients()
    step.forward()
    step.renew_output()
    chain = strategies.find_chain(model)
    profile = profile_chain(step, chain, operators=True)
    return step, chain, dataclasses.replace(profile, group_bytes=0)  # no tensors of operators


def watched(step, chain, nodes):
    """The peak of forward, what is alive after it, and the peak of backward."""
    step.renew_output()
    with installed(lambda: layout.install(chain, nodes)):
        ledger = tiny.watch(step)
    start, forward, end = ledger.marks
    return ledger.peak_bytes(start, forward), forward.alive_bytes, ledger.peak_bytes(forward, end)


def predicted(profile, nodes):
    """The same."""
    boundaries = [profile.boundary_bytes(index) for index in range(len(profile.blocks))]
    machine = Machine(profile, boundaries, profile.schedule(nodes))
    machine.forward(nodes)
    first_bytes, machine.peak_bytes = machine.peak_bytes, 0
    after_bytes = machine.alive_bytes
    machine.backward(nodes)
    return first_bytes, after_bytes, machine.peak_bytes


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_under_autocast_is_predicted_to_the_byte(name, text):
    step, chain, profile = known(name)
    nodes = plan.parse(text)
    assert predicted(profile, nodes) == watched(step, chain, nodes)


def test_copies_that_nobody_holds_are_not_counted():
    step, chain, profile = known("gpt", caches=False)
    assert {block.casts for block in profile.blocks} == {Casts()}
    for text in PLANS:
        nodes = plan.parse(text)
        assert predicted(profile, nodes) == watched(step, chain, nodes)


def test_copies_are_of_weights_and_biases_in_half():
    _, _, profile = known("inside")
    assert {block.casts for block in profile.blocks[1:-1]} == {
        Casts(saved_bytes=2 * WIDTH * WIDTH, other_bytes=2 * WIDTH, until=6)
    }
    assert profile.blocks[0].casts == Casts(other_bytes=2 * WIDTH * (WIDTH + 1), until=6)
    assert profile.blocks[-1].casts == Casts()  # it ends there


def test_operators_are_chosen_with_the_copies_in_mind():
    """What does not know of them finds schedules that do not fit, and tries with ever less room."""
    _, _, profile = known("gpt")
    states_bytes = profile.blocks[0].operators.checkpoint_bytes
    profile = dataclasses.replace(profile, group_bytes=states_bytes)
    least_bytes = selective_ops.smallest_bytes(profile)
    plain_bytes = max(predicted(profile, plan.plain(6)))
    for budget_bytes in range(least_bytes, plain_bytes, (plain_bytes - least_bytes) // 4):
        programme = selective_ops.Programme(profile, budget_bytes, selective_ops.GAP)
        schedule, _ = programme.solved()
        boundaries = list(map(profile.boundary_bytes, range(6)))
        machine = Machine(profile, boundaries, schedule)
        machine.forward(schedule.plan)
        assert machine.peak_bytes <= budget_bytes


def test_the_smallest_budget_is_kept():
    step, chain, profile = known("gpt")
    budget_bytes = optimal.smallest_bytes(profile)
    nodes = optimal.solve(profile, budget_bytes).schedule.plan
    assert max(watched(step, chain, nodes)) == budget_bytes
