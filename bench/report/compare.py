"""Two sets of records side by side, and a gate for continuous integration.

Reads only: a file that is no record is an error that names it, never set aside, for it is the
user's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from bench.report import display, trust
from bench.report.display import MISSING, cell, megabytes
from bench.report.frame import label_of
from bench.report.gate import (
    GATED,
    POWER_NOTE,
    STEP,
    Doubt,
    Limit,
    Regression,
    changed,
    judge,
    parse,
    step_change,
    value,
)
from bench.report.metrics import Metric, step_ratios
from bench.report.rounding import steady
from bench.store.records import Record, decode

Key = str
Cells = Mapping[Key, Record]
SHOWN = (
    "peak_allocated_bytes",
    "saved_after_forward_bytes",
    "recompute_of_forward",
    "step_ratio",
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two sets of records have in common, how it changed, and what fails the gate.

    Attributes:
        pairs: cell name, record before, record after.
        only_a: cells that only the first set has; ``only_b`` those of the second. They are listed,
            and fail nothing: a subset may be compared with a whole.
        notes: what the reader must know, such as different torch versions.
        regressions: what exceeds a limit; empty when nothing does or no limit was given.
        doubts: step times that may exceed one: more rounds would tell.
    """

    pairs: tuple[tuple[str, Record, Record], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    regressions: tuple[Regression, ...]
    doubts: tuple[Doubt, ...]
    metrics: tuple[Metric, ...]

    def markdown(self) -> str:
        """The comparison as Markdown: notes, regressions, changes, and unmatched cells."""
        parts = ["# Comparison\n", f"{display.UNITS}. Each figure: A → B.\n"]
        parts += [f"> **Note:** {cell(note)}\n" for note in self.notes]
        for heading, found in (("Regressions", self.regressions), ("Cannot tell", self.doubts)):
            body = [[cell(one.cell), cell(one.metric), cell(one.reason)] for one in found]
            if body:
                parts += [f"## {heading}\n", display.table(("Cell", "Metric", "Change"), body)]
        header = ("Cell", "Status", *(metric.name for metric in self.metrics))
        parts += ["## Cells\n", f"{POWER_NOTE}\n"]
        parts += [display.table(header, [self._line(*pair) for pair in self.pairs])]
        for name, cells in (("A", self.only_a), ("B", self.only_b)):
            if cells:
                parts += [f"## Only in {name}\n", "".join(f"- {cell(text)}\n" for text in cells)]
        return "\n".join(parts)

    def _line(self, name: str, before: Record, after: Record) -> list[str]:
        status = before.status if before.status == after.status else _arrow(before, after)
        changes = [_change(metric, before, after) for metric in self.metrics]
        return [cell(name), cell(status), *changes]


def compare(a: Path, b: Path, fail_on: Sequence[str] = ()) -> Comparison:
    """Compare the records at ``a`` (before) with those at ``b`` (after).

    Args:
        a: A record file, a folder of them (``raw`` below it is looked into first), or a file with
            one record a line, as ``run --format json`` prints.
        b: The same.
        fail_on: Limits, ``metric:threshold``. With any, a cell that was ``ok`` and no longer is
            counts as a regression as well.

    Raises:
        ValueError: an unreadable file, an unknown metric, different devices, or limits without a
            single cell to hold them against.
    """
    limits = [parse(text) for text in fail_on]
    old, new = _cells(load(a)), _cells(load(b))
    _same_devices(old, new)
    common = sorted(set(old) & set(new))
    if limits and not common:
        raise ValueError(f"{a} and {b} have no cell in common: there is nothing to gate")
    pairs = [(name_of(old[key]), old[key], new[key]) for key in common]
    for limit in limits:
        if all(value(limit.metric, before) is None for _, before, _ in pairs):
            raise ValueError(f"{a} has no {limit.metric.name}: there is nothing to gate")
    metrics = [GATED[name] for name in SHOWN] + [limit.metric for limit in limits]
    findings = [finding for pair in pairs for finding in _findings(pair, limits)]
    return Comparison(
        pairs=tuple(pairs),
        only_a=_names(old[key] for key in set(old) - set(new)),
        only_b=_names(new[key] for key in set(new) - set(old)),
        notes=tuple(_notes(pairs)),
        regressions=tuple(one for one in findings if isinstance(one, Regression)),
        doubts=tuple(one for one in findings if isinstance(one, Doubt)),
        metrics=tuple({metric.name: metric for metric in metrics}.values()),
    )


def load(path: Path) -> list[Record]:
    """The records at ``path``, which is not changed.

    Raises:
        ValueError: nothing there, or something that is not a record, by name.
    """
    if path.is_dir():
        root = path / "raw" if (path / "raw").is_dir() else path
        files = [p for suffix in ("json", "jsonl") for p in sorted(root.rglob(f"*.{suffix}"))]
    else:
        files = [path]
    records = [record for file in files for record in _read(file)]
    if not records:
        raise ValueError(f"{path}: no records there")
    return records


def _read(path: Path) -> list[Record]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    lines = [(n, line) for n, line in enumerate(data.splitlines(), 1) if line.strip()]
    if len(lines) < 2 or not _is_json(lines[0][1]):  # an indented record starts with a lone brace
        return [_decode(data, str(path))]
    return [_decode(line, f"{path}, line {number}") for number, line in lines]


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return True


def _decode(data: bytes, place: str) -> Record:
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def key_of(record: Record) -> Key:
    """What makes two records the same cell: all but versions, machine and time."""
    names = ("workload", "workload_options", "strategy", "params", "device", "device_name")
    parts = {
        name: getattr(record, name)
        for name in (*names, "precision", "optimizer", "memory_limit_bytes", "modelled")
    }
    return json.dumps(parts, sort_keys=True, default=str)


def name_of(record: Record) -> str:
    """A cell's name for people."""
    shape = ", ".join(f"{key}={v}" for key, v in sorted(record.workload_options.items()))
    extra = [record.precision, *([] if record.optimizer == "none" else [record.optimizer])]
    return f"{record.workload}({shape}) {label_of(record)} {record.device} {' '.join(extra)}"


def _names(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(sorted(name_of(record) for record in records))


def _cells(records: Iterable[Record]) -> dict[Key, Record]:
    """The latest record of each cell."""
    return {key_of(r): r for r in sorted(records, key=lambda r: (r.started_at_utc, r.cell_id))}


def _same_devices(old: Cells, new: Cells) -> None:
    before, after = ({_device(r) for r in side.values()} for side in (old, new))
    if not before & after:
        raise ValueError(
            f"A is from {', '.join(sorted(before))} and B from {', '.join(sorted(after))}: "
            "figures of different devices are no comparison"
        )


def _device(record: Record) -> str:
    kind = "modelled " if record.modelled else ""
    return f"{kind}{record.device} ({record.device_name})"


def _notes(pairs: Sequence[tuple[str, Record, Record]]) -> list[str]:
    notes = []
    for name, what in (("torch_version", "torch versions"), ("machine_id", "machines")):
        before = sorted({str(getattr(old, name)) for _, old, _ in pairs})
        after = sorted({str(getattr(new, name)) for _, _, new in pairs})
        if before != after:
            notes.append(f"different {what}: {', '.join(before)} in A, {', '.join(after)} in B")
    counts = {len(step_ratios(record)) for _, *both in pairs for record in both}
    return [*notes, *trust.of_rounds(counts)]


def _findings(
    pair: tuple[str, Record, Record], limits: Sequence[Limit]
) -> list[Regression | Doubt]:
    name, before, after = pair
    if not limits or before.status != "ok":
        return []
    if after.status != "ok":
        reason = f"{_arrow(before, after)}: {after.reason or 'no reason was recorded'}"
        return [Regression(name, "status", reason)]
    findings = (judge(limit, name, before, after) for limit in limits)
    return [one for one in findings if one is not None]


def _arrow(before: Record, after: Record) -> str:
    return f"{before.status} → {after.status}"


def _change(metric: Metric, before: Record, after: Record) -> str:
    old, new = value(metric, before), value(metric, after)
    text = f"{_shown(metric, old)} → {_shown(metric, new)}"
    if old is None or new is None or not old:
        return text
    found = step_change(before, after) if metric.name == STEP else None
    if found is not None:
        return f"{text} ({changed(found)})"
    return f"{text} ({display.percent(steady(new / old) - 1, sign='+')})"


def _shown(metric: Metric, amount: float | None) -> str:
    if amount is None:
        return MISSING
    return f"{megabytes(amount)} MB" if metric.unit == "bytes" else f"{amount:.3g}"
