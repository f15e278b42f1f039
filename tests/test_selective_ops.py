"""The 0/1 programme over operators against every choice, one by one; and the strategy."""

import dataclasses
import itertools
import random

import pytest
import tiny
from effort import examples, few
from hypothesis import given
from hypothesis import strategies as st
from nested import random_profile, with_copies
from shared_tensors import sharing
from test_budget import SIZES, measured_peak_bytes

import strategies
from bench.measure import gradients
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import BlockOperators, Moment, Operator, keep
from strategies.schedules.schedule import ALL, Schedule
from strategies.solvers import highs, optimal, selective_ops


def random_operators(rng, group_bytes):
    """A few operators; moments as a forward and a backward in order would have them."""
    found = [
        Operator(
            name=f"op{i}",
            output_bytes=rng.randint(1, 20),
            time_ps=rng.randint(0, 9) * 10**12,
            flops=0,
            keepable=rng.random() < 0.7,
            random=rng.random() < 0.3,
        )
        for i in range(rng.randint(1, 4))
    ]
    sizes = [(i, op.output_bytes) for i, op in enumerate(found) if op.keepable]
    forward = [Moment(rng.randint(0, 40), tuple(sizes[:i])) for i in range(len(sizes) + 1)]
    backward = [Moment(rng.randint(0, 60), tuple(sizes[i:])) for i in range(len(sizes) + 1)]
    return BlockOperators(tuple(found), tuple(forward), tuple(backward), group_bytes, 0)


def random_block(rng, block, group_bytes):
    operators = random_operators(rng, group_bytes)
    recompute_bytes = max(m.alive_bytes for m in operators.backward)
    return dataclasses.replace(
        block,
        operators=operators,
        unsaved_working_bytes=max(m.alive_bytes for m in operators.forward),
        recompute_working_bytes=recompute_bytes,
        again_working_bytes=2 * recompute_bytes // 3,  # a part of it, as of every block
        last_recompute_s=operators.recompute_s,
    )


def with_operators(seed, blocks, group_bytes=0):
    rng = random.Random(seed)
    profile = random_profile(seed, blocks, group_bytes=group_bytes)
    found = tuple(random_block(rng, block, group_bytes) for block in profile.blocks)
    return dataclasses.replace(profile, blocks=found)


def with_shared(seed, blocks):
    """Beside the chain, too, there are tensors."""
    return sharing(with_operators(seed, blocks), seed)


def choices(block, index):
    """Every way to run one block: whole, under a checkpoint, or with some outputs kept."""
    yield index, ALL
    yield (index,), ALL
    operators = block.operators
    numbers = [i for i, op in enumerate(operators.operators) if op.keepable]
    for count in range(1, len(numbers) + 1):
        for kept in itertools.combinations(numbers, count):
            if operators.valid(frozenset(kept)):
                yield index, keep(kept)


def outcomes(profile):
    every = [list(choices(block, i)) for i, block in enumerate(profile.blocks)]
    for chosen in itertools.product(*every):
        nodes, names = zip(*chosen, strict=True)
        predicted = predict(profile, Schedule(nodes, names))
        yield predicted.peak_bytes, predicted.recompute_s


def assert_as_good_as_the_best(profile, seed):
    """Within the least and the most that any choice needs, and some between; and with no retry."""
    known = sorted(set(outcomes(profile)))
    peaks = sorted({peak for peak, _ in known})
    for budget_bytes in {
        peaks[0],
        peaks[-1],
        *random.Random(seed).sample(peaks, min(4, len(peaks))),
    }:
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        found = selective_ops.solve(profile, budget_bytes, 0.0)
        once, _ = selective_ops.Programme(profile, budget_bytes, 0.0).solved()
        predicted = predict(profile, found.schedule)
        assert predict(profile, once).peak_bytes == predicted.peak_bytes <= budget_bytes
        assert predicted.recompute_s == best_s == pytest.approx(found.bound_s, abs=1e-9)
    assert selective_ops.solve(profile, peaks[0] - 1) is None
    assert selective_ops.smallest_bytes(profile) == peaks[0]


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("seed", few(range(12), 5))
def test_as_good_as_the_best_of_all_choices(seed, blocks):
    assert_as_good_as_the_best(with_operators(seed, blocks), seed)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("seed", few(range(12), 5))
def test_copies_of_buffers_that_blocks_write_are_counted_to_the_byte(seed, blocks):
    assert_as_good_as_the_best(with_copies(with_operators(seed, blocks, 3), seed), seed)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("seed", few(range(48), 10))
