"""Bytes over one step, stacked by category: the picture and its data. Plain numbers, no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.patches import Patch

from bench.report import canvas, separated
from bench.report.display import sized
from bench.store.timeline import Timeline

# One colour a category, in every timeline. Wong (2011), with greys and Tol's indigo: what is there
# all the time is grey or dark, what a strategy decides is vivid.
COLOURS = {
    "parameters": "#BBBBBB",
    "optimizer state": "#777777",
    "standing tensors": "#222222",
    "gradients": "#0072B2",
    "gathered parameters": "#999933",
    "gradient buckets": "#882255",
    "pipeline buffers": "#661100",
    "batch": "#332288",
    "boundary activations": "#D55E00",
    "saved tensors": "#E69F00",
    "recomputed activations": "#009E73",
    "logits and loss": "#CC79A7",
    "temporaries": "#56B4E9",
}


PHASE_COLOURS = {
    "forward": "#DDDDDD",
    "recompute": "#F0E442",
    "backward": "#999999",
    "optimizer": "#444444",
}


ALLOCATOR_COLOUR, LIMIT_COLOUR = "#000000", "#AA0000"


COLUMNS = 640
"""How finely a picture resolves its horizontal axis."""


_HEADROOM = 1.12  # the strip of phases lies above the highest point
_FAR = 2.0  # a limit further above the peak than this would flatten the picture
_STRIP = 0.965
Numbers = npt.NDArray[np.float64]


def csv(timeline: Timeline) -> str:
    """Every moment, none left out: position, phase, bytes by category, their sum, the allocator's.

    Where an allocator has its own moments, the rows are those of both, in order.
    """
    own, others = _merged(timeline)
    phases = timeline.phases
    ends = [phase.end for phase in phases[:-1]]
    positions = _positions(timeline, own, others)
    columns: dict[str, object] = {
        timeline.axis: positions,
        "phase": [phases[i].name for i in np.searchsorted(ends, positions, side="right")],
    }
    for name, counts in timeline.series.items():
        columns[f"{name.replace(' ', '_')}_bytes"] = np.asarray(counts, dtype=np.int64)[own]
    columns["total_bytes"] = np.asarray(timeline.totals, dtype=np.int64)[own]
    if timeline.allocated:
        counts = timeline.allocated.size_bytes
        columns["allocated_bytes"] = np.asarray(counts, dtype=np.int64)[others]
    return separated.csv(pd.DataFrame(columns))


def _merged(timeline: Timeline) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For each row, which of the timeline's moments holds, and which of the allocator's."""
    others = timeline.allocated.positions if timeline.allocated else []
    size = len(timeline.positions)
    order = np.argsort(np.concatenate([timeline.positions, others]), kind="stable")
    own = np.cumsum(order < size) - 1
    return own.clip(min=0), (np.arange(len(order)) - own - 1).clip(min=0)


def _positions(
    timeline: Timeline, own: npt.NDArray[np.intp], others: npt.NDArray[np.intp]
) -> Numbers:
    mine: Numbers = np.asarray(timeline.positions)[own]
    if timeline.allocated is None:
        return mine
    theirs: Numbers = np.asarray(timeline.allocated.positions)[others]
    return np.maximum(mine, theirs)


def thin(
    positions: Sequence[float], totals: Sequence[int], columns: int = COLUMNS
) -> npt.NDArray[np.intp]:
    """Indices enough to draw: of each column's pixels, the highest moment and the last one.

    Args:
        positions: rising.
        totals: decide which moment is highest; the first one of equals.
        columns: how many the axis has.
    """
    where = np.asarray(positions, dtype=np.float64)
    width = (where[-1] - where[0]) / columns or 1.0
    column = ((where - where[0]) / width).astype(np.intp).clip(max=columns - 1)
    grouped = pd.Series(np.asarray(totals, dtype=np.float64)).groupby(column)
    last = np.flatnonzero(np.diff(column, append=columns))
    return np.union1d(np.append(grouped.idxmax().to_numpy(), 0), last).astype(np.intp)


def render(timeline: Timeline) -> dict[str, bytes]:
    """The picture as PNG and SVG: the same bytes for the same timeline."""
    with mpl.rc_context():  # puts the caller's style back
        mpl.rcdefaults()  # a matplotlibrc at home must not change what is drawn
        mpl.rcParams.update(canvas.STYLE)
        return canvas.render(figure(timeline))


def figure(timeline: Timeline) -> Figure:
    """The picture, in the current style."""
    figure, [axes] = canvas.new(10.5, 5.4)
    unit, name = (1e9, "GB") if timeline.peak.size_bytes >= 1e9 else (1e6, "MB")
    _draw_phases(axes, timeline)
    handles = _draw_stack(axes, timeline, unit)
    handles += _draw_lines(axes, timeline, unit)
    handles.append(_draw_peak(axes, timeline, unit))
    _frame(axes, timeline, unit)
    kind = "modelled" if timeline.heading.modelled else "measured"
    power = {"GB": "10⁹", "MB": "10⁶"}[name]
    axes.set(xlabel=timeline.axis_label, ylabel=f"Alive, {name} ({power} bytes), {kind}")
    _legends(axes, timeline, handles)
    _head(figure, timeline)
    return figure


