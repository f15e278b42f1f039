"""Intervals of step ratios and fitted exponents."""

import math

import numpy as np
import pytest
import scipy  # `scipy.stats`, 60 MB, is loaded where it is used
from hypothesis import given
from hypothesis import strategies as st

from bench.report import ranks
from bench.report.rounding import steady
from bench.report.stats import (
    DOUBTLESS,
    FEW,
    FEWEST,
    LEVEL,
    centre,
    change,
    fit_offset,
    fit_power,
    paired_ratio,
)

seconds = st.floats(1e-4, 1e3)
ratios = st.lists(st.floats(0.1, 10), min_size=1, max_size=30)
enough = st.lists(st.floats(0.1, 10), min_size=FEWEST, max_size=30)


@given(seconds=st.lists(seconds, min_size=4, max_size=20), factor=st.sampled_from([0.5, 1, 2, 4]))
def test_constant_ratio_has_an_interval_of_no_width(seconds, factor):
    # Powers of two scale without rounding, so the ratios really are equal.
    interval = paired_ratio([s * factor for s in seconds], seconds)
    assert interval.low == interval.estimate == interval.high == factor
    assert interval.rounds == len(seconds)
    assert (interval.width, interval.unstable) == (0, False)


@given(values=enough)
def test_the_interval_holds_the_estimate_and_of_enough_rounds_lies_within_the_values(values):
    interval = centre(tuple(values))
    assert interval.low <= interval.estimate <= interval.high
    if len(values) >= FEW:
        assert steady(min(values)) <= interval.low
        assert interval.high <= steady(max(values))


@given(values=ratios, random=st.randoms(use_true_random=False))
def test_interval_is_deterministic_and_does_not_depend_on_order(values, random):
    shuffled = random.sample(values, len(values))
    first = centre(tuple(values))
    centre.cache_clear()
    assert centre(tuple(shuffled)) == first


@given(values=enough)
def test_the_inverse_of_the_ratio_has_the_inverse_interval(values):
    there, back = centre(tuple(values)), centre(tuple(1 / value for value in values))
    assert back.estimate == pytest.approx(1 / there.estimate, rel=1e-9)
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low), rel=1e-9)


def test_ratio_is_paired_by_round():
    # A machine that slows down fivefold between rounds: paired, the ratio stays 2.
    interval = paired_ratio([2.0, 10.0, 4.0, 6.0], [1.0, 5.0, 2.0, 3.0])
    assert (interval.low, interval.estimate, interval.high) == (2, 2, 2)


def test_known_interval_of_seven_values():
    # Of 28 means of pairs, the signed-rank statistic puts the ends between the 3rd and the 4th from
    # outside: P(T ≤ 2) = 3/128 and P(T ≤ 3) = 5/128.
    logs = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    means = sorted((a + b) / 2 for i, a in enumerate(logs) for b in logs[i:])
    part = (0.025 * 128 - 3) / 2
    _, low, high = ranks.one_sample(np.array(logs), 0.95)
    assert low == pytest.approx(means[2] + part * (means[3] - means[2]))
    assert high == pytest.approx(means[-3] - part * (means[-3] - means[-4]))


@pytest.mark.parametrize("count", [4, 6, 9, 15])
def test_the_distribution_of_the_signed_rank_is_that_of_scipy(count):
    chances = ranks.signed_rank(count)
    for last in range(count):  # values of which the first ``last`` are below zero
        values = np.arange(1, count + 1.0) * np.where(np.arange(count) < last, -1, 1)
        expected = scipy.stats.wilcoxon(values, method="exact", alternative="greater").pvalue
        assert chances[last * (last + 1) // 2] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(3, 5), (6, 6), (12, 7), (50, 20)])
def test_the_distribution_of_the_rank_sum_is_that_of_scipy(sizes):
    first, second = sizes
    before = np.arange(first) + 0.5
    chances = ranks.rank_sum(*sizes)
    for shift in (-2, 0, 3):
        after = np.arange(second) * 1.01 + shift
        got = scipy.stats.mannwhitneyu(before, after, method="exact", alternative="less")
        assert chances[int(got.statistic)] == pytest.approx(got.pvalue, rel=1e-9)


def test_the_rank_sum_of_large_samples_is_nearly_exact():
    exact = np.cumsum(ranks._chances(51, 40))
    tail = exact < 0.03  # where levels of intervals are
    assert np.abs(ranks.rank_sum(51, 40) - exact)[tail].max() < 3e-4


def test_the_reach_of_four_and_five_values_is_what_normal_noise_needs():
    draws = np.random.default_rng(5)
    for count, reach in ranks.REACH.items():
        values = np.sort(draws.standard_normal((400_000, count)), axis=1)
        low, high = ranks._beyond(values, reach)
        assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(LEVEL, abs=0.001)
        assert 1 - 2 * ranks.signed_rank(count)[0] < LEVEL  # nothing that assumes less is left


NOISES = {
    "normal": lambda draws, shape: 1 + 0.05 * draws.standard_normal(shape),
    "log-normal": lambda draws, shape: np.exp(0.2 * draws.standard_normal(shape)),
    "heavy-tailed": lambda draws, shape: np.exp(0.05 * draws.standard_t(3, shape)),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 9, 13, 20, 30])
