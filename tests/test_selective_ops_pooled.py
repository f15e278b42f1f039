"""Equal blocks that are counted, and those that choose alike, against all blocks told apart."""

import dataclasses
import random

import pytest
from effort import few
from shared_tensors import sharing
from test_selective_ops import with_operators

from strategies.schedules.interpreter import predict
from strategies.schedules.modes import away_by
from strategies.schedules.plan import plain
from strategies.solvers import (
    selective_ops,
    selective_ops_near,
    selective_ops_pooled,
    selective_ops_sent,
)

RUNS = ((7,), (1, 5), (6, 2), (5, 5))


def in_runs(seed, runs):
    """Each block of a random chain so many times in a row."""
    profile = with_operators(seed, len(runs), seed % 3)
    pairs = zip(profile.blocks, runs, strict=True)
    return dataclasses.replace(profile, blocks=tuple(b for b, n in pairs for _ in range(n)))


def linked(seed, runs):
    return dataclasses.replace(in_runs(seed, runs), link_bytes_per_s=3.0)


def budgets(profile, seed):
    """The least, one byte less, the most, and some between."""
    low = selective_ops.smallest_bytes(profile)
    high = predict(profile, plain(len(profile.blocks))).peak_bytes
    rng = random.Random(seed)
    return [low - 1, low, high, *(rng.randint(low, max(low, high)) for _ in range(3))]


def repeated_s(profile, solution):
    return solution and predict(profile, solution.schedule).recompute_s


def check(profile, budget_bytes):
    """As fast as if told apart; and whatever a pool proves is true."""
    apart = selective_ops.solve(profile, budget_bytes, 0.0)
    found = selective_ops_pooled.solve(profile, budget_bytes, 0.0)
    assert repeated_s(profile, found) == pytest.approx(repeated_s(profile, apart))
    if found is None:
        return
    assert predict(profile, found.schedule).peak_bytes <= budget_bytes
    assert found.bound_s == pytest.approx(apart.bound_s, abs=1e-6)
    for pooled in selective_ops_pooled._pooled(profile, budget_bytes, 0.0):
        assert pooled.bound_s <= repeated_s(profile, apart) + 1e-6
        assert predict(profile, pooled.schedule).peak_bytes <= budget_bytes


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("seed", few((9, *range(8), 8), 2))
def test_as_fast_as_blocks_told_apart(seed, runs):
    profile = in_runs(seed, runs)
    for budget_bytes in budgets(profile, seed):
        check(profile, budget_bytes)


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("seed", few((13, 8, 9, *range(4), 4), 2))
def test_as_fast_where_tensors_are_shared(seed, runs):
    profile = sharing(in_runs(seed, runs), seed)
    for budget_bytes in budgets(profile, seed):
        check(profile, budget_bytes)


def test_equal_blocks_are_not_told_apart_where_it_is_proven_without(monkeypatch):
    """Nor is one choice in a pool made for all of it."""
    profile = in_runs(1, (24,))
    low = selective_ops.smallest_bytes(profile)
    high = predict(profile, plain(24)).peak_bytes
    monkeypatch.delattr(selective_ops, "solve")
    found = selective_ops_pooled.solve(profile, (low + high) // 2, 1e-3)
    assert found.bound_s >= repeated_s(profile, found) * (1 - 1e-3)
    ways = [(node == i, found.schedule.mode(i)) for i, node in enumerate(found.schedule.plan)]
    assert len(set(ways[1:-1])) > 1


@pytest.mark.parametrize(
    ("runs", "pools"), [((4,), []), ((5,), [range(1, 4)]), ((2, 6), [range(3, 7)])]
)
def test_a_pool_is_a_run_but_for_its_ends(runs, pools):
    found = selective_ops_pooled.pools_of(in_runs(0, runs))
    assert list(dict.fromkeys(filter(None, found))) == pools
    assert all(index in pool for index, pool in enumerate(found) if pool)


class Alike(selective_ops.Programme):
    """All equal blocks choose alike, or take turns."""

    def __init__(self, profile, budget_bytes, period):
        self.period, self.listed = period, []
        super().__init__(profile, budget_bytes, 0.0)

    def choices_of(self, block):
        index, period = len(self.listed), self.period
        earlier = self.profile.blocks[index - period] if index >= period else None
        self.listed.append(self.listed[-period] if block == earlier else super().choices_of(block))
        return self.listed[-1]


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", few(range(12), 2))
def test_between_blocks_that_choose_alike_nothing_is_the_most(seed, shared, period, monkeypatch):
    """The programme with fewer moments has the same answer as that with all."""
    profile = in_runs(seed, (9,) if seed % 2 else (1, 8))
    profile = sharing(profile, seed) if shared else profile
    tried = budgets(profile, seed)

    def answers():
        programmes = [Alike(profile, budget_bytes, period) for budget_bytes in tried]
        costs = [programme.solved() and programme.bound_s() for programme in programmes]
        return costs, sum(programme.model.getNumRow() for programme in programmes)

    fewer, rows = answers()
    monkeypatch.setattr(selective_ops, "is_between", lambda *_: False)
    every, most_rows = answers()
    assert fewer == pytest.approx(every, abs=1e-6)
    assert rows < most_rows or shared


@pytest.mark.parametrize("seed", [0, 3, 8])
def test_near_a_schedule_blocks_send_what_they_do_there(seed):
    profile = linked(seed, (5,))
    low, high = budgets(profile, seed)[1:3]
    known = selective_ops_sent.solve(profile, (low + high) // 2, 0.0)
    sent = [away_by(known.schedule.mode(index)) for index in range(5)]
    assert any(sent)
    same = selective_ops_near.solve(profile, (low + high) // 2, known.schedule, 0.0)
    assert same.bound_s <= known.bound_s + 1e-6
    for budget_bytes in (low, (low + 2 * high) // 3):
        found = selective_ops_near.solve(profile, budget_bytes, known.schedule, 0.0)
        assert predict(profile, found.schedule).peak_bytes <= budget_bytes
        for index, there in enumerate(sent):
            assert away_by(found.schedule.mode(index)) in {there, frozenset()}
