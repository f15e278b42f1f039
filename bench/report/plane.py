"""The plane of memory against time, with its Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bench.report import canvas
from bench.report.display import MEGABYTE, Look
from bench.report.frame import Row
from bench.report.placement import place_labels

INEXACT = "≈"


def points_of(group: Sequence[Row]) -> list[Row]:
    """Cells with a peak and a step ratio, by peak."""
    timed = [r for r in group if r["step_ratio"] is not None and r["peak_allocated_bytes"]]
    return sorted(timed, key=lambda r: (r["peak_allocated_bytes"], r["label"]))


def pareto(points: Sequence[Row]) -> list[Row]:
    """Those that no other beats in both memory and time, from least memory to least time."""
    front: list[Row] = []
    for row in sorted(points, key=lambda r: (r["peak_allocated_bytes"], r["step_ratio"])):
        if not front or row["step_ratio"] < front[-1]["step_ratio"]:
            front.append(row)
    return front


def figure(points: list[Row], look: Mapping[str, Look]) -> Figure:
    """One point a cell, named, with its interval."""
    made, [axes] = canvas.new(8.5, 5.6)
    data = pd.DataFrame(
        {
            "strategy": [row["strategy"] for row in points],
            "peak": [row["peak_allocated_bytes"] / MEGABYTE for row in points],
            "time": [row["step_ratio"] for row in points],
        }
    )
    low = [row["step_ratio"] - row["step_ratio_low"] for row in points]
    high = [row["step_ratio_high"] - row["step_ratio"] for row in points]
    axes.errorbar(data["peak"], data["time"], yerr=[low, high], fmt="none", ecolor="0.55", lw=1)
    _scatter(axes, data, look)
    front = pareto(points)
    axes.plot(
        *zip(*map(_at, front), strict=True),
        color="0.75",
        linestyle="--",
        linewidth=1,
        zorder=0,
        drawstyle="steps-post",
        label="Pareto front: no strategy beats these in both",
    )
    note = None if all(row["exact"] for row in points) else f"{INEXACT} gradients are approximate"
    axes.legend(frameon=False, loc="upper right", fontsize=8, title=note, title_fontsize=8)
    axes.set(xlabel="Measured peak, MB (10⁶ bytes)", ylabel="Step time × none, 95 % interval")
    canvas.head(made, "memory against time", points)
    _label_plane(axes, points, front)
    return made


def _scatter(axes: Axes, data: pd.DataFrame, look: Mapping[str, Look]) -> None:
    sns.scatterplot(
        data=data,
        x="peak",
        y="time",
        hue="strategy",
        style="strategy",
        palette={name: one.colour for name, one in look.items()},
        markers={name: one.marker for name, one in look.items()},
        s=70,
        legend=False,
        ax=axes,
        zorder=3,
    )
    axes.grid(visible=True, **canvas.GRID)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.2)


def _at(row: Row, time: str = "step_ratio") -> tuple[float, float]:
    return row["peak_allocated_bytes"] / MEGABYTE, row[time]


def _label_plane(axes: Axes, points: Sequence[Row], front: Sequence[Row]) -> None:
    """Names beside points, clear of error bars, of the front and of the legend."""
    spans = [(_at(row, "step_ratio_low"), _at(row, "step_ratio_high")) for row in points]
    for left, right in pairwise(front):
        corner = (_at(right)[0], _at(left)[1])
        spans += [(_at(left), corner), (corner, _at(right))]
    boxes = [Bbox(axes.transData.transform(span)).padded(2) for span in spans]
    legend = axes.get_legend()
    assert legend is not None
    boxes.append(legend.get_window_extent())
    names = [row["label"] + ("" if row["exact"] else f" {INEXACT}") for row in points]
    place_labels(axes, names, [_at(row) for row in points], avoid=boxes)
