"""The two estimates of the report: a bootstrap interval and a fitted exponent."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

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
    return Interval(float(np.median(data)), float(low), float(high), len(data))


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
    """``y = coefficient * x ** exponent``, by least squares on logarithms."""

    exponent: float
    coefficient: float
    r_squared: float
    points: int


def fit_power(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """Fit a power law; ``None`` with fewer than two distinct ``x``, or a value not above zero."""
    if len(set(xs)) < 2 or min(*xs, *ys) <= 0:
        return None
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    u_mean, v_mean = math.fsum(u) / len(u), math.fsum(v) / len(v)
    spread = math.fsum((a - u_mean) ** 2 for a in u)
    slope = math.fsum((a - u_mean) * (b - v_mean) for a, b in zip(u, v, strict=True)) / spread
    intercept = v_mean - slope * u_mean
    residual = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    total = math.fsum((b - v_mean) ** 2 for b in v)
    # A level series is all residual and no spread: a perfect fit of exponent 0, not 0 / 0.
    r_squared = 1.0 if total <= 1e-18 else 1 - residual / total
    return Fit(slope, math.exp(intercept), r_squared, len(u))
