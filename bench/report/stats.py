"""The estimates of the report: a ratio of step times, how it changed, and a fitted exponent."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence

import numpy as np

from bench.report import ranks
from bench.report.rounding import steady

LEVEL = ranks.LEVEL
DOUBTLESS = 0.99  # of what is slower "beyond doubt": of equal steps, 1 in 200 is called slower
POWER = 0.80  # how often a slowdown that "could have been detected" is
WIDE = 0.10  # an interval wider than this part of its ratio cannot rank close strategies
FEWEST = min(ranks.REACH)  # with fewer rounds there is no interval
FEW = math.ceil(1 - math.log2(1 - LEVEL))  # with fewer, the interval assumes what noise is like


@dataclasses.dataclass(frozen=True)
class Interval:
    """A ratio, and the interval that holds the true one 95 times in 100.

    Attributes:
        estimate: of the ratio.
        low: end of the interval; ``None``, as ``high``: too few rounds for one.
        high: its other end.
        rounds: that it is from.
    """

    estimate: float
    low: float | None
    high: float | None
    rounds: int

    @property
    def width(self) -> float:
        """Of the interval, as a part of the estimate."""
        if self.low is None or self.high is None:
            return math.inf
        return (self.high - self.low) / self.estimate

    @property
    def unstable(self) -> bool:
        """Too wide to be relied on, or there is no interval at all."""
        return self.width > WIDE

    def holds(self, ratio: float) -> bool:
        """Whether the ratio may be the true one; where there is no interval, any may."""
        return self.low is None or self.high is None or self.low <= ratio <= self.high


def paired_ratio(values: Sequence[float], references: Sequence[float]) -> Interval | None:
    """Interval of ``values[i] / references[i]``; ``None`` when either was not measured.

    Hodges-Lehmann estimate of the logarithms, with its signed-rank interval (`bench.report.ranks`):
    of two contenders with the same noise, the logarithm of their ratio is symmetric, which is all
    that this assumes.

    Raises:
        ValueError: both measured, with unequal numbers of rounds: they cannot be paired.
    """
    if not values or not references:
        return None
    if len(values) != len(references):
        raise ValueError(f"{len(values)} rounds cannot be paired with {len(references)}")
    return centre(tuple(v / r for v, r in zip(values, references, strict=True)))


@functools.lru_cache(maxsize=4096)
def centre(ratios: tuple[float, ...]) -> Interval:
    """The ratio that these are noisy values of. It does not depend on their order.

    Raises:
        ValueError: no values.
    """
    if not ratios:
        raise ValueError("an estimate needs at least one value")
    logarithms = np.log(np.sort(np.asarray(ratios, dtype=np.float64)))
    ends = ranks.one_sample(logarithms, LEVEL)
    if ends is None:
        return Interval(_ratio(ranks.estimate(logarithms)), None, None, len(ratios))
    estimate, low, high = map(_ratio, ends)
    return Interval(estimate, low, high, len(ratios))


def _ratio(logarithm: np.float64 | ranks.Array) -> float:
    return steady(math.exp(float(logarithm)))


@dataclasses.dataclass(frozen=True)
class Change:
    """By which part a ratio grew from one set of rounds to another: 0.1 is a tenth slower.

    Attributes:
        estimate: of the change.
        low: end of its 95 % interval; ``None``, as every end here: too few rounds.
        high: its other end.
        doubtless_low: end of its 99 % interval.
        doubtless_high: its other end.
        rounds: before and after.
    """

    estimate: float
    low: float | None
    high: float | None
    doubtless_low: float | None
    doubtless_high: float | None
    rounds: tuple[int, int]

    @property
    def slower(self) -> bool:
        """Beyond doubt."""
        return self.doubtless_low is not None and self.doubtless_low > 0

    @property
    def detectable(self) -> float | None:
        """The slowdown that would have been called slower 80 times in 100, given this noise."""
        if self.doubtless_low is None or self.doubtless_high is None:
            return None
        normal = statistics.NormalDist()
        half = math.log((1 + self.doubtless_high) / (1 + self.doubtless_low)) / 2
        beyond = normal.inv_cdf(POWER) / normal.inv_cdf((1 + DOUBTLESS) / 2)
        return steady(math.expm1(half * (1 + beyond)))

    def rounds_for(self, slowdown: float) -> int | None:
        """How many rounds, of both sets, would detect this slowdown; an even number."""
        detectable = self.detectable
        if detectable is None or slowdown <= 0:
            return None
        times = (math.log1p(detectable) / math.log1p(slowdown)) ** 2
        return 2 * math.ceil(max(FEW, times * min(self.rounds)) / 2)


def change(before: Sequence[float], after: Sequence[float]) -> Change:
    """How the ratio changed from ``before`` to ``after``, by the rank-sum interval of logarithms.

    Args:
        before: ratios, one a round; at least one.
        after: the same of another run: nothing is paired with anything in ``before``.
    """
    a, b = (np.log(np.sort(np.asarray(ratios, dtype=np.float64))) for ratios in (before, after))
    usual, strict = (ranks.two_samples(a, b, level) for level in (LEVEL, DOUBTLESS))
    estimate = float(np.median(b[:, None] - a))
    return Change(
        estimate=_part(estimate),
        low=None if usual is None else _part(usual[1]),
        high=None if usual is None else _part(usual[2]),
        doubtless_low=None if strict is None else _part(strict[1]),
        doubtless_high=None if strict is None else _part(strict[2]),
        rounds=(len(a), len(b)),
    )


def _part(logarithm: float | ranks.Array) -> float:
    return steady(math.exp(float(logarithm))) - 1


@dataclasses.dataclass(frozen=True)
class Fit:
    """``y = constant + coefficient * x ** exponent``."""

    exponent: float
    coefficient: float
    r_squared: float
    points: int
    constant: float = 0.0


def fit_power(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """Fit a power law without a constant, by least squares on logarithms.

    ``None`` with fewer than two distinct ``x``, or a value not above zero.
    """
    if len(set(xs)) < 2 or min((*xs, *ys)) <= 0:
        return None
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    slope, intercept = _line(u, v, [1.0] * len(u))
    residual = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    mean = math.fsum(v) / len(v)
    total = math.fsum((b - mean) ** 2 for b in v)
    # A level series is all residual and no spread: a perfect fit of exponent 0, not 0 / 0.
    r_squared = 1.0 if total <= 1e-18 else 1 - residual / total
    return _steady(Fit(slope, math.exp(intercept), r_squared, len(u)))


def fit_offset(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """Fit a power law on top of a constant that is not below zero.

    For each exponent of a grid of 0.01 the rest is linear least squares on relative errors; the
    exponent with the least error wins. ``None`` as for `fit_power`, and below four points: three
    parameters need more than three.
    """
    return _offset(tuple(xs), tuple(ys))


@functools.lru_cache(maxsize=1024)
def _offset(xs: tuple[float, ...], ys: tuple[float, ...]) -> Fit | None:
    """Tables, figures and claims ask for the same series, each several times."""
    if len(set(xs)) < 4 or min((*xs, *ys)) <= 0:
        return None
    if max(ys) - min(ys) <= 1e-9 * max(ys):
        return Fit(0.0, 0.0, 1.0, len(xs), constant=ys[0])
    weights = [1 / y**2 for y in ys]
    fits = [_with_exponent(step / 100, xs, ys, weights) for step in range(1, 301)]
    return _steady(min(fits, key=lambda pair: pair[0])[1])


def _steady(fit: Fit) -> Fit:
    """The same on every CPU: logarithms and powers differ in the last bit."""
    return dataclasses.replace(
        fit,
        exponent=steady(fit.exponent),
        coefficient=steady(fit.coefficient),
        r_squared=steady(fit.r_squared),
        constant=steady(fit.constant),
    )


def _with_exponent(
    exponent: float, xs: Sequence[float], ys: Sequence[float], weights: Sequence[float]
) -> tuple[float, Fit]:
    powers = [x**exponent for x in xs]
    slope, constant = _line(powers, ys, weights)
    if constant < 0:
        products = math.fsum(w * p * y for w, p, y in zip(weights, powers, ys, strict=True))
        squares = math.fsum(w * p * p for w, p in zip(weights, powers, strict=True))
        slope, constant = products / squares, 0.0
    points = zip(weights, powers, ys, strict=True)
    error = math.fsum(w * (y - constant - slope * p) ** 2 for w, p, y in points)
    mean = math.fsum(w * y for w, y in zip(weights, ys, strict=True)) / math.fsum(weights)
    total = math.fsum(w * (y - mean) ** 2 for w, y in zip(weights, ys, strict=True))
    return error, Fit(exponent, slope, 1 - error / total, len(xs), constant)


def _line(
    xs: Sequence[float], ys: Sequence[float], weights: Sequence[float]
) -> tuple[float, float]:
    """Slope and intercept of the weighted least-squares line."""
    total = math.fsum(weights)
    x_mean = math.fsum(w * x for w, x in zip(weights, xs, strict=True)) / total
    y_mean = math.fsum(w * y for w, y in zip(weights, ys, strict=True)) / total
    centred = [(w, x - x_mean, y - y_mean) for w, x, y in zip(weights, xs, ys, strict=True)]
    spread = math.fsum(w * x * x for w, x, _ in centred)
    slope = math.fsum(w * x * y for w, x, y in centred) / spread
    return slope, y_mean - slope * x_mean
