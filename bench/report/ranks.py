"""Intervals from ranks: what noise is like is not assumed, but that it is as often high as low.

One sample: the Hodges-Lehmann estimate is the median of the means of all pairs of values (a value
with itself included), and the interval lies between two of these means that the exact distribution
of Wilcoxon's signed-rank statistic names. Two samples: the same of all differences, by Wilcoxon's
rank-sum statistic. Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*, 3rd ed. (2014),
§3.2 to 3.3 and §4.2 to 4.3; Hodges & Lehmann (1963), *Ann. Math. Statist.* 34:598.

Ranks are whole numbers, so that few levels can be had exactly. An end of the interval lies between
the two neighbours whose levels are on either side of the one wanted, in proportion (Hettmansperger
& Sheather 1986, *Statist. Probab. Lett.* 4:75, do it for the sign test). What that covers is
simulated: ``python -m bench coverage``.
"""

from __future__ import annotations

import functools
import statistics

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ends = tuple[Array, Array, Array]
"""Estimate, low and high end, of each sample."""

LEVEL = 0.95
"""Of intervals, if no other is named."""

REACH = {4: 0.660, 5: 0.107}
"""So few values leave the level of the interval between the extremes below 95 %, and nothing that
assumes as little reaches it. There, each end lies beyond the extreme by this part of its distance
from the median: what normal values need (20 million samples; a test repeats it). Of values with
heavy tails it covers a little more."""

_EXACT = 50
"""Of larger samples the rank sum is normal: the level is off by less than 0.1 %."""


@functools.cache
def signed_rank(count: int) -> Array:
    """P(T ≤ t), t = 0 … n(n+1)/2, of Wilcoxon's signed-rank statistic of ``count`` values."""
    chances = np.ones(1)
    for rank in range(1, count + 1):
        absent = np.concatenate((chances, np.zeros(rank)))
        present = np.concatenate((np.zeros(rank), chances))
        chances = (absent + present) / 2
    return np.cumsum(chances)


@functools.cache
def rank_sum(first: int, second: int) -> Array:
    """P(U ≤ u), u = 0 … mn, of the Mann-Whitney statistic of ``first`` and ``second`` values."""
    if max(first, second) > _EXACT:
        spread = (first * second * (first + second + 1) / 12) ** 0.5
        normal = statistics.NormalDist(first * second / 2, spread)
        return np.array([normal.cdf(u + 0.5) for u in range(first * second + 1)])
    return np.cumsum(_chances(first, second))


@functools.cache
def _chances(first: int, second: int) -> Array:
    """By which sample the largest value is of: above all ``second`` others, or of these."""
    if not first or not second:
        return np.ones(1)
    above = np.concatenate((np.zeros(second), _chances(first - 1, second)))
    below = np.concatenate((_chances(first, second - 1), np.zeros(first)))
    return (first * above + second * below) / (first + second)


def estimate(values: Array) -> Array:
    """Hodges-Lehmann estimate of the centre of each sample, ``[…, n]``."""
    return np.asarray(np.median(_pair_means(values), axis=-1))


def _pair_means(values: Array) -> Array:
    i, j = np.triu_indices(values.shape[-1])
    return np.sort((values[..., i] + values[..., j]) / 2, axis=-1)


def one_sample(values: Array, level: float) -> Ends | None:
    """Estimate and interval of the centre of each sample.

    Args:
        values: ``[…, n]``, a sample in each row.
        level: that the interval is to cover, as 0.95.

    Returns:
        Three arrays ``[…]``; ``None`` where so few values have no interval of this level.
    """
    count = values.shape[-1]
    means = _pair_means(values)
    ends = _between(means, signed_rank(count), level)
    if ends is None and count in REACH:
        ends = _beyond(np.sort(values, axis=-1), REACH[count])
    return None if ends is None else (np.median(means, axis=-1), *ends)


def two_samples(before: Array, after: Array, level: float) -> Ends | None:
    """Estimate and interval of how far ``after`` is above ``before``.

    Args:
        before: ``[…, m]``.
        after: ``[…, n]``, from elsewhere: nothing is paired.
        level: that the interval is to cover.

    Returns:
        Three arrays ``[…]``; ``None`` where so few values have no interval of this level.
    """
    steps = after[..., :, None] - before[..., None, :]
    steps = np.sort(steps.reshape(*steps.shape[:-2], -1), axis=-1)
    ends = _between(steps, rank_sum(before.shape[-1], after.shape[-1]), level)
    return None if ends is None else (np.median(steps, axis=-1), *ends)


def _between(ordered: Array, chances: Array, level: float) -> tuple[Array, Array] | None:
    """Between the order statistics that leave half of 1 - ``level`` outside at each end."""
    tail = (1 - level) / 2
    outside = int(np.searchsorted(chances, tail, side="right"))
    if not outside:
        return None
    less, more = chances[outside - 1], chances[outside]
    part = (tail - less) / (more - less)
    last, first = outside - 1, -outside
    low = ordered[..., last] + part * (ordered[..., last + 1] - ordered[..., last])
    high = ordered[..., first] - part * (ordered[..., first] - ordered[..., first - 1])
    return low, high


def _beyond(ordered: Array, reach: float) -> tuple[Array, Array]:
    least, most, middle = ordered[..., 0], ordered[..., -1], np.median(ordered, axis=-1)
    return least - reach * (middle - least), most + reach * (most - middle)
