"""The mixed-integer programme against every nested plan, and against the dynamic programme."""

import dataclasses
import functools
import random

import pytest
import tiny
from effort import examples, few
from hypothesis import given
from hypothesis import strategies as st
from nested import outcomes, random_profile, with_copies

import strategies
from bench.run import executor
from strategies import Unsupported
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.solvers import milp, optimal


def repeated_s(profile, found):
    return None if found is None else predict(profile, found.schedule).recompute_s


def check(profile, modes, budgets=4):
    """At some of the budgets that matter, the best is found; below the smallest, nothing is."""
    known = sorted(set(outcomes(profile, modes)))
    peaks = sorted({peak for peak, _ in known})
    chosen = random.Random(0).sample(peaks, min(budgets, len(peaks)))
    for budget_bytes in {*chosen, peaks[0], peaks[-1]}:
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        found = milp.solve(profile, budget_bytes)
        assert repeated_s(profile, found) == best_s
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes
        assert found.bound_s == pytest.approx(best_s, abs=1e-6)
        assert found.bound_s <= best_s
    assert milp.solve(profile, peaks[0] - 1) is None
    assert milp.smallest_bytes(profile) == peaks[0]


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("blocks", range(1, 6))
@pytest.mark.parametrize("seed", few(range(8), 3))
def test_as_good_as_the_best_of_all_nested_plans(seed, blocks, keeps):
    profile = random_profile(seed, blocks)
    check(dataclasses.replace(profile, tail_keeps_input=keeps), 1)


