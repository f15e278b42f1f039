"""Where checkpointing starts to pay: the table and the figure.

Models of growing size at a usual number of tokens a step, and one model at growing length, with and
without checkpoints, on a simulated device. It pays where a step does not fit without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.report import canvas, display
from bench.report.display import MISSING, cell, percent, times
from bench.report.frame import Row, build, rows
from bench.report.rounding import steady
from bench.store.records import Record

FOLDER = "pays"
"""In the results: holds ``raw/``, so that no other table counts these cells."""
WORKLOAD, KEPT, SPARED = "gpt2-xl", "none", "every_layer"
PARAMETER_BYTES = 4
GIGABYTES = (5, 10, 20, 40, 80, 160)
"""Ticks of the figure."""
HEADER = (
    "Layers × width",
    "Parameters",
    "Sequences × tokens",
    "Precision",
    "Peak without, GB",
    "Peak with, GB",
    "Less by",
    "Step with × without, modelled",
    "Fits without",
    "Fits with",
)
NOTES = (
    "GPT models under flash attention and AdamW, `every_layer` against `none`, simulated: every "
    "tensor of the step counted, times by a roofline. GB is 10⁹ bytes. Checkpointing pays where a "
    "step fits with it alone; elsewhere it only costs its extra compute.\n"
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One step without checkpoints and with them."""

    without: Row
    with_: Row

    @property
    def parameters(self) -> int:
        """How many; they are in single precision."""
        return int(self.without["parameter_bytes"]) // PARAMETER_BYTES

    @property
    def on(self) -> str:
        """The device."""
        return str(self.without["device"])

    @property
    def tokens(self) -> int:
        """Of a sequence."""
        return int(self.without["workload_options"]["seq"])

    @property
    def pays(self) -> bool:
        """It fits with checkpoints, and not without."""
        return not fits(self.without) and fits(self.with_)

    @property
    def spared(self) -> float:
        """Part of the peak that checkpoints take away."""
        return 1 - float(self.with_["peak_allocated_bytes"] / self.without["peak_allocated_bytes"])

    @property
    def slower(self) -> float:
        """Modelled step with over without."""
        return float(self.with_["modelled_step_s"] / self.without["modelled_step_s"])


Rows = dict[str, list[Pair]]
"""By device, the smallest first."""


def within(results: Path) -> Path:
    """Where these records are, below the results."""
    return results / FOLDER


def fits(row: Row) -> bool:
    """The device could hold the step; what does not fit was counted all the same."""
    return bool(row["status"] == "ok")


def pairs(frame: pd.DataFrame) -> list[Pair]:
    """All pairs of the study, by device, precision, length and size."""
    kinds: dict[str, dict[str, Row]] = {}
    for row in rows(frame):
        asked = row["workload"] == WORKLOAD and row["modelled"] and row["optimizer"] == "adamw"
        if asked and row["status"] in ("ok", "oom"):
            kinds.setdefault(row["family"], {})[row["spec"]] = row
    found = [Pair(k[KEPT], k[SPARED]) for k in kinds.values() if {KEPT, SPARED} <= set(k)]
    known = [p for p in found if p.without["peak_allocated_bytes"] and p.with_["modelled_step_s"]]
    return sorted(known, key=_order)


def _order(pair: Pair) -> tuple[object, ...]:
    row = pair.without
    return (
        row["device"],
        row["precision"],
        row["workload_options"]["batch"],
        pair.parameters,
        pair.tokens,
    )


def by_size(frame: pd.DataFrame) -> Rows:
    """Those of several sequences a step, in mixed precision: on a device they differ in size."""
    found = [p for p in pairs(frame) if p.without["workload_options"]["batch"] > 1]
    return _by_device(p for p in found if p.without["precision"] != "fp32")


def by_length(frame: pd.DataFrame) -> Rows:
    """Those of one sequence: on a device they are of one model."""
    return _by_device(p for p in pairs(frame) if p.without["workload_options"]["batch"] == 1)


def _by_device(found: Iterable[Pair]) -> Rows:
    by_device: Rows = {}
    for pair in found:
        by_device.setdefault(pair.on, []).append(pair)
    return by_device


def markdown(records: Sequence[Record]) -> str:
    """The table."""
    found = pairs(build(records))
    body = [_line(pair) for pair in found]
    place = cell(display.where([pair.without for pair in found])) if found else "No records"
    return f"# Where checkpointing starts to pay\n\n{place}. {NOTES}\n{display.table(HEADER, body)}"


def _line(pair: Pair) -> list[str]:
    sizes = pair.without["workload_options"]
    peaks = [
        f"{steady(row['peak_allocated_bytes'] / 1e9):.1f}" for row in (pair.without, pair.with_)
    ]
    return [
        f"{sizes['layers']} × {sizes['dim']}",
        counted(pair.parameters),
        f"{sizes['batch']} × {sizes['seq']:,}",
        cell(pair.without["precision"]),
        *peaks,
        percent(pair.spared),
        times(pair.slower),
        *("yes" if fits(row) else "**no**" for row in (pair.without, pair.with_)),
    ]


def counted(parameters: int) -> str:
    """``124 M``, ``1.56 G``."""
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if parameters >= unit:
            return f"{steady(parameters / unit):.3g} {name}"
    return f"{parameters:,}" if parameters else MISSING


def figure(records: Sequence[Record]) -> Figure:
    """Peak over size, below it over length, a device a column; hollow where it cannot hold it."""
    frame = build(records)
    sizes, lengths = by_size(frame), by_length(frame)
    devices = list(dict.fromkeys((*sizes, *lengths)))
    figure, axes = canvas.new(4.25 * len(devices), 6.8, columns=len(devices), lines=2)
    for index, device in enumerate(devices):
        upper, lower = axes[index], axes[index + len(devices)]
        _panel(upper, sizes.get(device, ()), "parameters", _sizes)
        _panel(lower, lengths.get(device, ()), "tokens", _lengths)
    axes[0].legend(title="hollow: does not fit")
    facts = [display.where([p.without for p in pairs(frame) if p.on == one]) for one in devices]
    canvas.heading(figure, "Where checkpointing starts to pay", [canvas.wrap(f, 60) for f in facts])
    return figure


def _sizes(pair: Pair) -> str:
    return f"Parameters, at {pair.without['workload_options']['batch']} × {pair.tokens:,} tokens"


def _lengths(pair: Pair) -> str:
    options = pair.without["workload_options"]
    return f"Tokens of one sequence, at {options['layers']} layers × {options['dim']:,}"


def _panel(axes: Axes, found: Sequence[Pair], over: str, label: Callable[[Pair], str]) -> None:
    places = [getattr(pair, over) for pair in found]
    kinds = {KEPT: [pair.without for pair in found], SPARED: [pair.with_ for pair in found]}
    for colour, (name, steps) in zip(display.COLOURS, kinds.items(), strict=False):
        peaks = [row["peak_allocated_bytes"] / 1e9 for row in steps]
        axes.plot(places, peaks, color=colour, label=name, zorder=1)
        faces = [colour if fits(row) else "white" for row in steps]
        axes.scatter(places, peaks, s=40, c=faces, edgecolors=colour, zorder=2)
    same = ", ".join(dict.fromkeys(map(label, found)))
    axes.set(xscale="log", yscale="log", xlabel=same, ylabel="Peak, GB (10⁹ bytes)")
    axes.grid(visible=True, **canvas.GRID)
    axes.set_axisbelow(True)
    for axis, ticks, text in ((axes.xaxis, places[::-2], counted), (axes.yaxis, GIGABYTES, str)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(round(value))))
        axis.set_minor_locator(NullLocator())
