"""Offload and recompute together, against every nested plan and every set of boundaries away."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import tiny
from effort import examples, few, scaled
from hypothesis import given
from hypothesis import strategies as st
from nested import crosses, namings, nestings, random_profile
from test_budget import SIZES, measured_peak_bytes, profiled

import strategies
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.measure import gradients
from bench.run import planning
from bench.simulate.run import trace_cell
from strategies import Unsupported
from strategies.hybrid import rate
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import ALL, Schedule
from strategies.solvers import hybrid, optimal, optimal_solver
from strategies.solvers.hybrid_numbers import roads_of
from strategies.solvers.hybrid_solver import Solver

SLOW, FAST = 1.0, 20.0  # bytes a second: a boundary of 10 bytes takes longer than a block, or less
LINKS = (0.0, SLOW, 4.0, FAST, math.inf)
SLACK = 1e-9  # seconds are sums of fractions here
BELOW_OPTIMAL = {"llama-mini", "mlp-chain"}
"""Where the smallest peak of `optimal` is among the boundaries; elsewhere it is gradients."""


def linked(seed, blocks, link, **options):
    profile = random_profile(seed, blocks, **options)
    return dataclasses.replace(
        profile, link_bytes_per_s=link, head_keeps_output=bool(seed % 3 == 0)
    )


def schedules(profile, modes=1):
    """Every schedule, and whether it sends away only what nobody else keeps."""
    blocks = len(profile.blocks)
    for plan in nestings(0, blocks):
        if crosses(plan, profile.borders):
            continue
        starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
        for names in namings(plan, blocks, modes):
            for size in range(len(starts) + 1):
                for chosen in itertools.combinations(starts, size):
                    schedule = Schedule(plan, names, frozenset(chosen))
                    yield schedule, not any(kept(profile, schedule, index) for index in chosen)


def kept(profile, schedule, index):
    if index == 0:
        return profile.head_keeps_output
    before = profile.blocks[index - 1].mode(schedule.mode(index - 1))
    return index - 1 in schedule.plan and before.keeps_output


def outcomes(profile, modes=1):
    for schedule, useful in schedules(profile, modes):
        p = predict(profile, schedule)
        yield p.peak_bytes, p.recompute_s + p.stall_s, useful


def check(profile, modes=1, budgets=3):
    """Bound ≤ best ≤ found ≤ optimal; returns how often found is best, and proven to be."""
    known = list(outcomes(profile, modes))
    peaks = sorted({peak for peak, added_s, _ in known if math.isfinite(added_s)})
    tight = proven = tried = 0
    for budget_bytes in {*random.Random(0).sample(peaks, min(budgets, len(peaks))), peaks[0]}:
        best_s = min(added_s for peak, added_s, _ in known if peak <= budget_bytes)
        useful_s = min(s for peak, s, useful in known if peak <= budget_bytes and useful)
        found = hybrid.solve(profile, budget_bytes)
        added_s = added(profile, found.schedule, budget_bytes)
        assert found.bound_s <= useful_s + SLACK
        assert best_s - SLACK <= added_s
        plain = optimal.solve(profile, budget_bytes)
        assert plain is None or added_s <= predict(profile, plain.schedule).recompute_s
        tried += 1
        tight += added_s <= best_s + SLACK
        proven += added_s <= found.bound_s + SLACK
    assert hybrid.solve(profile, peaks[0] - 1) is None
    assert hybrid.smallest_bytes(profile) == peaks[0]
    return tight, proven, tried


def added(profile, schedule, budget_bytes):
    """What a schedule adds to a step; it keeps the budget."""
    prediction = predict(profile, schedule)
    assert prediction.peak_bytes <= budget_bytes
    return prediction.recompute_s + prediction.stall_s


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("blocks", range(1, 5))
def test_between_its_bound_and_the_best_of_all_schedules(blocks, link):
    for seed in range(scaled(12)):
        tight, proven, tried = check(linked(seed, blocks, link), 1)
        assert tight == tried
        assert proven == tried or link == SLOW  # where the link makes backward wait


@pytest.mark.long
@pytest.mark.parametrize("link", [SLOW, 2.0, 4.0])
def test_five_blocks(link):
    counts = [check(linked(seed, 5, link), 1) for seed in range(8)]
    tight, proven, tried = map(sum, zip(*counts, strict=True))
    assert tight >= 0.95 * tried
    assert proven >= 0.8 * tried


@pytest.mark.parametrize("link", [SLOW, FAST])
@pytest.mark.parametrize(("blocks", "modes"), [(2, 3), (3, 2)])
def test_between_its_bound_and_the_best_of_all_schedules_and_modes(blocks, modes, link):
    for seed in range(scaled(6)):
        check(linked(seed, blocks, link, modes=modes), modes)


@pytest.mark.parametrize("seed", range(4))
def test_no_group_runs_across_a_border(seed):
    check(linked(seed, 4, 4.0, borders=(2,)), 1)


@examples(40)
@given(st.integers(0, 10**9), st.integers(1, 16), st.floats(0.2, 1.1), st.floats(1e4, 1e8))
def test_never_slower_than_optimal_or_a_heuristic_and_never_over_the_budget(
    seed, blocks, share, link
):
    profile = linked(seed, blocks, link, big=10**6, group_bytes=5056)
    budget_bytes = int(share * predict(profile, plans.plain(blocks)).peak_bytes)
    found = hybrid.solve(profile, budget_bytes, 100)
    plain = optimal.solve(profile, budget_bytes)
    others = list(hybrid.heuristics(profile)) + ([plain.schedule] if plain else [])
    judged = [predict(profile, schedule) for schedule in others]
    fitting = [p.recompute_s + p.stall_s for p in judged if p.peak_bytes <= budget_bytes]
    if found is None:
        assert not fitting
        return
    added_s = added(profile, found.schedule, budget_bytes)
    assert found.bound_s <= added_s <= min(fitting, default=added_s)


@examples(20)
@given(st.integers(0, 10**9), st.integers(1, 4), st.sampled_from([7, 20, 50]))
def test_the_bound_is_below_the_best_however_coarse_the_slots(seed, blocks, slots):
    profile = linked(seed, blocks, 300.0, big=1000)
    known = list(outcomes(profile))
    budget_bytes = random.Random(seed).choice(known)[0]
    useful_s = min(s for peak, s, useful in known if peak <= budget_bytes and useful)
    found = hybrid.solve(profile, budget_bytes, slots)
    if found is not None:
        assert found.bound_s <= useful_s + SLACK


def test_without_a_link_it_is_optimal():
    profile = linked(1, 6, 0.0)
    for budget_bytes in range(optimal.smallest_bytes(profile), 400, 20):
        found, plain = hybrid.solve(profile, budget_bytes), optimal.solve(profile, budget_bytes)
        assert found.schedule.offloaded == frozenset()
        assert (found.schedule.plan, found.bound_s) == (plain.schedule.plan, plain.bound_s)
    assert hybrid.smallest_bytes(profile) == optimal.smallest_bytes(profile)


# On real models.


FIVE = range(5)


def budgets_of(profile):
    low = hybrid.smallest_bytes(profile)
    high = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
    return [low + (high - low) * n // 8 for n in FIVE]


@pytest.mark.parametrize("number", few(FIVE, 2))
@pytest.mark.parametrize("workload", SIZES)
def test_the_measured_peak_is_within_the_budget(workload, number):
    made, chain = profiled(workload)
    budget_bytes = budgets_of(chain.profile)[number]
    reference = gradients.run(made, 0)
    with strategies.apply(made.model, "hybrid", budget=str(budget_bytes), chain=chain) as applied:
        assert measured_peak_bytes(made) <= budget_bytes
        same = gradients.compare(reference, gradients.run(made, 0))
        assert same.bitwise_equal
        assert not same.missing
    if number == 0 and workload in BELOW_OPTIMAL:
        assert applied.schedule.offloaded
        with pytest.raises(Unsupported, match="the smallest budget that does is"):
            strategies.apply(made.model, "optimal", budget=str(budget_bytes), chain=chain)


@pytest.mark.parametrize("workload", sorted(BELOW_OPTIMAL))
def test_too_little_names_the_smallest_that_is_enough(workload):
    made, chain = profiled(workload)
    low = hybrid.smallest_bytes(chain.profile)
    assert low < optimal.smallest_bytes(chain.profile)
    with pytest.raises(Unsupported, match=f"the smallest budget that does is {low:,} bytes"):
        strategies.apply(made.model, "hybrid", budget=str(low - 1), chain=chain)


def test_what_was_found_out_is_noted():
    made, chain = profiled("llama-mini")
    low = str(hybrid.smallest_bytes(chain.profile))
    with strategies.apply(made.model, "hybrid", budget=low, chain=chain) as applied:
        used, crossed, gap = applied.notes
        assert str(applied.storage) == "raw on auto, overlapped"
    prediction = predict(chain.profile, applied.schedule)
    assert used.startswith("budget ")
    assert crossed.startswith(f"{prediction.link_bytes:,} bytes cross the link")
    assert "bounds the step" in crossed
    assert gap.startswith("no such schedule is faster by more than ")
    with strategies.apply(made.model, "hybrid", budget="100%", chain=chain) as applied:
        assert applied.notes[1] == "nothing crosses the link"


def test_a_slower_link_never_makes_a_faster_step():
    _, chain = profiled("llama-mini")
    budget = str(optimal.smallest_bytes(chain.profile))
    steps = []
    for link in ("1MB/s", "100MB/s", "10GB/s", "10TB/s"):
        strategy = strategies.get("hybrid", budget=budget, link=link)
        profile = strategy.profile_of(chain)
        steps.append(predict(profile, strategy.schedule(chain)).step_s)
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(
    ("text", "value"), [("25GB/s", 25 * 10**9), ("3.2 GiB/s", int(3.2 * 2**30)), ("7/s", 7)]
)
def test_ways_to_write_a_link(text, value):
    assert rate(text) == value


@pytest.mark.parametrize("text", ["", "25GB", "25GB/h", "50%/s", "0GB/s", "fast"])
def test_what_is_no_link(text):
    with pytest.raises(ValueError, match="a link is written as 25GB/s"):
        strategies.get("hybrid", link=text)


def test_host_memory_is_no_other_place_than_that_of_a_cpu():
    made, chain = profiled("llama-mini")
    with pytest.raises(Unsupported, match=r"host.*use tier=disk"):
        strategies.apply(made.model, "hybrid", tier="host", chain=chain)


@pytest.mark.long
def test_a_record_says_what_it_led_to():
    low = hybrid.smallest_bytes(profiled("llama-mini")[1].profile)
    found = tiny.measure("llama-mini", f"hybrid(budget='{low + 4096}')", SIZES["llama-mini"])
    assert found.status == "ok"
    assert found.grads_bitwise_equal
    assert "@disk" in found.plan
    assert found.peak_allocated_bytes <= found.predicted_peak_bytes <= low + 4096
    assert found.recompute_flops == found.predicted_recompute_flops
    # An attention keeps a plain number besides; see test_chain_profile.
    more_bytes = found.saved_after_forward_bytes - found.predicted_saved_after_forward_bytes
    assert 0 <= more_bytes <= 16 * 6


# Simulated.


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_simulated_step_is_the_predicted_one(share):
    options = tiny.OPTIONS["llama-mini"] | SIZES["llama-mini"]
    spec = {"workload": "llama-mini", "options": options, "device": "sim:h100-80gb"}
    listing = strategies.get("hybrid")  # operators, too
    profile = planning.profile_cell(checked(Cell(spec="none", rounds=0, **spec)), strategy=listing)
    low = hybrid.smallest_bytes(profile)
    high = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
    budget_bytes = int(low + share * (high - low))
    cell = checked(Cell(spec=f"hybrid(budget='{budget_bytes}')", rounds=0, **spec))
    made = trace_cell(cell)
    assert made.prepared.chain.profile == profile
    states = dataclasses.replace(profile, group_bytes=0)  # no fake tensor holds a random state
    prediction = predict(states, made.prepared.schedule)
    policies = [mode for mode in made.prepared.schedule.modes if mode != ALL]
    inner_bytes = profile.group_bytes * len(policies)  # theirs, likewise
    after_bytes = made.trace.after_forward_bytes()
    assert after_bytes == prediction.after_forward_bytes - inner_bytes
    assert 0 <= prediction.peak_bytes - max(made.trace.alive_bytes()) <= inner_bytes
    if not share:
        assert made.prepared.schedule.offloaded
    step_s = made.step_s(accelerators.get("sim:h100-80gb"))
    assert step_s == pytest.approx(prediction.step_s, rel=1e-6)


# Among the choices of `auto`.


@pytest.mark.parametrize("seed", range(6))
def test_auto_sends_away_what_makes_a_step_faster_but_to_a_disk_only_if_told(seed):
    profile = dataclasses.replace(linked(seed, 5, FAST), link_tier="host")
    low, high = optimal.smallest_bytes(profile), predict(profile, plans.plain(5)).peak_bytes
    auto = strategies.get("auto")
    for budget_bytes in planning.budgets_between(low, high, 4):
        both = [solver.solve(profile, budget_bytes) for solver in (optimal, hybrid)]
        least_s, alone_s = (
            min(predict(profile, one.schedule).step_s for one in some) for some in (both, both[:1])
        )
        chosen = auto.solution(profile, budget_bytes)
        assert predict(profile, chosen.schedule).peak_bytes <= budget_bytes
        worth = least_s if alone_s > 1.01 * profile.plain_step_s else alone_s
        assert predict(profile, chosen.schedule).step_s == worth
        to_disk = dataclasses.replace(profile, link_tier="disk")
        assert predict(to_disk, auto.solution(to_disk, budget_bytes).schedule).step_s == alone_s
        told = strategies.get("auto", disk=True).solution(to_disk, budget_bytes)
        assert predict(to_disk, told.schedule).step_s == worth


@pytest.mark.parametrize("seed", range(3))
def test_auto_that_may_use_a_disk_needs_no_more_than_hybrid(seed):
    profile = dataclasses.replace(linked(seed, 5, FAST), link_tier="disk")
    auto, told = strategies.get("auto"), strategies.get("auto", disk=True)
    low = hybrid.smallest_bytes(profile)
    assert told.smallest_bytes(profile) == low <= auto.smallest_bytes(profile)
    assert predict(profile, told.solution(profile, low).schedule).peak_bytes <= low
    assert told.solution(profile, low - 1) is None


def test_auto_on_a_disk_keeps_the_budget_and_the_gradient(tmp_path):
    made, chain = profiled("llama-mini")
    low = hybrid.smallest_bytes(chain.profile)
    options = {"disk": True, "directory": str(tmp_path), "chain": chain, "budget": str(low + 4096)}
    with pytest.raises(Unsupported, match="hybrid needs"):
        strategies.apply(made.model, "auto", **options | {"disk": False, "directory": ""})
    reference = gradients.run(made, 0)
    with strategies.apply(made.model, "auto", **options) as applied:
        assert "@disk" in applied.schedule.render()
        assert gradients.compare(reference, gradients.run(made, 0)).bitwise_equal
        assert measured_peak_bytes(made) <= low + 4096
    assert not list(tmp_path.iterdir())


def test_a_directory_is_for_a_disk():
    with pytest.raises(ValueError, match="disk=True"):
        strategies.get("auto", directory="/tmp")


@pytest.mark.long
def test_a_simulated_step_of_auto_with_boundaries_away_is_the_predicted_one():
    spec = {"workload": "mlp-chain", "device": "sim:h100-80gb", "rounds": 0}
    made = trace_cell(checked(Cell(spec="auto(budget='50%')", **spec)))
    prepared = made.prepared
    assert prepared.schedule.offloaded
    assert "bytes cross the link both ways taken together" in " ".join(prepared.notes)
    states = dataclasses.replace(prepared.chain.profile, group_bytes=0)
    prediction = predict(states, prepared.schedule)
    assert max(made.trace.alive_bytes()) <= prediction.peak_bytes
    assert made.trace.after_forward_bytes() == prediction.after_forward_bytes
    step_s = made.step_s(accelerators.get("sim:h100-80gb"))
    assert step_s == pytest.approx(prediction.step_s, rel=1e-6)


@pytest.mark.parametrize(
    ("blocks", "slots"), [(0, 1000), (1, 1000), (74, 987), (100, 400), (188, 60), (500, 60)]
)
def test_there_are_as_many_slots_as_take_a_second(blocks, slots):
    assert hybrid.slots_for(blocks) == slots


def test_plans_that_need_no_solver_send_all_or_every_other_boundary_away():
    every = list(hybrid.heuristics(random_profile(0, 4)))
    assert {schedule.tier for schedule in every} == {"host"}
    assert [schedule.plan for schedule in every[::4]] == list(
        optimal.heuristics(random_profile(0, 4))
    )
    each_alone = [set(schedule.offloaded) for schedule in every[4:8]]
    assert each_alone == [{0, 1, 2, 3}, {1, 2, 3}, {0, 2}, {1, 3}]


@pytest.mark.parametrize("held", [False, True])
def test_a_neighbour_has_one_boundary_more_or_less_on_the_device(held):
    profile = dataclasses.replace(random_profile(0, 5), head_keeps_output=held)
    schedule = Schedule(((0,), 1, (2, 3), (4,)), offloaded=frozenset({2}))
    found = [set(other.offloaded) for other in hybrid.neighbours(profile, schedule)]
    assert found == [*([] if held else [{0, 2}]), set(), {2, 4}]


@pytest.mark.parametrize(("link", "weight"), [(SLOW, 1.0), (4.0, 0.5), (math.inf, 1.0)])
@pytest.mark.parametrize("seed", [0, 1, 4, 8])  # of the last two, boundaries leave in succession
def test_a_schedule_takes_what_the_table_says_and_is_no_faster(seed, link, weight):
    """Of each start. Where transfers take no time, it takes just as long."""
    profile = linked(seed, 4, link, modes=1 + seed % 2, borders=(2,) if seed % 4 == 1 else ())
    inside = optimal_solver.Solver(profile, predict(profile, plans.plain(4)).peak_bytes, 10**6)
    solver = Solver(inside, weight)
    other_bytes = profile.resident_bytes + profile.head_saved_bytes + profile.input_bytes
    starts = np.flatnonzero(np.isfinite(solver.row))
    assert len(starts) > 10
    for start in starts:
        predicted = predict(profile, solver.schedule(int(start)))
        added_s = predicted.recompute_s + predicted.stall_s
        assert predicted.peak_bytes - other_bytes <= start
        assert added_s >= solver.row[start] - SLACK
        assert added_s == solver.row[start] or math.isfinite(link)


@pytest.mark.parametrize("held", [False, True])
def test_a_link_in_slots_and_seconds(held):
    """What leaves is rounded up, so that it has room; what comes back, down."""
    profile = random_profile(0, 3)
    sizes, times = (10, 7, 9), ((1.0, 4.0), (2.0, 6.0), (3.0, 5.0))
    blocks = [
        dataclasses.replace(block, output_bytes=size, forward_s=forward_s, backward_s=backward_s)
        for block, size, (forward_s, backward_s) in zip(profile.blocks, sizes, times, strict=True)
    ]
    roads = roads_of(
        dataclasses.replace(
            profile,
            blocks=tuple(blocks),
            input_bytes=8,
            link_bytes_per_s=2.0,
            head_keeps_output=held,
        ),
        4,
    )
    assert roads.up.tolist() == [2, 3, 2]
    assert roads.down.tolist() == [2, 2, 1]
    assert roads.may_leave.tolist() == [not held, True, True]
    assert roads.transfer_s.tolist() == [4.0, 5.0, 3.5]
    assert roads.forward_s.tolist() == [0.0, 1.0, 3.0, 6.0]
    assert roads.backward_s.tolist() == [0.0, 4.0, 10.0, 15.0]
