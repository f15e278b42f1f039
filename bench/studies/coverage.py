"""How often intervals of a step ratio hold the true one, by simulation.

Steps of two contenders with the same noise, one longer by a known ratio, in interleaved rounds. Of
each sample the interval of the report (`bench.report.ranks`), and beside it what was used before:
the percentile bootstrap of the median (Efron 1979), which is too narrow for so few rounds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from bench.cells import machine
from bench.report import ranks
from bench.report.ranks import Array
from bench.report.rounding import steady
from bench.report.stats import LEVEL
from bench.store.coverage import SCHEMA_VERSION, Case, Method, Study

RATIO = 4 / 3
ROUNDS = range(4, 31)
SAMPLES = 20_000
RESAMPLES = 2000
TOGETHER = 1000
"""Samples that are in memory at once."""

Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
Report = Callable[[Case], None]


@dataclasses.dataclass(frozen=True)
class Noise:
    """What steps are multiplied by.

    Attributes:
        description: of one contender's steps.
        draw: factors ``[samples, rounds]`` of the steps of one contender.
        order: by which part the second contender of a round is faster; the order is reversed every
            other round.
    """

    description: str
    draw: Draw
    order: float = 0.0


def _normal(draws: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 1 + 0.05 * draws.standard_normal(shape)


def _spikes(draws: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 1 + 0.02 * draws.standard_normal(shape) + 0.5 * (draws.random(shape) < 0.1)


NOISES = {
    "normal": Noise("1 + 0.05 × normal", _normal),
    "log-normal": Noise(
        "exp(0.2 × normal)", lambda draws, shape: np.exp(0.2 * draws.standard_normal(shape))
    ),
    "heavy-tailed": Noise(
        "exp(0.05 × Student's t with 3 degrees of freedom)",
        lambda draws, shape: np.exp(0.05 * draws.standard_t(3, shape)),
    ),
    "Cauchy": Noise(
        "exp(0.01 × Cauchy)",
        lambda draws, shape: np.exp(0.01 * np.clip(draws.standard_cauchy(shape), -5e4, 5e4)),
    ),
    "spikes": Noise("1 + 0.02 × normal, and one step in ten longer by half a step", _spikes),
    "order effect": Noise(
        "1 + 0.05 × normal, and the second contender of a round faster by 3 %", _normal, order=0.03
    ),
}


def study(samples: int, seed: int, report: Report) -> Study:
    """All kinds of noise at all numbers of rounds.

    Args:
        samples: of each.
        seed: of all; each case draws from a stream of its own.
        report: is told of every case.
    """
    provenance = machine.provenance(SCHEMA_VERSION, seed)
    started = time.perf_counter()
    cases = list(_cases(samples, seed, report))
    return Study(
        **provenance | {"duration_s": round(time.perf_counter() - started, 3)},
        numpy_version=np.__version__,
        level=LEVEL,
        ratio=RATIO,
        samples=samples,
        resamples=RESAMPLES,
        noises={name: noise.description for name, noise in NOISES.items()},
        cases=cases,
    )


def _cases(samples: int, seed: int, report: Report) -> Iterator[Case]:
    for number, name in enumerate(NOISES):
        for rounds in ROUNDS:
            found = case(name, rounds, samples, np.random.default_rng((seed, number, rounds)))
            report(found)
            yield found


def case(name: str, rounds: int, samples: int, draws: np.random.Generator) -> Case:
    """One kind of noise at one number of rounds."""
    logarithms = _logarithms(NOISES[name], (samples, rounds), draws)
    parts = np.split(logarithms, range(TOGETHER, samples, TOGETHER))
    return Case(
        noise=name,
        rounds=rounds,
        interval=_method([_signed_rank(part) for part in parts]),
        bootstrap=_method([bootstrap(part) for part in parts]),
    )


def _logarithms(noise: Noise, shape: tuple[int, int], draws: np.random.Generator) -> Array:
    """Of the paired ratios: in even rounds the reference comes first."""
    steps, references = RATIO * noise.draw(draws, shape), noise.draw(draws, shape)
    steps[:, ::2] *= 1 - noise.order
    references[:, 1::2] *= 1 - noise.order
    return np.asarray(np.log(steps / references))


def _signed_rank(logarithms: Array) -> tuple[Array, Array]:
    ends = ranks.one_sample(logarithms, LEVEL)
    assert ends is not None
    return ends[1:]


def bootstrap(values: Array) -> tuple[Array, Array]:
    """The percentile bootstrap of the median of each row; all rows are drawn alike.

    The median of a resample is that of the places that were drawn from the ordered values.
    """
    count = values.shape[1]
    places = np.random.default_rng(count).integers(0, count, (RESAMPLES, count))
    middle = np.sort(places, axis=1)[:, [(count - 1) // 2, count // 2]]
    pairs, counts = np.unique(middle, axis=0, return_counts=True)  # far fewer than resamples
    ordered = np.sort(values, axis=1)
    medians = (ordered[:, pairs[:, 0]] + ordered[:, pairs[:, 1]]) / 2
    tail = (1 - LEVEL) / 2
    return _quantile(medians, counts, tail), _quantile(medians, counts, 1 - tail)


def _quantile(values: Array, counts: npt.NDArray[np.int64], part: float) -> Array:
    """As `numpy.quantile` of each row, in which every value stands so many times."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    ends = np.cumsum(counts[order], axis=1)
    place = part * (int(counts.sum()) - 1)
    below, above = (
        np.take_along_axis(ordered, np.sum(ends <= at, axis=1)[:, None], axis=1)[:, 0]
        for at in (math.floor(place), math.ceil(place))
    )
    return np.asarray(below + (place - math.floor(place)) * (above - below))


def _method(parts: list[tuple[Array, Array]]) -> Method:
    low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    truth = np.log(RATIO)
    return Method(
        covered=int(np.sum((low <= truth) & (truth <= high))),
        median_width=steady(float(np.median(np.exp(high) - np.exp(low)) / RATIO)),
    )
