"""The dynamic programme against every nested plan, one by one."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
from effort import examples, few
from hypothesis import example, given
from hypothesis import strategies as st
from nested import nestings, outcomes, random_profile, with_copies

from bench.studies import synthetic
from strategies.schedules import plan as plans
from strategies.schedules.budget import Answer
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule
from strategies.solvers import optimal, optimal_numbers, optimal_solver, optimal_table
from strategies.solvers.optimal_numbers import slot_bytes_for
from strategies.solvers.optimal_stretches import stretches_of


def check(profile, modes, budgets=4):
    known = sorted(set(outcomes(profile, modes)))
    peaks = sorted({peak for peak, _ in known})
    chosen = random.Random(0).sample(peaks, min(budgets, len(peaks)))
    for budget_bytes in {*chosen, peaks[0], peaks[-1]}:
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        found = optimal.solve(profile, budget_bytes)
        assert found.slot_bytes == 1
        assert predict(profile, found.schedule).recompute_s == best_s == found.bound_s
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes
    assert optimal.solve(profile, peaks[0] - 1) is None
    assert optimal.smallest_bytes(profile) == peaks[0]


def test_there_are_as_many_nestings_as_there_should_be():
    assert [len(nestings(0, n)) for n in (1, 2, 3)] == [2, 6, 22]  # the large Schröder numbers
    assert len(set(nestings(0, 6))) == len(nestings(0, 6))


@pytest.mark.parametrize("blocks", range(1, 6))
@pytest.mark.parametrize("seed", range(25))
def test_as_good_as_the_best_of_all_nested_plans(seed, blocks):
    check(random_profile(seed, blocks), 1)


@pytest.mark.parametrize("modes", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_a_schedule_repeats_and_takes_what_the_table_says(seed, modes):
    """Of each start, not only of those that a budget leads to."""
    profile = random_profile(seed, 5, modes, borders=(2,) if seed % 2 else ())
    profile = dataclasses.replace(profile, head_keeps_output=seed % 3 == 0)
    solver = optimal_solver.Solver(profile, predict(profile, plans.plain(5)).peak_bytes, 10**6)
    other_bytes = profile.resident_bytes + profile.head_saved_bytes + profile.input_bytes
    starts = np.flatnonzero(np.isfinite(solver.top))
    assert len(starts) > 10
    for start in starts:
        predicted = predict(profile, solver.schedule(int(start)))
        assert predicted.recompute_s == solver.top[start]
        assert predicted.peak_bytes - other_bytes <= start


@pytest.mark.parametrize(("blocks", "modes"), [(2, 1), (3, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("seed", few(range(6), 3))
def test_copies_of_buffers_that_blocks_write_break_no_budget(seed, blocks, modes):
    """The table does not see them; plans are tried in the order of their times until one fits."""
    profile = with_copies(random_profile(seed, blocks, modes, group_bytes=5), seed)
    known = sorted(set(outcomes(profile, modes)))
    for budget_bytes in sorted({peak for peak, _ in known})[::4]:
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        found = optimal.solve(profile, budget_bytes)
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes
        assert predict(profile, found.schedule).recompute_s == best_s
        assert found.bound_s <= best_s == pytest.approx(found.bound_s)


@pytest.mark.parametrize(("seed", "blocks"), few(itertools.product(range(3), [6, 7]), 2))
def test_longer_chains(seed, blocks):
    check(random_profile(seed, blocks), 1)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 3), st.sampled_from([20, 10**6]))
@example(20, 7, 3, 20)  # the table's rounding misses what it found within a larger budget
@examples(10, deadline=None)
def test_the_smallest_budget_is_never_refused(seed, blocks, modes, big):
    profile = random_profile(seed, blocks, modes, big, group_bytes=7)
    low = optimal.smallest_bytes(profile)
    found = optimal.solve(profile, low)
    assert predict(profile, found.schedule).peak_bytes == low


@pytest.mark.parametrize(("blocks", "modes"), [(1, 3), (2, 3), (3, 2), (3, 3), (4, 2)])
@pytest.mark.parametrize("seed", range(8))
def test_as_good_as_the_best_of_all_plans_and_modes(seed, blocks, modes):
    check(random_profile(seed, blocks, modes), modes)


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_first_mode_need_not_be_the_fastest(seed, blocks):
    """As where a compiled mode is; groups, too, then take as much longer."""
    profile = random_profile(seed, blocks, 3)
    later = (
        dataclasses.replace(block, modes=(slower(block.modes[0], seed % 5), *block.modes[1:]))
        for block in profile.blocks
    )
    check(dataclasses.replace(profile, blocks=tuple(later)), 3)


def slower(mode, more_s):
    return dataclasses.replace(mode, recompute_s=mode.recompute_s + more_s)


@pytest.mark.parametrize("seed", range(10))
def test_a_schedule_has_the_names_of_its_profile(seed):
    profile = random_profile(seed, 4, 2)
    renamed = dataclasses.replace(
        profile,
        blocks=tuple(
            dataclasses.replace(
                b, modes=(dataclasses.replace(b.modes[0], name="compiled(100)"), *b.modes[1:])
            )
            for b in profile.blocks
        ),
    )
    for peak in {peak for peak, _ in outcomes(profile, 2)}:
        schedule = optimal.solve(profile, peak).schedule
        names = tuple(
            "compiled(100)" if name == "all" else name
            for name in map(schedule.mode, range(len(profile.blocks)))
        )
        assert optimal.solve(renamed, peak).schedule == Schedule(schedule.plan, names)


@pytest.mark.parametrize("seed", range(10))
def test_no_group_runs_across_a_border(seed):
    check(random_profile(seed, 4, borders=(2,)), 1)


@examples(60)
@given(st.integers(0, 10**9), st.integers(1, 24), st.integers(1, 3), st.floats(0.2, 1.1))
def test_never_slower_than_a_heuristic_and_never_over_the_budget(seed, blocks, modes, share):
    profile = random_profile(seed, blocks, modes, big=10**6, group_bytes=5056)
    budget_bytes = int(share * predict(profile, plans.plain(blocks)).peak_bytes)
    found = optimal.solve(profile, budget_bytes, 100)
    others = [predict(profile, plan) for plan in optimal.heuristics(profile)]
    fitting = [p.recompute_s for p in others if p.peak_bytes <= budget_bytes]
    if found is None:
        assert not fitting
        return
    prediction = predict(profile, found.schedule)
    assert prediction.peak_bytes <= budget_bytes
    assert found.bound_s <= prediction.recompute_s <= min(fitting, default=prediction.recompute_s)


@examples(25)
@given(st.integers(0, 10**9), st.integers(1, 5), st.sampled_from([7, 20, 50]))
def test_the_bound_is_below_the_optimum_however_coarse_the_slots(seed, blocks, slots):
    profile = random_profile(seed, blocks, big=1000)
    known = list(outcomes(profile))
    budget_bytes = random.Random(seed).choice(known)[0]
    best_s = min(time for peak, time in known if peak <= budget_bytes)
    found = optimal.solve(profile, budget_bytes, slots)
    if found is not None:
        assert found.bound_s <= best_s <= predict(profile, found.schedule).recompute_s


def test_a_budget_for_everything_repeats_nothing():
    profile = random_profile(1, 5)
    budget_bytes = predict(profile, plans.plain(5)).peak_bytes
    found = optimal.solve(profile, budget_bytes)
    assert found.schedule.plan == plans.plain(5)
    assert found.bound_s == 0


@pytest.mark.parametrize("what", ["head_working_bytes", "head_backward_working_bytes"])
def test_what_no_plan_changes_must_fit(what):
    profile = dataclasses.replace(random_profile(1, 3), **{what: 10_000})
    assert optimal.solve(profile, 9_000) is None
    assert 10_000 < optimal.smallest_bytes(profile) < 10_400


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.long)])
def test_the_compiled_table_is_the_plain_one(dtype):
    """Of boundaries that grow and shrink, so that a block may free more than it takes."""
    for seed in range(3):
        profile = random_profile(seed, 6, 2)
        numbers = optimal_numbers.numbers_of(profile, 50)
        tables = [np.zeros((2, len(numbers.firsts), 201), dtype) for _ in "ab"]
        optimal_table.fill(tables[0], numbers)
        optimal_table.compiled()(tables[1], numbers)
        assert np.isfinite(tables[0]).any()
        assert np.array_equal(*tables)


def test_a_short_chain_needs_no_compiler():
    assert optimal_table.filling(optimal_table.PLAIN_WORK) is optimal_table.fill
    assert optimal_table.filling(optimal_table.PLAIN_WORK + 1) is optimal_table.compiled()


def test_long_chains_count_memory_more_coarsely():
    counts = [optimal.slots_for(random_profile(1, blocks)) for blocks in (8, 96, 250, 650)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 4000
    assert counts[1] >= 500
    assert counts[-1] == 100


# Equal blocks.


def in_runs(profile, runs, borders=()):
    """The same chain, each of its blocks several times over."""
    blocks = [b for b, times in zip(profile.blocks, runs, strict=True) for _ in range(times)]
    return dataclasses.replace(profile, blocks=tuple(blocks), borders=borders)


RUNS = [(5,), (1, 4), (4, 1), (1, 3, 1), (2, 3), (1, 2, 1, 1)]


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("seed", range(12))
def test_runs_of_equal_blocks_are_solved_as_well_as_unlike_ones(seed, runs):
    check(in_runs(random_profile(seed, len(runs)), runs), 1)


@pytest.mark.parametrize(
    ("seed", "runs"), few(itertools.product(range(2), [(7,), (1, 5, 1), (3, 4)]), 2)
)
def test_longer_runs(seed, runs):
    check(in_runs(random_profile(seed, len(runs)), runs), 1)


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_blocks_with_modes_and_a_group_that_keeps_something(seed):
    profile = random_profile(seed, 2, 2, group_bytes=3)
    check(in_runs(profile, (1, 3)), 2)


@pytest.mark.parametrize("seed", range(8))
def test_a_border_in_a_run_of_equal_blocks_is_one(seed):
    check(in_runs(random_profile(seed, 1), (5,), borders=(2,)), 1)


@pytest.mark.parametrize(("runs", "most"), [((20,), 2), ((1, 18, 1), 4), ((10, 10), 12)])
def test_stretches_of_equal_blocks_share_a_row(runs, most):
    stretches = stretches_of(in_runs(random_profile(3, len(runs)), runs))
    inner = len(stretches.firsts) - 21  # those that end at the tail
    assert 20 <= inner <= most * 20
    begins, ends = stretches.firsts.T
    rows = stretches.rows[begins, ends]
    assert sorted(rows) == list(range(len(rows)))
    assert all(len(set(stretches.rows[i, i:])) == 21 - i for i in range(21))


def test_unlike_blocks_share_nothing():
    stretches = stretches_of(random_profile(1, 9, big=10**6))
    assert len(stretches.firsts) == 9 * 10 // 2 + 10


def test_a_slot_divides_what_equal_blocks_take():
    profile = in_runs(random_profile(5, 1, big=10**6), (500,))
    slot_bytes = slot_bytes_for(profile, 10**8, 1000)
    assert 100_000 <= slot_bytes <= 200_000
    sizes = [mode.saved_bytes + b.output_bytes for b in profile.blocks[:1] for mode in b.modes]
    assert all(size % slot_bytes < size % 100_000 for size in sizes)
    assert slot_bytes_for(profile, 900, 1000) == 1
    assert slot_bytes_for(random_profile(5, 100), 10**8, 1000) == 100_000


def of_sizes(output_bytes, *saved_bytes, blocks=4, group_bytes=0):
    """Equal blocks whose modes keep so much."""
    block = random_profile(0, 1, len(saved_bytes)).blocks[0]
    modes = [
        dataclasses.replace(mode, saved_bytes=size)
        for mode, size in zip(block.modes, saved_bytes, strict=True)
    ]
    block = dataclasses.replace(block, output_bytes=output_bytes, modes=tuple(modes))
    profile = random_profile(0, blocks, group_bytes=group_bytes)
    return dataclasses.replace(profile, blocks=(block,) * blocks)


@pytest.mark.parametrize(
    ("profile", "slot_bytes"),
    [
        (of_sizes(300, 75), 125),  # loses 50 of 300, and nothing of 375; 100 loses 75 of 375
        (of_sizes(300, 40), 100),  # 100 loses 40 of 340; 113, a third of it, 74 of 300
        (of_sizes(200, 75, group_bytes=25), 112),  # loses 1 of 225, and 51 of 275
        (of_sizes(300, 75, 75), 125),
        (of_sizes(300, 0, 100), 100),  # nothing of 300 and 400
        (of_sizes(110, 890), 110),  # loses 10 of 1000; 100 loses 10 of 110
        (of_sizes(50, 0), 100),  # too small for a slot of their own
        (of_sizes(199, 0), 199),  # a slot may be of up to twice the bytes
        (of_sizes(0, 0), 100),
    ],
)
def test_a_slot_is_that_which_loses_least(profile, slot_bytes):
    assert slot_bytes_for(profile, 100_000, 1000) == slot_bytes


@pytest.mark.parametrize(
    ("work", "slots"), [(0, 4000), (10**6, 4000), (3 * 10**6, 1333), (4 * 10**7, 100), (10**9, 100)]
)
def test_there_are_as_many_slots_as_take_a_few_seconds(work, slots, monkeypatch):
    stretches = dataclasses.make_dataclass("Stretches", ["work"])
    monkeypatch.setattr(optimal, "stretches_of", lambda profile: stretches(work))
    assert optimal.slots_for(random_profile(0, 2)) == slots


def test_plans_that_need_no_solver():
    """None, groups of each size with and without the last, halves of halves; cut at borders."""
    texts = ["0 1 2", "[0] [1] [2]", "[0] [1] 2", "[0 1] [2]", "[0 1] 2", "[0 1 2]", "0 1 2"]
    assert [plans.render(plan) for plan in optimal.heuristics(random_profile(0, 3))] == [
        *texts,
        "[[0] 1] 2",
    ]
    cut = [plans.render(plan) for plan in optimal.heuristics(random_profile(0, 3, borders=(1,)))]
    assert cut == [*texts[:3], *texts[1:3], "[0] [1 2]", "0 1 2", "[[0]] [1] 2"]


@pytest.mark.parametrize("seed", range(10))
def test_no_plan_that_needs_no_solver_is_faster(seed):
    """However coarsely memory is counted."""
    profile = random_profile(seed, 5, big=10**6)
    simple = [predict(profile, plan) for plan in optimal.heuristics(profile)]
    for one in simple:
        best_s = min(x.recompute_s for x in simple if x.peak_bytes <= one.peak_bytes)
        found = optimal.solve(profile, one.peak_bytes, 3)
        assert predict(profile, found.schedule).recompute_s <= best_s
        assert found.bound_s <= best_s


@pytest.mark.parametrize(("most_bytes", "dtype"), [(2 * 3 * 5 * 8, "float64"), (239, "float32")])
def test_a_large_table_is_of_single_precision(most_bytes, dtype, monkeypatch):
    monkeypatch.setattr(optimal_table, "MOST_BYTES", most_bytes)
    table = optimal_table.empty(2, 3, 4)
    assert (table.shape, table.dtype) == ((2, 3, 5), dtype)


@pytest.mark.long
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_thousand_equal_blocks_are_within_a_hundredth_of_the_bound(share):
    chain = synthetic.chain(1)
    profile = dataclasses.replace(chain, blocks=chain.blocks * 1000)
    budget_bytes = int(share * predict(profile, plans.plain(1000)).peak_bytes)
    answer = Answer.of(profile, budget_bytes, optimal.solve(profile, budget_bytes))
    assert answer.prediction.peak_bytes <= budget_bytes
    assert 0 <= answer.gap_fraction <= 0.01
