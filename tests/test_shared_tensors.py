"""Tensors with readers beside the next block: budgets are kept, and bounds are below the best.

What `selective_ops` finds is the best (`test_selective_ops`), and so is what `optimal` finds: its
table does not see them, so that plans are tried in the order of its times.
"""

import dataclasses
import random

import pytest
import test_selective_ops
from effort import few
from nested import outcomes, random_profile
from shared_tensors import sharing

from strategies.auto import Auto
from strategies.schedules.interpreter import predict
from strategies.solvers import optimal, optimal_search

SLACK_S = 1e-9


def assert_bounded(profile, known, solve, seed):
    """Within the least budgets, where a solver may give up, and some others."""
    peaks = sorted({peak for peak, _ in known})
    others = random.Random(seed).sample(peaks, min(3, len(peaks)))
    for budget_bytes in sorted({*peaks[:6], *others}):
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        solution = solve(profile, budget_bytes)
        if solution is not None:
            predicted = predict(profile, solution.schedule)
            assert predicted.peak_bytes <= budget_bytes
            assert solution.bound_s <= best_s + SLACK_S
            if not solution.schedule.sends:
                assert best_s <= predicted.recompute_s + SLACK_S
    assert profile.link_bytes_per_s or solve(profile, peaks[0] - 1) is None


def optimal_is_the_best(seed, blocks):
    """Time and bound, within every budget of a sample."""
    profile = sharing(random_profile(seed, blocks, modes=2), seed)
    known = outcomes_of(profile, 2)
    peaks = sorted({peak for peak, _ in known})
    for budget_bytes in random.Random(seed).sample(peaks, min(8, len(peaks))):
        best_s = min(time for peak, time in known if peak <= budget_bytes)
        solution = optimal.solve(profile, budget_bytes)
        repeated_s = predict(profile, solution.schedule).recompute_s
        assert repeated_s == pytest.approx(best_s)
        assert solution.bound_s == pytest.approx(best_s)


def optimal_is_bounded(seed, blocks):
    borders = (2,) if seed % 5 == 0 and blocks > 2 else ()
    profile = sharing(random_profile(seed, blocks, modes=2, borders=borders), seed)
    assert_bounded(profile, outcomes_of(profile, 2), optimal.solve, seed)
    assert optimal.solve(profile, optimal.smallest_bytes(profile)) is not None


def auto_is_bounded(seed, blocks, **changes):
    profile, auto = test_selective_ops.with_shared(seed, blocks), Auto()
    profile = dataclasses.replace(profile, **changes)
    known = [*outcomes_of(profile, 1), *test_selective_ops.outcomes(profile)]
    assert_bounded(profile, known, auto.solution, seed)
    assert auto.solution(profile, auto.smallest_bytes(profile)) is not None


def linked_is_bounded(seed, blocks):
    """Its boundaries may leave, and come back as copies."""
    auto_is_bounded(seed, blocks, link_bytes_per_s=3.0)


def outcomes_of(profile, modes):
    return sorted(set(outcomes(profile, modes)))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_optimal(blocks):
    for seed in range(6):
        optimal_is_bounded(seed, blocks)
        optimal_is_the_best(seed, blocks)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_auto(blocks):
    for seed in range(4):
        auto_is_bounded(seed, blocks)


def test_auto_with_a_link():
    for seed in range(4):
        linked_is_bounded(seed, 1 + seed % 3)


@pytest.mark.parametrize("seed", few([68, 617, 650]))
def test_auto_does_not_rule_out_what_optimal_missed(seed, monkeypatch):
    """Nested plans fit and are faster than any choice of operators; the table names another.

    The search would find them, if it had the patience.
    """
    monkeypatch.setattr(optimal_search, "PATIENCE", 0)
    auto_is_bounded(seed, 4)


def test_auto_bounds_every_candidate_by_all():
    """The same schedule found twice has the lower bound of the two."""
    profile = test_selective_ops.with_shared(2, 3)
    peaks = {peak for peak, _ in outcomes(profile)}
    for budget_bytes in peaks:
        assert len({one.bound_s for one in Auto().solutions(profile, budget_bytes)}) <= 1


@pytest.mark.long
@pytest.mark.parametrize("begin", range(1000, 1400, 100))
@pytest.mark.parametrize("is_bounded", [optimal_is_bounded, optimal_is_the_best])
def test_many(is_bounded, begin):
    for seed in range(begin, begin + 100):
        is_bounded(seed, 1 + seed % 4)


@pytest.mark.long
@pytest.mark.parametrize("begin", [1000, 1100])
@pytest.mark.parametrize("is_bounded", [auto_is_bounded, linked_is_bounded])
def test_many_with_operators(is_bounded, begin):
    for seed in range(begin, begin + 50):
        is_bounded(seed, 1 + seed % 4)
