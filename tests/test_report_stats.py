"""Bootstrap intervals and fitted exponents."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.rounding import steady
from bench.report.stats import FEW, bootstrap, fit_offset, fit_power, paired_ratio

seconds = st.floats(1e-4, 1e3)
ratios = st.lists(st.floats(0.1, 10), min_size=1, max_size=30)


@given(seconds=st.lists(seconds, min_size=1, max_size=20), factor=st.sampled_from([0.5, 1, 2, 4]))
def test_constant_ratio_has_an_interval_of_no_width(seconds, factor):
    # Powers of two scale without rounding, so the ratios really are equal.
    interval = paired_ratio([s * factor for s in seconds], seconds)
    assert interval.low == interval.median == interval.high == factor
    assert interval.rounds == len(seconds)


@given(values=ratios)
def test_interval_holds_the_median_and_lies_within_the_values(values):
    interval = bootstrap(tuple(values))
    low, high = steady(min(values)), steady(max(values))
    assert low <= interval.low <= interval.median <= interval.high <= high


@given(values=ratios, random=st.randoms(use_true_random=False))
def test_interval_is_deterministic_and_does_not_depend_on_order(values, random):
    shuffled = random.sample(values, len(values))
    first = bootstrap(tuple(values))
    bootstrap.cache_clear()
    assert bootstrap(tuple(shuffled)) == first


def test_ratio_is_paired_by_round():
    # A machine that slows down fivefold between rounds: paired, the ratio stays 2.
    interval = paired_ratio([2.0, 10.0, 4.0], [1.0, 5.0, 2.0])
    assert (interval.low, interval.median, interval.high) == (2, 2, 2)


def test_known_interval_of_nine_values():
    interval = bootstrap(tuple(1 + i / 10 for i in range(9)))
    assert interval.median == pytest.approx(1.4)
    # The order statistics 2 and 8 of 9 hold the median with 96 %: the bootstrap must be near.
    assert interval.low == pytest.approx(1.1, abs=0.11)
    assert interval.high == pytest.approx(1.7, abs=0.11)


def test_unmeasured_is_none_and_unequal_rounds_are_an_error():
    assert paired_ratio([], [1.0]) is None
    assert paired_ratio([1.0], []) is None
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 1"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(())


def test_wide_or_few_is_unstable():
    assert not bootstrap((1.0,) * FEW).unstable
    assert bootstrap((1.0,) * (FEW - 1)).unstable
    assert bootstrap((1.0, 1.0, 1.5, 1.5, 2.0, 2.0)).unstable


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
