"""The plan interpreter against the executor: random plans, modes and policies, to the byte."""

import dataclasses
import functools
import random

import pytest
import tiny
from effort import examples, few
from hypothesis import given
from hypothesis import strategies as st
from nested import random_profile
from test_modes import BLOCK
from test_operators import some_policy, without_random_states

from bench.measure.forwards import count_forwards
from strategies.execution import block_modes, layout
from strategies.execution.undo import undo_all
from strategies.profiling.flops import count_flops
from strategies.profiling.profiler import profile_chain
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import ALL, Schedule

WORKLOADS = ("gpt-mini", "gpt-mini-dropout", "llama-mini", "vit-mini")
SIZES = {"dim": 32, "layers": 5}
LONG = {"seq": 64, "batch": 4}  # so that the peak is in the blocks


@functools.cache
def profiled(workload):
    options = SIZES | (LONG if "vit" not in workload else {"image": 32, "batch": 4})
    made = tiny.step(workload, **options)
    profile = profile_chain(made, tiny.chain_of(made), modes=block_modes.MODES, operators=True)
    return made, without_random_states(profile)


def random_nodes(rng, begin, end, depth=0):
    """Blocks begin … end − 1, some of them in groups, some of these in groups again."""
    nodes = []
    while begin < end:
        if depth < 3 and rng.random() < 0.5:
            stop = rng.randint(begin + 1, end)
            nodes.append(tuple(random_nodes(rng, begin, stop, depth + 1)))
            begin = stop
        else:
            nodes.append(begin)
            begin += 1
    return nodes


def random_schedule(seed, profile):
    rng = random.Random(seed)
    plan = tuple(random_nodes(rng, 0, len(profile.blocks)))
    return Schedule(plan, tuple(mode_of(rng, plan, i, b) for i, b in enumerate(profile.blocks)))


def mode_of(rng, plan, index, block):
    """One that the block was profiled in, or a policy worked out from its operators."""
    if index not in plan:
        return ALL
    names = [mode.name for mode in block.modes]
    return rng.choice([*names, some_policy(rng, block.operators, rng.random())])


@pytest.mark.parametrize("workload", few(WORKLOADS, 2))
@examples(25)
@given(seed=st.integers(0, 10**9))
def test_bytes_flops_and_counts_are_those_of_the_step(workload, seed):
    made, profile = profiled(workload)
    chain, schedule = tiny.chain_of(made), random_schedule(seed, profile)
    undos = block_modes.install(chain, dict(enumerate(schedule.modes)))
    undos += layout.install(chain, schedule.plan)
    try:
        ledger = tiny.watch(made)
        flops = count_flops(made.forward, made.backward)
    finally:
        undo_all(undos)
    predicted = predict(profile, schedule)
    note = schedule.render()
    assert predicted.peak_bytes == ledger.peak_bytes(), note
    assert predicted.saved_bytes == tiny.saved_bytes(ledger), note
    assert predicted.recompute_flops == flops.recompute_flops, note


@pytest.mark.parametrize("workload", few(WORKLOADS, 2))
@examples(8)
@given(seed=st.integers(0, 10**9))
def test_blocks_are_entered_as_often_as_predicted(workload, seed):
    made, profile = profiled(workload)
    chain = tiny.chain_of(made)
    plan = tuple(random_nodes(random.Random(seed), 0, len(chain)))
    with count_forwards(chain.blocks) as counts, tiny.under(made, plans.render(plan)):
        made.backward(made.forward())
    made.drop_gradients()
    assert tuple(counts) == predict(profile, plan).block_forwards


# By hand.


def test_an_update_can_be_the_peak():
    profile = dataclasses.replace(random_profile(1, 3), update_working_bytes=10_000)
    gradients_bytes = profile.tail_gradient_bytes + sum(b.gradient_bytes for b in profile.blocks)
    predicted = predict(profile, plans.plain(3))
    assert predicted.peak_phase == "update"
    assert predicted.peak_bytes == profile.resident_bytes + gradients_bytes + 10_000


def test_compute_waits_for_a_slow_link():
    """Each boundary takes 10 s each way beside 1 s of forward, and 1 + 1 s of what follows it."""
    profile = random_profile(1, 2)
    seconds = {"forward_s": 1.0, "backward_s": 1.0, "last_recompute_s": 1.0}
    blocks = tuple(dataclasses.replace(b, output_bytes=10, **seconds) for b in profile.blocks)
    profile = dataclasses.replace(profile, blocks=blocks, input_bytes=10, link_bytes_per_s=1.0)
    predicted = predict(profile, Schedule(((0,), (1,)), (), frozenset({0, 1})))
    forward_s, backward_s = (10 - 1) + (10 - 1), 10 + (10 - 2)
    assert predicted.stall_s == forward_s + backward_s
    assert predicted.link_bytes == 4 * 10


def test_compute_waits_for_kept_outputs():
    """Each parcel takes 10 s each way beside 1 s of forward, and 8.5 + 1 s of backward."""
    profile = random_profile(1, 2)
    blocks = tuple(
        dataclasses.replace(b, operators=BLOCK, forward_s=1.0, backward_s=1.0)
        for b in profile.blocks
    )
    profile = dataclasses.replace(profile, blocks=blocks, link_bytes_per_s=10.0)
    predicted = predict(profile, Schedule.parse("0:keep(0@host) 1:keep(0@host)"))
    forward_s, backward_s = (10 - 1) + 10, 10 + (10 - 8.5 - 1)
    assert predicted.stall_s == forward_s + backward_s
    assert predicted.link_bytes == 4 * 100
    kept = predict(profile, Schedule.parse("0:keep(0) 1:keep(0)"))
    assert kept.after_forward_bytes == predicted.after_forward_bytes + 2 * 100
    assert kept.recompute_s == predicted.recompute_s
