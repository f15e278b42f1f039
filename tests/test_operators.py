"""Operators of blocks: what they say of a policy is what a step under that policy does."""

import dataclasses
import functools
import random

import pytest
import tiny
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.measure import gradients
from bench.simulate import semantics
from strategies.execution import block_modes
from strategies.execution.undo import undo_all
from strategies.profiling.profiler import profile_chain
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import BlockOperators, Moment, Operator, keep
from strategies.schedules.schedule import Schedule

WORKLOADS = ("gpt-mini", "gpt-mini-dropout", "llama-mini", "vit-mini", "resnet-mini", "mlp-chain")
SIZES = {"gpt-mini": {"seq": 64, "batch": 4}, "llama-mini": {"seq": 64, "batch": 4}}
SHARES = (0.2, 0.5, 0.9)


@functools.cache
def profiled(workload):
    made = tiny.step(workload, **SIZES.get(workload, {}))
    return made, profile_chain(made, tiny.chain_of(made), operators=True)


def without_random_states(profile):
    """The ledger sees none."""
    own_bytes = profile.group_bytes
    blocks = tuple(
        dataclasses.replace(
            block,
            operators=dataclasses.replace(block.operators, checkpoint_bytes=0),
            modes=(block.modes[0], *(without_state(m, own_bytes) for m in block.modes[1:])),
        )
        for block in profile.blocks
    )
    return dataclasses.replace(profile, blocks=blocks, group_bytes=0)


def without_state(mode, own_bytes):
    return dataclasses.replace(mode, saved_bytes=mode.saved_bytes - own_bytes)


def some_policy(rng, operators, share):
    """A random set of outputs that can be kept together."""
    while True:
        numbers = [i for i, op in enumerate(operators.operators) if op.keepable]
        kept = frozenset(i for i in numbers if rng.random() < share)
        if kept and operators.valid(kept):
            return keep(kept)


def policies_of(profile, rng, share):
    return {i: some_policy(rng, block.operators, share) for i, block in enumerate(profile.blocks)}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_policy_worked_out_is_the_policy_watched(workload):
    made, profile = profiled(workload)
    assigned = [policies_of(profile, random.Random(f"{workload}{s}"), s) for s in SHARES]
    watched = profile_chain(made, tiny.chain_of(made), assigned=assigned)
    for names in assigned:
        for index, name in names.items():
            assert profile.blocks[index].mode(name) == watched.blocks[index].mode(name)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_step_under_policies_peaks_as_predicted_with_the_same_gradient(workload, share):
    made, profile = profiled(workload)
    chain = tiny.chain_of(made)
    names = policies_of(profile, random.Random(share), share)
    reference = gradients.run(made, 0)
    undos = block_modes.install(chain, names)
    ledger = tiny.watch(made)
    same = gradients.compare(reference, gradients.run(made, 0))
    undo_all(undos)
    profile = without_random_states(profile)
    predicted = predict(profile, Schedule(tuple(range(len(chain))), tuple(names.values())))
    assert predicted.peak_bytes == ledger.peak_bytes()
    assert predicted.saved_bytes == tiny.saved_bytes(ledger)
    assert same.bitwise_equal
    assert not same.missing


@pytest.mark.long
def test_simulated_operators_are_those_of_the_device():
    """Fused dropout draws its own numbers and is one operator; it can be kept."""
    with FakeTensorMode(), semantics.cuda():
        made = tiny.step("gpt-mini-dropout")
        profile = profile_chain(made, tiny.chain_of(made), operators=True)
    found = profile.blocks[0].operators
    assert any(op.random and op.keepable for op in found.operators)
    name = some_policy(random.Random(0), found, 0.5)
    with FakeTensorMode(), semantics.cuda():
        made = tiny.step("gpt-mini-dropout")
        watched = profile_chain(made, tiny.chain_of(made), assigned=[{0: name}])
    assert watched.blocks[0].mode(name) == profile.blocks[0].mode(name)


def test_equal_blocks_have_equal_operators():
    profile = profiled("gpt-mini")[1]
    assert len({block.operators for block in profile.blocks}) == 1


# By hand: two products of 10 bytes with a random operator between them.

S = 10**12
HAND = BlockOperators(
    operators=(
        Operator("mm", 10, 3 * S, 300, keepable=True, random=False),
        Operator("view", 0, 0, 0, keepable=False, random=False),
        Operator("native_dropout", 20, S, 0, keepable=True, random=True),
        Operator("native_dropout", 5, S // 2, 0, keepable=True, random=True),
        Operator("mm", 10, 4 * S, 400, keepable=True, random=False),
    ),
    forward=(Moment(30, ((0, 10),)), Moment(12, ((0, 10), (2, 20), (3, 5)))),
    backward=(
        Moment(0, ((0, 10), (2, 20), (3, 5), (4, 10))),
        Moment(40, ((4, 10),)),
        Moment(50, ()),
    ),
    checkpoint_bytes=7,
    backward_flops=2000,
)


def test_a_mode_by_hand():
    mode = HAND.mode("keep(0,4)")
    assert mode.saved_bytes == 10 + 10 + 7
    assert mode.keeps_input
    assert not mode.keeps_output
    assert mode.forward_working_bytes == max(30 + 10, 12 + 10)
    assert mode.backward_working_bytes == max(20, 40 + 10, 50) - 20
    assert mode.recompute_s == 1.5
    assert mode.recompute_flops == 0
    assert mode.backward_flops == 2000 - 700
    assert HAND.recompute_s == 8.5


@pytest.mark.parametrize(
    ("kept", "valid"),
    [
        ({0, 4}, True),
        ({1}, False),  # a view
        ({2}, False),  # 3 would draw other numbers
        ({3}, True),
        ({2, 3}, True),
        ({9}, False),
        (set(), True),
    ],
)
def test_what_can_be_kept_together(kept, valid):
    assert HAND.valid(frozenset(kept)) == valid


def test_a_measured_recompute_is_shared_out():
    measured = HAND.lasting(17.0)
    assert measured.recompute_s == 17.0
    assert [op.time_ps for op in measured.operators] == [6 * S, 0, 2 * S, S, 8 * S]
    assert measured.mode("keep(0,4)").recompute_s == 3.0
    assert measured.mode("keep(0,4)").saved_bytes == HAND.mode("keep(0,4)").saved_bytes
