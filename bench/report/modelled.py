"""Tables of what no machine here could measure, and how far the time model can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.report import display
from bench.report.display import MISSING, cell, code, megabytes, percent, times
from bench.report.frame import Row, groups
from bench.report.rounding import steady

HEADER = (
    "Strategy",
    "Plan",
    "Fits",
    "Memory: textbook",
    "Modelled peak allocated, MB (× none)",
    "Modelled peak reserved, MB",
    "Saved after forward, MB (× none)",
    "Extra compute: textbook",
    "Extra compute: counted, % of forward",
    "Step time × none",
    "Where the peak is",
)

SIMULATOR_NOTES = (
    "Wall-clock seconds in the process of each cell, model construction included, two cells at a"
    " time; the resident set includes PyTorch itself.\n"
)

CALIBRATION_NOTES = (
    "Each timed CPU cell is also simulated, and a roofline of that CPU's own ceilings (fp32 FLOP/s"
    " of a matrix product, bytes/s of a copy, seconds of a tiny call, measured in the same process)"
    " models its step. Ratios are over `none` with math attention. Error: modelled over measured,"
    " less one.\n"
)


def group_table(group: Sequence[Row]) -> str:
    """One simulated workload on one device."""
    return display.table(HEADER, [_line(row) for row in group])


def _line(row: Row) -> list[str]:
    return [
        cell(row["label"]),
        code(display.abbreviate(row["plan"]) if row["plan"] else None),
        "yes" if row["status"] == "ok" else f"**{cell(row['status'])}**: {cell(row['reason'])}",
        cell(row["textbook_memory"]),
        display.amount(row["peak_allocated_bytes"], row["peak_x_reference"]),
        megabytes(row["peak_reserved_bytes"]),
        display.amount(row["saved_after_forward_bytes"], row["saved_x_reference"]),
        cell(row["textbook_compute"]),
        percent(row["recompute_of_forward"]),
        display.interval(row),
        _where(row),
    ]


def _where(row: Row) -> str:
    if row["peak_phase"] is None:
        return MISSING
    return cell(f"{row['peak_phase']}, {row['peak_module']}, {row['peak_operator']}")


def simulator(frame: pd.DataFrame) -> str:
    """What the simulator itself costs: seconds and resident memory, by workload and blocks."""
    parts = ["# What a simulation costs\n", SIMULATOR_NOTES]
    body = [_cost(group) for group in groups(frame) if group[0]["modelled"]]
    header = (
        *("Workload", "Blocks", "Device", "Cells", "All cells, s", "Longest, s"),
        "Largest resident set, MB",
    )
    parts.append(display.table(header, body) if body else "Nothing simulated yet.\n")
    return "\n".join(parts)


def _cost(group: Sequence[Row]) -> list[str]:
    seconds = [row["duration_s"] for row in group if row["duration_s"] is not None]
    resident = [row["resident_peak_bytes"] for row in group if row["resident_peak_bytes"]]
    first = group[0]
    return [
        cell(first["workload"]),
        str(first["workload_options"].get("layers", MISSING)),
        cell(first["device"]),
        str(len(group)),
        f"{steady(sum(seconds)):.1f}" if seconds else MISSING,
        f"{steady(max(seconds)):.1f}" if seconds else MISSING,
        megabytes(max(resident)) if resident else MISSING,
    ]


def calibration(frame: pd.DataFrame) -> str:
    """Modelled against measured step ratios, for every timed cell that has both."""
    parts = ["# The time model against this CPU\n", CALIBRATION_NOTES]
    for group in groups(frame):
        body = [_comparison(row) for row in group if _comparable(row)]
        if body:
            parts.append(f"## {cell(group[0]['workload'])}\n")
            parts.append(cell(f"{display.where(group)}. {display.options(group[0])}.") + "\n")
            header = ("Strategy", "Measured × none [95 %]", "Modelled × none", "Error")
            parts.append(display.table(header, body))
    return "\n".join(parts if len(parts) > 2 else [*parts, "Nothing timed yet.\n"])


def _comparable(row: Row) -> bool:
    estimate = row["modelled_step_x_reference"]
    return not row["modelled"] and row["step_ratio"] is not None and estimate is not None


def _comparison(row: Row) -> list[str]:
    estimate = row["modelled_step_x_reference"]
    error = estimate / row["step_ratio"] - 1
    return [cell(row["label"]), display.interval(row), times(estimate), percent(error, sign="+")]
