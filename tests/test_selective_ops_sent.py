"""Kept outputs on the host: the programmes against every choice; simulated; and `auto`."""

import dataclasses
import functools
import itertools
import math
import random

import pytest
from effort import few, scaled
from test_hybrid import FAST, SLOW, added
from test_selective_ops import choices, with_operators, with_shared

import strategies
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.run import planning
from bench.simulate.run import trace_cell
from strategies.auto import WORTH, Auto
from strategies.hybrid import Hybrid
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import away_by, keep, kept_by
from strategies.schedules.schedule import ALL, Schedule
from strategies.solvers import hybrid, selective_ops, selective_ops_sent
from strategies.solvers.selective_ops_sent import Sending

H100 = "sim:h100-80gb"
PLAIN = ("gpt-mini", "llama-mini", "vit-mini", "resnet50")


def linked(seed, blocks, link, make=with_operators):
    """Blocks with operators and a link; of the outputs, some can leave."""
    rng, profile = random.Random(seed), make(seed, blocks)
    return dataclasses.replace(
        profile,
        link_bytes_per_s=link,
        blocks=tuple(_some_portable(rng, block) for block in profile.blocks),
    )


def _some_portable(rng, block):
    operators = tuple(
        dataclasses.replace(op, portable=rng.random() < 0.8) for op in block.operators.operators
    )
    moved = dataclasses.replace(block.operators, operators=operators)
    return dataclasses.replace(block, operators=moved)


def ways(profile, index):
    """Every way to run one block, and everything that it can send."""
    block = profile.blocks[index]
    others = {shared.boundary for shared in profile.shared}
    for node, name in choices(block, index):
        yield node, name, False
        if node == (index,) and index not in others:
            yield node, name, bool(index) or not profile.head_keeps_output
        portable = [i for i in kept_by(name) or () if block.operators.operators[i].portable]
        for count in range(1, len(portable) + 1):
            for away in itertools.combinations(portable, count):
                yield node, keep(kept_by(name), away, "host"), False


def outcomes(profile):
    """Every schedule, its peak, and what it adds to a step."""
    every = [list(ways(profile, i)) for i in range(len(profile.blocks))]
    for chosen in itertools.product(*every):
        nodes, names, leaving = zip(*chosen, strict=True)
        away = frozenset(itertools.compress(range(len(nodes)), leaving))
        schedule = Schedule(nodes, names, away)
        predicted = predict(profile, schedule)
        yield predicted.peak_bytes, predicted.recompute_s + predicted.stall_s, schedule


def parcels_of(schedule, blocks):
    return [away_by(schedule.mode(index)) for index in range(blocks)]


def some_budgets(known, seed):
    peaks = sorted({peak for peak, *_ in known})
    return {peaks[0], *random.Random(seed).sample(peaks, min(3, len(peaks)))}


@pytest.mark.parametrize("make", [with_operators, with_shared])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("seed", few(range(12)))
def test_given_what_leaves_the_best_of_all_choices_is_found(seed, blocks, make):
    """To the byte, where the link takes no time: what is in flight is counted as it is."""
    profile = linked(seed, blocks, math.inf, make)
    known = list(outcomes(profile))
    for budget_bytes in some_budgets(known, seed):
        fitting = [one for one in known if one[0] <= budget_bytes]
        _, best_s, best = min(fitting, key=lambda one: one[1])
        programme = Sending(profile, budget_bytes, 0.0, parcels_of(best, blocks))
        schedule, _ = programme.solved()
        assert added(profile, schedule, budget_bytes) == pytest.approx(best_s, abs=1e-9)


@pytest.mark.parametrize("link", [4.0, FAST])
def test_compute_waits_no_longer_than_the_programme_says(link):
    waited = 0
    for seed in range(scaled(6)):
        profile, rng = linked(seed, 3, link), random.Random(seed)
        known = list(outcomes(profile))
        for budget_bytes in some_budgets(known, seed):
            programme = Sending(profile, budget_bytes, 0.0, parcels_of(rng.choice(known)[2], 3))
            solved = programme.solved()
            if solved is not None:
                said_s = programme.model.getInfo().objective_function_value * programme.second
                assert added(profile, solved[0], budget_bytes) <= said_s + 1e-9
                waited += predict(profile, solved[0]).stall_s > 0
    assert waited