def test_as_good_where_tensors_are_shared(seed, blocks):
    """However long the model holds them, and whoever keeps them for its backward."""
    assert_as_good_as_the_best(with_shared(seed, blocks), seed)


@pytest.mark.long
@pytest.mark.parametrize("begin", [1000, 1100])
def test_as_good_in_many_ways_to_share(begin):
    for seed in range(begin, begin + 100):
        assert_as_good_as_the_best(with_shared(seed, 1 + seed % 4), seed)


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([0, 3, 7]))
@examples(30, deadline=None)
def test_the_smallest_budget_is_never_refused(seed, blocks, group_bytes):
    profile = with_operators(seed, blocks, group_bytes)
    low = selective_ops.smallest_bytes(profile)
    for budget_bytes in (low, low + 1, low + 10):
        found = selective_ops.solve(profile, budget_bytes)
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes
    assert selective_ops.solve(profile, low - 1 - group_bytes) is None  # see `_leanest`


@pytest.mark.parametrize("seed", range(8))
def test_random_states_are_within_the_budget_and_the_bound_is_below_the_best(seed):
    profile = with_operators(seed, 2, group_bytes=3)
    known = list(outcomes(profile))
    budget_bytes = random.Random(seed).choice(known)[0]
    best_s = min(time for peak, time in known if peak <= budget_bytes)
    found = selective_ops.solve(profile, budget_bytes, 0.0)
    if found is not None:
        predicted = predict(profile, found.schedule)
        assert predicted.peak_bytes <= budget_bytes
        assert found.bound_s <= best_s + 1e-9 <= predicted.recompute_s + 2e-9


def profiled(workload):
    made = tiny.step(workload, **SIZES[workload])
    chain = strategies.profiled(made.model, "selective_ops", made, blocks=made.workload.blocks)
    return made, chain


@pytest.mark.parametrize("workload", few(SIZES))
def test_the_measured_peak_is_within_the_budget(workload):
    made, chain = profiled(workload)
    profile = chain.profile
    low = selective_ops.smallest_bytes(profile)
    high = predict(profile, plans.plain(len(chain))).peak_bytes
    reference = gradients.run(made, 0)
    for part in (0.0, 0.15, 0.4, 0.75, 1.0):
        budget = str(int(low + (high - low) * part))
        with strategies.apply(made.model, "selective_ops", budget=budget, chain=chain):
            assert measured_peak_bytes(made) <= int(budget)
            same = gradients.compare(reference, gradients.run(made, 0))
        assert same.bitwise_equal
        assert not same.missing


def test_it_is_faster_than_whole_blocks_alone_where_there_is_little_room():
    profile = profiled("gpt-mini")[1].profile
    every = predict(profile, plans.uniform(len(profile.blocks), 1))
    found = selective_ops.solve(profile, every.peak_bytes)
    assert predict(profile, found.schedule).recompute_s < every.recompute_s


def test_what_the_policies_keep_is_noted():
    made, chain = profiled("gpt-mini")
    with strategies.apply(made.model, "selective_ops", budget="50%", chain=chain) as applied:
        used, gap, *kept = applied.notes
    assert used.startswith("budget ")
    assert gap.startswith("no choice of operators is faster by more than ")
    assert kept
    assert all(line.startswith("keep(") for line in kept)
    assert any("mm" in line for line in kept), kept


@pytest.mark.long
def test_a_record():
    found = tiny.measure("gpt-mini", "selective_ops(budget='60%')", SIZES["gpt-mini"])
    assert found.status == "ok"
    assert found.grads_bitwise_equal
    assert found.peak_allocated_bytes == pytest.approx(found.predicted_peak_bytes, rel=1e-3)
    assert found.recompute_flops == found.predicted_recompute_flops
    assert "keep(" in found.plan


def test_the_solver_says_nothing(capfd):
    """Below Python too, where it would print."""
    highs.new_model().run()
    assert capfd.readouterr() == ("", "")


def test_a_profile_without_operators_keeps_blocks_whole_or_not_at_all():
    profile = random_profile(3, 4)
    budget_bytes = predict(profile, plans.uniform(4, 1)).peak_bytes
    found = selective_ops.solve(profile, budget_bytes, 0.0)
    assert not found.schedule.modes
    assert (
        predict(profile, found.schedule).recompute_s >= optimal.solve(profile, budget_bytes).bound_s
    )