def _draw_phases(axes: Axes, timeline: Timeline) -> None:
    """Shaded bands, and above them the same in full colour."""
    for name, colour in PHASE_COLOURS.items():
        spans = [(p.begin, p.end - p.begin) for p in timeline.phases if p.name == name]
        across = axes.get_xaxis_transform()
        for bottom, alpha in ((0.0, 0.22), (_STRIP, 1.0)):
            band = (bottom, 1 - bottom)
            axes.broken_barh(spans, band, color=colour, alpha=alpha, lw=0, transform=across)


def _draw_stack(axes: Axes, timeline: Timeline, unit: float) -> list[Artist]:
    """Areas from the bottom up; what a legend shows of them, from the top down."""
    indices = thin(timeline.positions, timeline.totals)
    places = np.asarray(timeline.positions, dtype=np.float64)[indices]
    floor = np.zeros(len(indices))
    handles: list[Artist] = []
    for name, counts in timeline.series.items():
        if not max(counts):
            continue
        top = floor + np.asarray(counts, dtype=np.float64)[indices] / unit
        colour = COLOURS[name]
        axes.fill_between(places, floor, top, step="post", color=colour, lw=0, zorder=2)
        label = f"{name}: {sized(timeline.peak.by_category.get(name, 0))}"
        handles.insert(0, Patch(color=colour, label=label))
        floor = top
    return handles


def _draw_lines(axes: Axes, timeline: Timeline, unit: float) -> list[Artist]:
    """The allocator's count, and the device's memory if it is in sight."""
    handles: list[Artist] = []
    if timeline.allocated:
        at, counts = timeline.allocated.positions, timeline.allocated.size_bytes
        indices = thin(at, counts)
        tensors_bytes = sum(timeline.peak.by_category.get(name, 0) for name in timeline.series)
        scratch_bytes = timeline.peak.size_bytes - tensors_bytes
        [line] = axes.step(
            np.asarray(at)[indices],
            np.asarray(counts)[indices] / unit,
            where="post",
            color=ALLOCATOR_COLOUR,
            linewidth=0.8,
            zorder=3,
            label=f"allocator; kernels' scratch: {sized(scratch_bytes)}",
        )
        handles.append(line)
    if timeline.limit_bytes:
        handles.append(_draw_limit(axes, timeline.limit_bytes, timeline.peak.size_bytes, unit))
    return handles


def _draw_limit(axes: Axes, limit_bytes: int, peak_bytes: int, unit: float) -> Artist:
    style: dict[str, Any] = {"color": LIMIT_COLOUR, "linestyle": (0, (5, 2)), "linewidth": 1.4}
    label = f"device memory: {sized(limit_bytes)}"
    if limit_bytes <= _FAR * peak_bytes:
        return axes.axhline(limit_bytes / unit, label=label, zorder=4, **style)
    return Line2D([], [], label=f"{label}\n(above this picture)", **style)


def _draw_peak(axes: Axes, timeline: Timeline, unit: float) -> Artist:
    peak = timeline.peak
    [mark] = axes.plot(
        peak.position,
        peak.size_bytes / unit,
        color="black",
        marker=CARETDOWN,
        markersize=7,
        linestyle="none",
        clip_on=False,
        zorder=5,
        label=f"peak: {sized(peak.size_bytes)}",
    )
    axes.axvline(peak.position, color="black", linewidth=0.7, linestyle=":", zorder=4)
    return mark


def _frame(axes: Axes, timeline: Timeline, unit: float) -> None:
    """Room above the highest of what is drawn."""
    peak_bytes, limit_bytes = timeline.peak.size_bytes, timeline.limit_bytes or 0
    highest = max(peak_bytes, limit_bytes if limit_bytes <= _FAR * peak_bytes else 0)
    begin, end = timeline.positions[0], timeline.positions[-1]
    axes.set(ylim=(0, _HEADROOM * highest / unit or 1), xlim=(begin, max(end, begin + 1e-9)))


_CROWDED = 14  # lines of a legend that leave little room for the other


def _legends(axes: Axes, timeline: Timeline, handles: list[Artist]) -> None:
    """Outside, on the right: what is stacked, with its size at the peak; phases below it."""
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8}
    style |= {"alignment": "left", "labelspacing": 0.5 if len(handles) < _CROWDED else 0.25}
    above = axes.legend(
        handles=handles, title="At the peak", loc="upper left", bbox_to_anchor=(1.01, 1.0), **style
    )
    axes.add_artist(above)
    above.set_clip_on(False)  # or the layout would leave it no room
    present = [name for name in PHASE_COLOURS if any(p.name == name for p in timeline.phases)]
    patches = [Patch(color=PHASE_COLOURS[name], label=name) for name in present]
    axes.legend(
        handles=patches, title="Phases", loc="lower left", bbox_to_anchor=(1.01, 0.0), **style
    )


def _head(figure: Figure, timeline: Timeline) -> None:
    """Title; under it where and when, with which options, and where the peak is."""
    heading, peak = timeline.heading, timeline.peak
    kind = "modelled " if heading.modelled else ""
    facts = (
        f"{kind}{heading.device}; torch {heading.torch_version}; {heading.date}",
        heading.setting,
        f"Peak: {peak.operator} in {peak.module}, {peak.phase}",
    )
    lines = [line for fact in facts for line in textwrap.wrap(fact, 160)]
    axes = figure.axes[0]
    axes.set_title("\n".join(lines), fontsize=7.5, color="0.3", loc="left")
    title = figure.suptitle(textwrap.fill(heading.title, 90), fontsize=12, ha="left")
    figure.draw_without_rendering()  # settles the layout, which what follows depends on
    figure.set_layout_engine("none")
    title.set_x(axes.get_position().x0)
