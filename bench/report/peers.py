"""Everyone else's checkpointing beside ours: the table of each interleaved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from bench.report import display
from bench.report.display import MISSING, cell, code, percent
from bench.report.frame import Row, build, rows
from bench.report.separated import csv as written
from bench.report.stats import Interval, paired_ratio
from bench.report.tables import gradient, plain
from bench.store.peers import Run
from bench.store.records import Record

OURS = "every_layer"
"""What every peer that checkpoints block by block is held against."""

HEADER = (
    "Strategy",
    "Whose",
    "Peak, MB (× none)",
    "Saved after forward, MB (× none)",
    "Extra compute, % of forward",
    "Step × none [95 %]",
    f"Step × {OURS} [95 %]",
    "Gradients against none",
)
NOTES = (
    f"{display.UNITS}. Every row ran under the same harness: peak, extra compute and gradients in "
    "a process of its own, checked against the model without a strategy as our own strategies are; "
    "steps of all rows in the same rounds of one process. Both ratios are Hodges-Lehmann estimates "
    f"of the paired ratio in the same round; † as in `tradeoff.md`. {MISSING} not measured. "
    "`none again` is `none` as one contender more: how far apart two equal ones are.\n"
)
REFERENCE = "none"
PEAK, SAVED = "peak_allocated_bytes", "saved_after_forward_bytes"
SAME = 0.01
"""Part of what `none` saves by which two that keep the same boundaries may differ: random states,
and what hangs on a call."""
AGAINST = (
    f"`{OURS}` against those that keep the same boundaries, right to the bit. Whoever keeps no "
    "random state needs less by it, some 5 kB a block on a CPU.\n"
)
AGAINST_HEADER = (
    "Peer",
    "Our peak less theirs, bytes",
    "Is ours higher?",
    "Their step × ours [95 %]",
    "Is ours slower?",
)
CSV_COLUMNS = (
    "workload",
    "device",
    "machine_id",
    "torch_version",
    "spec",
    "peer",
    "status",
    "reason",
    "peak_allocated_bytes",
    "saved_after_forward_bytes",
    "recompute_flops",
    "grads_bitwise_equal",
    "grad_max_rel_err",
    "peak_x_reference",
)
_SHARED = ("workload", "workload_options", "machine_id", "device", "precision", "optimizer")

Ratios = Mapping[str, Interval | None]


def markdown(records: Sequence[Record], runs: Sequence[Run]) -> str:
    """One table a run, and the sentence on ours against each peer that does the same."""
    table = rows(build(records))
    parts = ["# Peers\n", NOTES]
    for run in runs:
        parts.append(f"## {cell(run.workload)} on {cell(run.device)}\n")
        found = [row for row in table if _is_of(run, row)]
        parts += [_facts(run), _table(run, found), _against(run, found)]
    return "\n".join(parts)


def csv(records: Sequence[Record]) -> str:
    """Every cell, raw."""
    data = [{name: plain(row[name]) for name in CSV_COLUMNS} for row in rows(build(records))]
    return written(pd.DataFrame(data, columns=list(CSV_COLUMNS), dtype=object))


def ratios(run: Run, over: str) -> Ratios:
    """Each contender's step over that of one of them, paired by round."""
    seconds = {one.spec: one.step_s for one in run.timed}
    if over not in seconds:
        return {}
    return {spec: paired_ratio(step_s, seconds[over]) for spec, step_s in seconds.items()}


def _is_of(run: Run, row: Row) -> bool:
    return all(row[name] == getattr(run, name) for name in _SHARED)


def _facts(run: Run) -> str:
    shape = ", ".join(f"{key}={value}" for key, value in sorted(run.workload_options.items()))
    again = paired_ratio(run.none_again_step_s, run.timed[0].step_s)
    facts = (
        f"{run.device} ({run.device_name}); torch {run.torch_version}; {run.started_at_utc[:10]}",
        shape,
        f"precision {run.precision}, optimizer {run.optimizer}",
        f"threads {run.threads}",
        f"rounds {run.rounds}; none again {_interval(again)}",
    )
    return cell(". ".join(facts) + ".") + "\n"


def _table(run: Run, found: Sequence[Row]) -> str:
    over_none, over_ours = ratios(run, run.timed[0].spec), ratios(run, OURS)
    body = [_line(row, over_none, over_ours) for row in sorted(found, key=_place)]
    return display.table(HEADER, body)


def alike(found: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Ours, and the peers that do the same: right to the bit, recomputed, as many bytes saved."""
    kinds = {row["spec"]: row for row in found if row["status"] == "ok"}
    if not {OURS, REFERENCE} <= kinds.keys():
        return {}, []
    ours, close = kinds[OURS], SAME * kinds[REFERENCE][SAVED]
    peers = [
        row
        for row in kinds.values()
        if row["peer"]
        and row["grads_bitwise_equal"]
        and row["recompute_flops"]
        and abs(row[SAVED] - ours[SAVED]) <= close
    ]
    return ours, sorted(peers, key=lambda row: str(row["spec"]))


def _against(run: Run, found: Sequence[Row]) -> str:
    """Ours held against each peer that keeps the same."""
    ours, peers = alike(found)
    over = ratios(run, OURS)
    body = [
        [
            code(row["spec"]),
            f"{ours[PEAK] - row[PEAK]:+,}",
            "no" if ours[PEAK] <= row[PEAK] else f"by {(ours[PEAK] - row[PEAK]) / ours[PEAK]:.2%}",
            _interval(over.get(row["spec"])),
            _slower(over.get(row["spec"])),
        ]
        for row in peers
    ]
    return f"{AGAINST}\n{display.table(AGAINST_HEADER, body)}" if body else ""


def _slower(theirs: Interval | None) -> str:
    """Whether ours is, where the noise allows to say so."""
    if theirs is None or theirs.low is None or theirs.high is None:
        return MISSING
    if theirs.high < 1:
        return f"by {percent(1 / theirs.estimate - 1)}"
    return "no, faster" if theirs.low > 1 else "not beyond the noise"


def _place(row: Row) -> tuple[bool, bool, int, str]:
    """What runs first, from the lowest peak up; `none` before all, what cannot run last."""
    peak = row["peak_allocated_bytes"]
    return row["spec"] != "none", peak is None, peak or 0, row["spec"]


def _line(row: Row, over_none: Ratios, over_ours: Ratios) -> list[str]:
    return [
        code(row["spec"]),
        cell(row["peer"] or "this project"),
        display.amount(row["peak_allocated_bytes"], row["peak_x_reference"]),
        display.amount(row["saved_after_forward_bytes"], row["saved_x_reference"]),
        percent(row["recompute_of_forward"]),
        _interval(over_none.get(row["spec"])),
        _interval(over_ours.get(row["spec"])),
        _brief(row),
    ]


def _brief(row: Row) -> str:
    """As in every table, but of many missing gradients their number."""
    missing = row["grads_missing"]
    if not missing:
        return gradient(row)
    return f"**MISMATCH**: no gradient for {len(missing)} parameters, {cell(missing[0])} first"


def _interval(ratio: Interval | None) -> str:
    if ratio is None:
        return MISSING
    return display.estimate(ratio.estimate, ratio.low, ratio.high, unstable=ratio.unstable)