@pytest.mark.parametrize(("blocks", "modes"), [(1, 3), (2, 3), (3, 2), (3, 3), (4, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_as_good_as_the_best_of_all_plans_and_modes(seed, blocks, modes):
    check(random_profile(seed, blocks, modes), modes)


@pytest.mark.parametrize(("blocks", "modes"), [(2, 1), (3, 1), (4, 1), (5, 1), (3, 2)])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group_bytes", few([5, 40]))
def test_random_state_that_groups_keep_is_counted_to_the_byte(group_bytes, seed, blocks, modes):
    """Also where it is more than what blocks save."""
    check(random_profile(seed, blocks, modes, group_bytes=group_bytes), modes)


@pytest.mark.parametrize(("blocks", "modes"), [(2, 1), (3, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("seed", few(range(6), 3))
def test_copies_of_buffers_that_blocks_write_are_counted_to_the_byte(seed, blocks, modes):
    check(with_copies(random_profile(seed, blocks, modes, group_bytes=5), seed), modes)


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_random_state_is_counted_from_where_its_group_begins(seed, blocks):
    """Where the most is alive in the forward of the first block: not before."""
    profile = random_profile(seed, blocks, group_bytes=40)
    found = tuple(forward_heavy(*each) for each in enumerate(profile.blocks))
    check(dataclasses.replace(profile, blocks=found), 1)


def forward_heavy(index, block):
    mode = dataclasses.replace(block.modes[0], saved_bytes=5000, forward_working_bytes=5000)
    return dataclasses.replace(
        block, modes=(mode,), unsaved_working_bytes=1000 - 200 * index, recompute_working_bytes=0
    )


@pytest.mark.parametrize("seed", few(range(8), 3))
def test_no_group_runs_across_a_border(seed):
    check(random_profile(seed, 4, borders=(2,)), 1)


@pytest.mark.parametrize("big", [10**6, 10**9, 10**11])
@pytest.mark.parametrize("seed", range(6))
def test_byte_exact_whatever_the_size(seed, big):
    """A solver in floating point would let a plan slip over the budget by its tolerance."""
    check(random_profile(seed, 3, big=big, group_bytes=5056), 1)


@pytest.mark.parametrize("seed", range(4))
def test_sizes_with_a_common_divisor(seed):
    small = random_profile(seed, 3)
    known = {peak for peak, _ in outcomes(small)}
    large = scaled(small, 2**30)
    assert milp.smallest_bytes(large) == min(known) << 30
    check(large, 1)


def scaled(costs, factor):
    """Every size of a profile, times ``factor``."""
    sizes = {
        field.name: getattr(costs, field.name) * factor
        for field in dataclasses.fields(costs)
        if field.name.endswith("_bytes")
    }
    parts = {
        name: tuple(scaled(part, factor) for part in getattr(costs, name))
        for name in ("blocks", "modes")
        if hasattr(costs, name)
    }
    return dataclasses.replace(costs, **sizes, **parts)


@pytest.mark.parametrize("borders", [(), (2,)])
@pytest.mark.parametrize(("blocks", "modes"), [(2, 1), (3, 2), (4, 1), (5, 1)])
@pytest.mark.parametrize("seed", few(range(3)))
def test_what_the_programme_finds_is_within_the_budget(seed, blocks, modes, borders, monkeypatch):
    """At once: what is over it would be refused, and the next one be sought."""

    def refuse(programme):
        raise AssertionError("over the budget")

    monkeypatch.setattr(milp, "_exclude", refuse)
    profile = random_profile(seed, blocks, modes, group_bytes=5, borders=borders)
    for budget_bytes in sorted({peak for peak, _ in outcomes(profile, modes)})[::5]:
        found = milp.solve.__wrapped__(profile, budget_bytes)
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes


@examples(40, derandomize=True)
@given(st.integers(0, 10**9), st.integers(5, 7), st.integers(1, 2), st.floats(0.4, 1.0))
def test_two_solvers_agree(seed, blocks, modes, share):
    """Slots of one byte: nothing is rounded in the table either."""
    profile = random_profile(seed, blocks, modes)
    budget_bytes = int(share * predict(profile, plans.plain(blocks)).peak_bytes)
    found, other = milp.solve(profile, budget_bytes), optimal.solve(profile, budget_bytes)
    assert repeated_s(profile, found) == repeated_s(profile, other)
    assert other is None or other.slot_bytes == 1


@examples(15, derandomize=True)
@given(st.integers(0, 10**9), st.integers(5, 8), st.floats(0.4, 1.0))
def test_coarse_slots_only_cost_time(seed, blocks, share):
    profile = random_profile(seed, blocks, 2, big=10**7, group_bytes=5056)
    budget_bytes = int(share * predict(profile, plans.plain(blocks)).peak_bytes)
    found, other = milp.solve(profile, budget_bytes), optimal.solve(profile, budget_bytes, 60)
    if other is not None:
        best_s = repeated_s(profile, found)
        assert other.bound_s <= best_s + 1e-9
        assert best_s <= repeated_s(profile, other)


@pytest.mark.parametrize(
    "what", ["head_working_bytes", "head_backward_working_bytes", "update_working_bytes"]
)
def test_what_no_plan_changes_must_fit(what):
    profile = dataclasses.replace(random_profile(1, 3), **{what: 10_000})
    peaks = {peak for peak, _ in outcomes(profile)}
    assert milp.solve(profile, min(peaks) - 1) is None
    assert milp.smallest_bytes(profile) == min(peaks)


def test_the_solver_is_silent(capfd):
    milp.solve.__wrapped__(random_profile(0, 3), 10**6)
    out, err = capfd.readouterr()
    assert not out + err


def test_too_many_blocks_are_refused():
    profile = random_profile(0, milp.MOST_BLOCKS + 1)
    sentence = "is for at most 12 blocks, not 13"
    for function in (lambda: milp.solve(profile, 10**9), lambda: milp.smallest_bytes(profile)):
        with pytest.raises(ValueError, match=sentence):
            function()


# The strategy.

SIZE = {"dim": 64, "seq": 128, "batch": 4, "layers": 5}


@functools.cache
def profiled():
    made = tiny.step("gpt-mini", **SIZE)
    return made, strategies.profiled(made.model, "milp", made, blocks=made.workload.blocks)


def test_it_plans_as_well_as_optimal_and_says_so():
    made, chain = profiled()
    times = []
    for name in ("milp", "optimal"):
        with strategies.apply(made.model, name, budget="60%", chain=chain) as applied:
            times.append(predict(chain.profile, applied.schedule).recompute_s)
            used, gap = applied.notes
        assert used.startswith("budget ")
        assert gap.startswith("no nested plan is faster by more than ")
    assert times[0] <= times[1] == pytest.approx(times[0], rel=0.01)


def test_too_little_names_the_smallest_that_is_enough():
    made, chain = profiled()
    low = milp.smallest_bytes(chain.profile)
    with pytest.raises(Unsupported, match=f"the smallest budget that does is {low:,} bytes"):
        strategies.apply(made.model, "milp", budget=str(low - 1), chain=chain)
    strategies.apply(made.model, "milp", budget=str(low), chain=chain).undo()


def test_a_long_chain_is_a_row_with_its_reason():
    record = executor.run(tiny.cell("mlp-chain", "milp(budget='50%')", {"layers": 17}), 120)
    assert record.status == "unsupported"
    assert record.reason == (
        "milp(budget='50%'): the mixed-integer programme is for at most 12 blocks, not 17;"
        " optimal takes chains of any length"
    )


def test_a_long_chain_is_refused_before_it_is_profiled():
    made = tiny.step("mlp-chain", layers=20)
    with pytest.raises(Unsupported, match="at most 12 blocks, not 20"):
        strategies.profiled(made.model, "milp", made, blocks=made.workload.blocks)