def test_the_interval_covers_what_it_says(noise, count):
    """Between 94 and 97 %, of 8,000 samples of a step that takes a third more."""
    draws = np.random.default_rng(count)
    values, references = (NOISES[noise](draws, (8000, count)) for _ in range(2))
    _, low, high = ranks.one_sample(np.log(4 / 3 * values / references), LEVEL)
    covered = np.mean((low <= np.log(4 / 3)) & (np.log(4 / 3) <= high))
    assert 0.94 < covered < 0.97


def test_unmeasured_is_none_and_unequal_rounds_are_an_error():
    assert paired_ratio([], [1.0]) is None
    assert paired_ratio([1.0], []) is None
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 1"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        centre(())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_rounds_have_an_estimate_and_no_interval(count):
    interval = centre((1.25,) * count)
    assert (interval.estimate, interval.low, interval.high) == (1.25, None, None)
    assert interval.unstable
    assert interval.holds(99)


def test_wide_is_unstable():
    assert FEW == 6
    assert not centre((1.0,) * FEWEST).unstable
    assert centre((1.0, 1.0, 1.5, 1.5, 2.0, 2.0)).unstable


@given(before=enough, factor=st.sampled_from([0.25, 1, 4]))
def test_a_change_is_that_of_the_ratio(before, factor):
    found = change(before, [factor * ratio for ratio in before])
    assert found.estimate == pytest.approx(factor - 1, abs=1e-9)
    assert found.low <= found.estimate <= found.high
    assert found.slower <= (factor > 1)


def test_a_change_needs_four_rounds_for_its_interval_and_five_to_be_beyond_doubt():
    for count, known, doubtless in ((3, False, False), (4, True, False), (5, True, True)):
        found = change([1.0] * count, [2.0] * count)
        assert (found.low is not None, found.slower) == (known, doubtless)
        assert (found.detectable is not None) == doubtless
        assert (found.rounds_for(0.1) is not None) == doubtless


def test_what_is_detectable_is_detected_four_times_in_five():
    draws = np.random.default_rng(3)
    before, after = (np.exp(0.03 * draws.standard_normal((4000, 12))) for _ in range(2))
    said = np.median([change(a, b).detectable for a, b in zip(before[:300], after, strict=False)])
    _, low, _ = ranks.two_samples(np.log(before), np.log(after * (1 + said)), DOUBTLESS)
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.05)


def test_more_rounds_detect_less():
    found = change([1.0, 1.1] * 6, [1.05, 1.15] * 6)
    assert found.rounds_for(found.detectable) == 12
    assert found.rounds_for(found.detectable / 2) in range(44, 53, 2)  # four times as many or so
    assert found.rounds_for(0) is None


@given(
    exponent=st.floats(-2, 3),
    coefficient=st.floats(1e-3, 1e9),
    xs=st.lists(st.integers(1, 500), min_size=2, max_size=10, unique=True),
)
def test_fit_finds_the_power_law(exponent, coefficient, xs):
    fit = fit_power(xs, [coefficient * x**exponent for x in xs])
    assert fit.exponent == pytest.approx(exponent, abs=1e-6)
    assert fit.coefficient == pytest.approx(coefficient, rel=1e-5)
    assert fit.r_squared == pytest.approx(1, abs=1e-6) or abs(exponent) < 1e-6
    assert fit.points == len(xs)


def test_fit_of_a_constant_is_exponent_0_and_perfect():
    fit = fit_power([4, 8, 16, 32], [7, 7, 7, 7])
    assert fit.exponent == 0
    assert fit.r_squared == 1


def test_fit_reports_scatter():
    fit = fit_power([1, 2, 4, 8], [1, 8, 2, 16])
    assert 0 < fit.r_squared < 0.8
    assert math.isclose(fit.exponent, 1.0)


DEPTHS = [4, 8, 16, 32, 64]


@given(
    step=st.integers(30, 200),
    coefficient=st.floats(1, 1e6),
    share=st.floats(0, 5),
)
def test_offset_fit_finds_exponent_and_constant(step, coefficient, share):
    exponent, constant = step / 100, share * coefficient
    fit = fit_offset(DEPTHS, [constant + coefficient * x**exponent for x in DEPTHS])
    assert fit.exponent == pytest.approx(exponent, abs=0.011)
    assert fit.constant == pytest.approx(constant, abs=0.05 * (constant + coefficient))
    assert fit.r_squared == pytest.approx(1, abs=1e-4)


def test_offset_fit_has_no_constant_below_zero():
    fit = fit_offset(DEPTHS, [x - 3 for x in DEPTHS])
    assert fit.constant == 0
    assert fit.exponent > 1


def test_offset_fit_of_a_constant_is_all_constant():
    fit = fit_offset(DEPTHS, [7] * 5)
    assert (fit.exponent, fit.constant, fit.coefficient) == (0, 7, 0)


def test_offset_fit_needs_four_points_above_zero():
    assert fit_offset([4, 8, 16], [1, 2, 3]) is None
    assert fit_offset(DEPTHS, [0, 1, 2, 3, 4]) is None
    assert fit_offset([], []) is None


@pytest.mark.parametrize(("xs", "ys"), [([4], [1]), ([4, 4], [1, 2]), ([4, 8], [0, 1])])
def test_no_fit_where_there_is_none(xs, ys):
    assert fit_power(xs, ys) is None
