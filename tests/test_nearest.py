"""Where `auto` leaves much of a budget: nothing finer is there, by the interpreter's word."""

import itertools

import pytest

import strategies
from bench.run import planning
from bench.studies import promises, subjects
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import keep
from strategies.schedules.schedule import ALL, Schedule

WELL_USED = 0.97


def choices(block, index):
    """Every way to run one block that is no part of a longer group."""
    operators = block.operators
    numbers = [i for i, op in enumerate(operators.operators) if op.keepable]
    subsets = (
        frozenset(kept)
        for count in range(1, len(numbers) + 1)
        for kept in itertools.combinations(numbers, count)
    )
    named = [mode.name for mode in block.modes] + [keep(k) for k in subsets if operators.valid(k)]
    return [((index,), ALL), *((index, name) for name in named)]


def repeating_less(profile, limit_s):
    """All schedules of such choices that repeat less than so long."""
    count = len(profile.blocks)

    def alone_s(index, node, name):
        changed = [node if i == index else i for i in range(count)]
        names = [name if i == index else ALL for i in range(count)]
        return predict(profile, Schedule(tuple(changed), tuple(names))).recompute_s

    priced = [
        [(alone_s(index, *choice), choice) for choice in choices(block, index)]
        for index, block in enumerate(profile.blocks)
    ]
    chosen = [(0.0, ())]
    for options in priced:
        chosen = [
            (before_s + more_s, (*before, choice))
            for before_s, before in chosen
            for more_s, choice in options
            if before_s + more_s < limit_s
        ]
    for _, picked in chosen:
        nodes, names = zip(*picked, strict=True)
        yield Schedule(nodes, names)


@pytest.mark.long
def test_a_small_unet_has_no_faster_plan_where_its_budget_is_not_used_up(monkeypatch):
    monkeypatch.setattr(subjects, "DRAWS", 1)  # few rows are few ways to use a budget up
    study = promises.Bench(promises.Question("U-Net"), accumulation=False)
    chain = strategies.profiled(study.subject.model, "auto", study.step())
    profile = chain.profile
    assert profile.borders == tuple(range(1, len(chain)))  # so that no group has two blocks
    auto, most_bytes = strategies.get("auto"), predict(profile, plans.plain(len(chain))).peak_bytes
    seen = 0
    for budget_bytes in planning.budgets_between(auto.smallest_bytes(profile), most_bytes, 10):
        best = predict(profile, auto.solution(profile, budget_bytes).schedule)
        if best.peak_bytes < WELL_USED * budget_bytes:
            others = list(repeating_less(profile, best.recompute_s * (1 - 1e-9)))
            assert min(predict(profile, one).peak_bytes for one in others) > budget_bytes
            seen += 1
    assert seen
