"""The tables: theory beside prediction beside measurement, and what failed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.report import display, modelled, separated, trust
from bench.report.depth import chain_of, order, series
from bench.report.display import MISSING, cell, code, megabytes, percent
from bench.report.frame import ATTENTION, Row, groups, rows
from bench.report.metrics import METRICS
from bench.report.rounding import steady
from bench.report.stats import FEWEST, LEVEL, WIDE

HEADER = (
    "Strategy",
    "Plan",
    "Memory: textbook",
    "Memory: predicted peak, MB",
    "Memory: measured peak, MB (× none)",
    "Memory: saved after forward, MB (× none)",
    "Extra compute: textbook",
    "Extra compute: predicted, % of forward",
    "Extra compute: counted, % of forward",
    "Step time × none [95 %]",
    "Gradients against none",
)

STEP_NOTE = (
    "the Hodges-Lehmann estimate, over interleaved rounds, of the paired ratio to `none` (math "
    f"attention) in the same round, with its {100 * LEVEL:.0f} % signed-rank interval."
)
NOTES = (
    f"{display.UNITS}. Memory × none is over `none` with math attention in the same table, if "
    "there is one. Predicted figures come from the plan interpreter and the profile of the "
    "blocks, not from the run. Step time is "
    f"{STEP_NOTE} † unstable: the interval is wider than {100 * WIDE:.0f} % of the ratio, or fewer "
    f"than {FEWEST} rounds have none. "
    f"{MISSING} not measured.\n"
)

CELL_COLUMNS = (
    "workload",
    "workload_options",
    "device",
    "device_name",
    "modelled",
    "precision",
    "optimizer",
    "torch_version",
    "machine_id",
    "started_at_utc",
    "strategy",
    "spec",
)
"""What the CSV of every kind of table says of a cell, first."""
CSV_COLUMNS = (
    *CELL_COLUMNS,
    "label",
    "status",
    "reason",
    "plan",
    "storage",
    "attention_kernel",
    "textbook_memory",
    "textbook_compute",
    "predicted_peak_bytes",
    "predicted_saved_after_forward_bytes",
    "predicted_recompute_flops",
    "forward_flops",
    "grads_bitwise_equal",
    *METRICS,
    "peak_x_reference",
    "saved_x_reference",
    "modelled_step_x_reference",
    "rounds",
    "unstable",
    "cell_id",
)


def tradeoff_groups(frame: pd.DataFrame) -> list[list[Row]]:
    """Groups for the trade-off table: all but those that only serve a depth series."""
    chains = {one.chain for one in series(frame)}
    return [
        sorted(group, key=_place)
        for group in groups(frame)
        if any(row["rounds"] for row in group) or chain_of(group[0]) not in chains
    ]


def _place(row: Row) -> tuple[bool, bool, float, str]:
    """`none` first, then from the highest peak down; what has no peak is last."""
    other, flash, label = order(row)
    peak = row["peak_allocated_bytes"]
    return other, flash and not other, float("inf") if peak is None else -peak, label


def tradeoff(frame: pd.DataFrame) -> str:
    """Every trade-off table, as Markdown."""
    parts = ["# Memory against compute\n", NOTES]
    for group in tradeoff_groups(frame):
        parts += [f"## {cell(title(group))}\n", group_table(group)]
    return "\n".join(parts)


def title(group: Sequence[Row]) -> str:
    """``gpt-mini on cpu``; that a device is modelled is said below, by `display.where`."""
    return f"{group[0]['workload']} on {group[0]['device']}"


def group_table(group: Sequence[Row]) -> str:
    """One table under a line that says where it was measured, and with what."""
    first = group[0]
    shape = display.options(first, without=(ATTENTION,))
    limit = first["memory_limit_bytes"]
    rounds = sorted({row["rounds"] for row in group if row["rounds"]})
    facts = [
        display.where(group),
        shape,
        f"precision {first['precision']}, optimizer {first['optimizer']}",
        f"threads {first['threads']}",
        f"memory limited to {megabytes(limit)} MB" if limit else "",
        f"rounds {', '.join(map(str, rounds))}" if rounds else "not timed",
    ]
    line = cell(" ".join([". ".join(fact for fact in facts if fact) + ".", *trust.remarks(group)]))
    if first["modelled"]:
        return f"{line}\n\n{modelled.group_table(group)}"
    return f"{line}\n\n{display.table(HEADER, [_line(row) for row in group])}"


def _line(row: Row) -> list[str]:
    return [
        cell(row["label"]),
        code(display.abbreviate(row["plan"]) if row["plan"] else None),
        cell(row["textbook_memory"]),
        megabytes(row["predicted_peak_bytes"]),
        display.amount(row["peak_allocated_bytes"], row["peak_x_reference"]),
        display.amount(row["saved_after_forward_bytes"], row["saved_x_reference"]),
        cell(row["textbook_compute"]),
        percent(row["predicted_recompute_of_forward"]),
        percent(row["recompute_of_forward"]),
        display.interval(row),
        gradient(row),
    ]


def gradient(row: Row) -> str:
    """How the gradients compare with the reference, or how the cell failed, escaped."""
    if row["status"] == "mismatch":
        return f"**MISMATCH**: {cell(row['reason'])}"
    if row["status"] != "ok":
        return f"**{cell(row['status'])}**: {cell(row['reason'])}"
    if row["grads_missing"]:
        return f"missing: {cell(', '.join(row['grads_missing']))}"
    if row["grads_bitwise_equal"]:
        return "bitwise equal"
    if row["grad_max_rel_err"] is None:
        return MISSING
    cosine = row["grad_min_cosine"]
    tail = "" if cosine is None else f", cosine {steady(cosine):.6f}"
    return f"max rel. error {steady(row['grad_max_rel_err']):.1e}{tail}"


def tradeoff_csv(frame: pd.DataFrame) -> str:
    """Every cell, raw bytes and unrounded FLOPs, ratios to six decimals."""
    data = [{name: plain(row[name]) for name in CSV_COLUMNS} for row in rows(frame)]
    table = pd.DataFrame(data, columns=list(CSV_COLUMNS), dtype=object)
    return separated.csv(table)


def plain(value: object) -> object:
    """A value for CSV: floats to six places, options as text."""
    if isinstance(value, float):
        value = steady(value)
        return f"{value:.6g}" if 0 < abs(value) < 1e-3 else f"{value:.6f}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={value[key]}" for key in sorted(value))
    return value


def failures(frame: pd.DataFrame) -> str:
    """Every cell that did not end well, with its reason."""
    failed = [row for row in rows(frame) if row["status"] != "ok"]
    header = ("Workload", "Options", "Strategy", "Device", "torch", "Date", "Status", "Reason")
    body = [[cell(text) for text in _failure(row)] for row in failed]
    table = display.table(header, body) if body else "Every cell ended well.\n"
    return f"# Cells that failed\n\n{table}"


def _failure(row: Row) -> tuple[str, ...]:
    return (
        row["workload"],
        display.options(row),
        row["label"],
        display.device(row),
        row["torch_version"],
        display.dates([row]),
        row["status"],
        row["reason"] or "no reason was recorded",
    )
