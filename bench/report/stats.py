"""The two estimates of the report: a bootstrap interval and a fitted exponent."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from bench.report.rounding import steady

RESAMPLES = 2000
LEVEL = 0.95
SEED = 20160421  # any constant will do; one seed for all makes the report reproducible
WIDE = 0.10  # an interval wider than this part of its median cannot rank close strategies
FEW = 5  # with fewer rounds the bootstrap sees too few values for its interval to mean much


@dataclasses.dataclass(frozen=True)
class Interval:
    """A median and its percentile-bootstrap interval, over ``rounds`` values."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def unstable(self) -> bool:
        """Too wide, or from too few rounds, to be trusted."""
        return self.rounds < FEW or self.high - self.low > WIDE * self.median


@functools.lru_cache(maxsize=4096)
def bootstrap(values: tuple[float, ...]) -> Interval:
    """Median of ``values`` with its 95 % percentile-bootstrap interval (Efron 1979).

    Values are sorted first, so that the interval does not depend on the order of rounds.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a median needs at least one value")
    data = np.sort(np.asarray(values, dtype=np.float64))
    draws = np.random.default_rng(SEED).integers(0, len(data), (RESAMPLES, len(data)))
    medians = np.median(data[draws], axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    middle = float(np.median(data))
    return Interval(steady(middle), steady(float(low)), steady(float(high)), len(data))


def paired_ratio(values: Sequence[float], references: Sequence[float]) -> Interval | None:
    """Interval of ``values[i] / references[i]``; ``None`` when either was not measured.

    Raises:
        ValueError: both measured, with unequal numbers of rounds: they cannot be paired.
    """
    if not values or not references:
        return None
    if len(values) != len(references):
        raise ValueError(f"{len(values)} rounds cannot be paired with {len(references)}")
    return bootstrap(tuple(v / r for v, r in zip(values, references, strict=True)))


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
