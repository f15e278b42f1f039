"""Offload and recompute together, against every nested plan and every set of boundaries away."""

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rotor import NAMES, crosses, nestings, random_profile

from strategies import plan as plans
from strategies.cost import predict
from strategies.schedule import Schedule
from strategies.solvers import hybrid, rotor

SLOW, FAST = 1.0, 20.0  # bytes a second: a boundary of 10 bytes takes longer than a block, or less
LINKS = (0.0, SLOW, 4.0, FAST, math.inf)


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
        for names in itertools.product(NAMES[:modes], repeat=blocks):
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


def gaps(profile, modes=1, budgets=3):
    """For some budgets, found over best; asserts the order bound ≤ best ≤ found ≤ optimal."""
    known = list(outcomes(profile, modes))
    peaks = sorted({peak for peak, time, _ in known if math.isfinite(time)})
    for budget_bytes in {*random.Random(0).sample(peaks, min(budgets, len(peaks))), peaks[0]}:
        best_s = min(time for peak, time, _ in known if peak <= budget_bytes)
        useful_s = min(time for peak, time, u in known if peak <= budget_bytes and u)
        found = hybrid.solve(profile, budget_bytes)
        plain = rotor.solve(profile, budget_bytes)
        prediction = predict(profile, found.schedule)
        found_s = prediction.recompute_s + prediction.stall_s
        assert prediction.peak_bytes <= budget_bytes
        assert found.bound_s <= useful_s + 1e-9
        assert best_s - 1e-9 <= found_s
        if plain is not None:
            assert found_s <= predict(profile, plain.schedule).recompute_s
        yield found_s - best_s, found_s - found.bound_s, best_s
    assert hybrid.solve(profile, peaks[0] - 1) is None
    assert hybrid.smallest_bytes(profile) == peaks[0]


if __name__ == "__main__":
    import collections
    for link in LINKS:
        stat = collections.Counter(); tot=0; worst=0; wb=0
        for blocks in (1,2,3,4):
            for seed in range(15):
                for gap, bg, best in gaps(linked(seed, blocks, link)):
                    stat[gap <= 1e-9] += 1; worst=max(worst,gap/(best+1)); wb = max(wb,bg/(best+1)); stat['b', bg<=1e-9]+=1
        print(link, stat, worst, wb)