@pytest.mark.parametrize("link", [SLOW, FAST, math.inf])
@pytest.mark.parametrize("seed", few(range(12)))
def test_what_is_found_is_within_the_budget_and_never_better_than_the_best(seed, link):
    profile = linked(seed, 3, link)
    known = list(outcomes(profile))
    for budget_bytes in some_budgets(known, seed):
        best_s = min(added_s for peak, added_s, _ in known if peak <= budget_bytes)
        found = selective_ops_sent.solve(profile, budget_bytes, 0.0)
        if found is not None:
            found_s = added(profile, found.schedule, budget_bytes)
            assert best_s - 1e-9 <= found_s == found.bound_s


@pytest.mark.long
def test_it_is_the_best_or_nearly_so_where_the_link_is_fast():
    """And so it is faster than without a link."""
    near = faster = tried = 0
    for seed in range(scaled(30)):
        profile = linked(seed, 3, 1e3)
        known = list(outcomes(profile))
        for budget_bytes in some_budgets(known, seed):
            best_s = min(added_s for peak, added_s, _ in known if peak <= budget_bytes)
            plain = selective_ops.solve(profile, budget_bytes, 0.0)
            found = [selective_ops_sent.solve(profile, budget_bytes, 0.0), plain]
            times_s = [added(profile, one.schedule, budget_bytes) for one in found if one]
            tried += 1
            near += bool(times_s) and min(times_s) <= best_s + 1.0
            faster += len(times_s) == 2 and times_s[0] < times_s[1] - 1e-9
    assert near >= 0.8 * tried
    assert faster >= 0.1 * tried


def test_without_a_link_there_is_nothing_to_find():
    profile = linked(3, 3, 0.0)
    peak_bytes = predict(profile, plans.plain(3)).peak_bytes
    assert selective_ops_sent.solve(profile, peak_bytes) is None


def test_equal_blocks_choose_alike_in_a_long_chain(monkeypatch):
    """So that there are never more choices than can be weighed in seconds."""
    monkeypatch.setattr(selective_ops_sent, "MOST_CHOICES", 9)
    block = linked(5, 1, FAST).blocks[0]
    count = sum(op.keepable for op in block.operators.operators)
    profile = dataclasses.replace(linked(5, 1, FAST), blocks=(block,) * 16)
    programme = Sending(profile, 10**9, 1e-3)
    assert 0 < len({id(each.whole) for each in programme.choices}) * count <= 9
    unlike = linked(5, 16, FAST)
    assert len({id(each.whole) for each in Sending(unlike, 10**9, 1e-3).choices}) == 16


# Among the choices of `auto`.


def without(profile, budget_bytes):
    """What `auto` finds without kept outputs on the host."""

    class Before(Auto):
        def _beside_compute(self, profile, budget_bytes, others):
            yield hybrid.solve(profile, budget_bytes)

    return Before().solution(profile, budget_bytes)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_auto_takes_it_where_it_is_the_fastest_but_never_to_a_disk(seed):
    profile = linked(seed, 3, 1e3)
    low = selective_ops.smallest_bytes(profile)
    high = predict(profile, plans.plain(3)).peak_bytes
    for budget_bytes in planning.budgets_between(low, high, 4):
        found, before = Auto().solution(profile, budget_bytes), without(profile, budget_bytes)
        assert added(profile, found.schedule, budget_bytes) <= added(
            profile, before.schedule, budget_bytes
        )
        to_disk = dataclasses.replace(profile, link_tier="disk")
        for auto in (Auto(), Auto(disk=True)):
            there = auto.solution(to_disk, budget_bytes)
            assert not any(map(away_by, there.schedule.modes))


