"""What several ranks did together, one row a cell."""

from __future__ import annotations

import statistics
from typing import Any

from bench.report import stats
from bench.store.records import Record

_MB = 1e6


def row(record: Record) -> dict[str, Any]:
    """The record of all ranks together, in units for people."""
    peaks = record.rank_peaks_bytes
    return {
        "workload": record.workload,
        "strategy": record.spec,
        "ranks": record.ranks,
        "parallel": record.parallel,
        "status": record.status,
        "peak MB, largest rank": _mb(max(peaks)) if peaks else "",
        "spread MB": _mb(max(peaks) - min(peaks)) if peaks else "",
        "step ms, slowest rank": _ms(record.step_s),
        "step / none": _ratio(record),
        "sent MB": _each(record.communication_bytes, _MB),
        "calls": _each(record.communication_calls),
        "calls more than none": _each(record.recomputed_collectives) or "0",
        "same bits as none": _yes(record.grads_bitwise_equal),
        "gradient error": _number(record.grad_max_rel_err),
        "reason": record.reason or "",
    }


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / _MB:.1f}"


def _ms(times_s: list[float]) -> str:
    return f"{1000 * statistics.median(times_s):.1f}" if times_s else ""


def _ratio(record: Record) -> str:
    ratio = stats.paired_ratio(record.step_s, record.none_step_s)
    if ratio is None:
        return ""
    ends = "" if ratio.low is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.estimate:.2f}{ends}"


def _each(counts: dict[str, int], unit: float = 0) -> str:
    """By kind; whole numbers, or so many units."""
    ordered = sorted(counts.items())
    return ", ".join(f"{kind} {n / unit:.1f}" if unit else f"{kind} {n}" for kind, n in ordered)


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
