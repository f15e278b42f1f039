"""Metrics derived from raw records: each a function with its description, direction and unit.

A record stores what was measured; everything else is computed here, once, so that a table, a
figure, a claim and the compare gate cannot disagree. Adding a metric is one entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from bench.report.rounding import steady
from bench.report.stats import Interval, paired_ratio
from bench.store.records import Record

Unit = Literal["bytes", "FLOPs", "ratio", "seconds"]
Better = Literal["lower", "higher", "nearer 0", "neither"]
Compute = Callable[[Record, Record | None], float | None]


@dataclasses.dataclass(frozen=True)
class Metric:
    """``compute(record, none)``, where ``none`` is the `none` cell of the same settings."""

    name: str
    description: str
    better: Better
    unit: Unit
    compute: Compute


def over(numerator: float | None, denominator: float | None) -> float | None:
    """A quotient; ``None`` when a part is missing or the denominator is 0."""
    return None if numerator is None or not denominator else steady(numerator / denominator)


def relative_error(predicted: float | None, measured: float | None) -> float | None:
    """``predicted / measured - 1``."""
    quotient = over(predicted, measured)
    return None if quotient is None else steady(quotient - 1)


def step_ratios(record: Record) -> list[float]:
    """Step time over the step time of `none` in the same round, of each; empty: not measured.

    Raises:
        ValueError: the rounds cannot be paired.
    """
    if step_interval(record) is None:
        return []
    return [one / none for one, none in zip(record.step_s, record.none_step_s, strict=True)]


def step_interval(record: Record) -> Interval | None:
    """Step time over the step time of `none` in the same round.

    Only of a cell that ended well: a killed one may have half a round.

    Raises:
        ValueError: the rounds cannot be paired.
    """
    if record.status != "ok":
        return None
    try:
        return paired_ratio(record.step_s, record.none_step_s)
    except ValueError as error:
        raise ValueError(f"cell {record.cell_id} ({record.spec}): {error}") from error


def peak_over_none(record: Record, none: Record | None) -> float | None:
    """Peak allocated over that of `none`."""
    return over(record.peak_allocated_bytes, none.peak_allocated_bytes if none else None)


def saved_over_none(record: Record, none: Record | None) -> float | None:
    """Bytes saved after forward over those of `none`."""
    return over(record.saved_after_forward_bytes, none.saved_after_forward_bytes if none else None)


def modelled_step_over_none(record: Record, none: Record | None) -> float | None:
    """Step time over that of `none`, both as the device's model estimates them."""
    other = none.modelled_step_s if none else None
    return over(record.modelled_step_s, record.modelled_none_step_s or other)


def recompute_of_step(record: Record, none: Record | None) -> float | None:  # noqa: ARG001
    """Recomputed FLOPs over those of a step that recomputes nothing."""
    if record.step_flops is None or record.recompute_flops is None:
        return None
    return over(record.recompute_flops, record.step_flops - record.recompute_flops)


def recompute_error(record: Record, none: Record | None) -> float | None:  # noqa: ARG001
    """Predicted less counted recompute, in forwards: counted is 0 for `none`."""
    if record.predicted_recompute_flops is None or record.recompute_flops is None:
        return None
    return over(record.predicted_recompute_flops - record.recompute_flops, record.forward_flops)


def _step(part: str) -> Compute:
    def compute(record: Record, none: Record | None) -> float | None:  # noqa: ARG001
        interval = step_interval(record)
        end: float | None = None if interval is None else getattr(interval, part)
        return end

    return compute


def _raw(name: str, description: str, better: Better, unit: Unit) -> Metric:
    return Metric(name, description, better, unit, lambda record, _: getattr(record, name))


RAW = (
    _raw("peak_allocated_bytes", "highest allocated in a step", "lower", "bytes"),
    _raw("peak_reserved_bytes", "highest reserved in a step", "lower", "bytes"),
    _raw("saved_after_forward_bytes", "kept from forward for backward", "lower", "bytes"),
    _raw("after_forward_allocated_bytes", "allocated when forward ends", "lower", "bytes"),
    _raw("resident_peak_bytes", "highest resident set of the process", "lower", "bytes"),
    _raw("modelled_step_s", "estimated step time", "lower", "seconds"),
    _raw("step_flops", "FLOPs of a step", "lower", "FLOPs"),
    _raw("recompute_flops", "forward FLOPs that were done again", "lower", "FLOPs"),
    _raw("grad_max_rel_err", "largest relative error of a gradient", "lower", "ratio"),
    _raw("grad_min_cosine", "lowest cosine of a gradient to its reference", "higher", "ratio"),
)

DERIVED = (
    Metric("peak_x_none", "peak allocated over `none`", "lower", "ratio", peak_over_none),
    Metric("saved_x_none", "saved after forward over `none`", "lower", "ratio", saved_over_none),
    Metric(
        "recompute_of_forward",
        "recomputed FLOPs over those of one forward",
        "lower",
        "ratio",
        lambda record, _: over(record.recompute_flops, record.forward_flops),
    ),
    Metric(
        "predicted_recompute_of_forward",
        "predicted recomputed FLOPs over those of one forward",
        "lower",
        "ratio",
        lambda record, _: over(record.predicted_recompute_flops, record.forward_flops),
    ),
    Metric(
        "recompute_of_step",
        "recomputed FLOPs over those of a step of `none`",
        "lower",
        "ratio",
        recompute_of_step,
    ),
    Metric("step_ratio", "paired step time over `none`", "lower", "ratio", _step("estimate")),
    Metric(
        "modelled_step_x_none",
        "estimated step time over `none`, of a device that was not there",
        "lower",
        "ratio",
        modelled_step_over_none,
    ),
    Metric("step_ratio_low", "its 95 % interval, low end", "neither", "ratio", _step("low")),
    Metric("step_ratio_high", "its 95 % interval, high end", "neither", "ratio", _step("high")),
    Metric(
        "predicted_peak_error",
        "predicted over measured peak, less 1",
        "nearer 0",
        "ratio",
        lambda record, _: relative_error(record.predicted_peak_bytes, record.peak_allocated_bytes),
    ),
    Metric(
        "predicted_saved_error",
        "predicted over measured saved bytes, less 1",
        "nearer 0",
        "ratio",
        lambda record, _: relative_error(
            record.predicted_saved_after_forward_bytes, record.saved_after_forward_bytes
        ),
    ),
    Metric(
        "predicted_recompute_error",
        "predicted less counted recompute, in forwards",
        "nearer 0",
        "ratio",
        recompute_error,
    ),
)

METRICS = {metric.name: metric for metric in (*RAW, *DERIVED)}