def assert_auto_and_hybrid_are_as_fast(profile, budgets):
    """To the last bit of what is predicted; or so little can be gained that `auto` sends nothing.

    How often either sends boundaries and outputs in one plan.
    """
    auto, other = Auto(), Hybrid()
    low = min(auto.smallest_bytes(profile), other.smallest_bytes(profile))
    high = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
    both = 0
    for budget_bytes in planning.budgets_between(low, high, budgets):
        there = other.solution(profile, budget_bytes).schedule
        hybrid_s = predict(profile, there).step_s
        both += bool(there.offloaded and any(map(away_by, there.modes)))
        assert predict(profile, there).peak_bytes <= budget_bytes
        found = auto.solution(profile, budget_bytes)
        if found is None:
            assert budget_bytes < auto.smallest_bytes(profile)
            continue
        auto_s = predict(profile, found.schedule).step_s
        assert auto_s == hybrid_s or hybrid_s < auto_s <= (1 + WORTH) * profile.plain_step_s
    return both


@pytest.mark.parametrize("seed", few(range(12), 2))
def test_auto_and_hybrid_are_as_fast(seed):
    assert_auto_and_hybrid_are_as_fast(linked(seed, 3, 1e3), 3)


@pytest.mark.long
@pytest.mark.parametrize("workload", [*PLAIN, "mlp-chain"])
def test_auto_and_hybrid_are_as_fast_on_the_workloads_of_the_study(workload):
    both = assert_auto_and_hybrid_are_as_fast(profile_of(workload), 10)
    assert both or workload != "gpt-mini"


def test_hybrid_keeps_no_outputs_where_the_link_leads_to_a_disk():
    profile = dataclasses.replace(linked(3, 3, 1e3), link_tier="disk")
    low, high = Hybrid().smallest_bytes(profile), predict(profile, plans.plain(3)).peak_bytes
    for budget_bytes in planning.budgets_between(low, high, 4):
        assert {ALL} >= set(Hybrid().solution(profile, budget_bytes).schedule.modes)


@functools.cache
def profile_of(workload):
    cell = checked(Cell(workload=workload, spec="none", device=H100, rounds=0))
    return planning.profile_cell(cell, strategy=Auto())


@pytest.mark.long
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("workload", PLAIN)
def test_auto_is_never_slower_than_it_was(workload, share):
    """At shares between the smallest peak and that of `none`: modelled."""
    profile = profile_of(workload)
    low = strategies.get("auto").smallest_bytes(profile)
    high = predict(profile, profile.schedule(plans.plain(len(profile.blocks)))).peak_bytes
    budget_bytes = int(low + share * (high - low))
    found, before = Auto().solution(profile, budget_bytes), without(profile, budget_bytes)
    times_s = [predict(profile, one.schedule).step_s for one in (found, before)]
    assert predict(profile, found.schedule).peak_bytes <= budget_bytes
    assert times_s[0] <= times_s[1]
    if workload != "resnet50":
        assert any(map(away_by, found.schedule.modes))
        assert times_s[0] < 0.98 * times_s[1]


@pytest.mark.long
@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini"])
def test_a_simulated_step_is_the_predicted_one(workload):
    cell = checked(Cell(workload=workload, spec="auto(budget='50%')", device=H100, rounds=0))
    made = trace_cell(cell)
    schedule, profile = made.prepared.schedule, made.prepared.chain.profile
    assert any(map(away_by, schedule.modes))
    assert "bytes cross the link both ways taken together" in " ".join(made.prepared.notes)
    states_bytes = profile.group_bytes * sum(kept_by(name) is not None for name in schedule.modes)
    prediction = predict(dataclasses.replace(profile, group_bytes=0), schedule)
    # No fake tensor holds a random state.
    assert made.trace.after_forward_bytes() == prediction.after_forward_bytes - states_bytes
    assert 0 <= prediction.peak_bytes - max(made.trace.alive_bytes()) <= states_bytes
    step_s = made.step_s(accelerators.get(H100))
    assert step_s == pytest.approx(prediction.step_s, rel=1e-6)
