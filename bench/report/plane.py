"""The plane of memory against time, with its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from bench.report import canvas, families
from bench.report.display import MEGABYTE, Look
from bench.report.frame import Row
from bench.report.placement import place_labels
from bench.report.stats import FEWEST, WIDE

INEXACT = "≈"
BELOW = math.radians(190)
"""To the left and a little down: below its front the plane is empty."""

FRONT = "Pareto front: no strategy beats these in both"
HOLLOW = f"hollow: interval wider than {100 * WIDE:.0f} % of the ratio, or under {FEWEST} rounds"


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


def figure(points: list[Row]) -> Figure:
    """One point a cell, with its interval; the Pareto front is named, the rest in the legend."""
    figure, [axes] = canvas.new(8.5, 6.4)
    look = families.looks(points)
    front = pareto(points)
    others = [row for row in points if row not in front]
    draw_intervals(axes, points)
    for rows in (others, front):  # what is named lies on top
        draw_hollow(axes, [row for row in rows if row["unstable"]], look, s=55, zorder=3)
        draw_filled(axes, [row for row in rows if not row["unstable"]], look)
    draw_front(axes, front, label=FRONT)
    _legend(axes, points)
    axes.set(xlabel="Measured peak, MB (10⁶ bytes)", ylabel="Step time × none, 95 % interval")
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.25 * (high - low), high)  # for names left of what needs least memory
    _key(figure, points, look)
    canvas.head(figure, "memory against time", points)
    label(axes, front, [front], others, first=BELOW)
    return figure


def _legend(axes: Axes, points: Sequence[Row]) -> None:
    """What hollow marks, the dashed line and the mark of inexact strategies mean."""
    lines, _ = axes.get_legend_handles_labels()
    if any(row["unstable"] for row in points):
        dot: dict[str, Any] = {
            "marker": "o",
            "color": "0.4",
            "markerfacecolor": "white",
            "linestyle": "none",
        }
        lines.append(Line2D([], [], label=HOLLOW, **dot))
    axes.legend(
        handles=lines,
        frameon=False,
        loc="upper right",
        fontsize=8,
        title=note_on(points),
        title_fontsize=8,
    )


def _key(figure: Figure, points: Sequence[Row], look: Mapping[str, Look]) -> None:
    """Under the axes: marker and colour of every strategy, a column a family."""
    of = families.families(points)
    columns: dict[str, list[str]] = {}
    for name in look:
        columns.setdefault(of.get(name, families.NOTHING), []).append(name)
    depth = max(map(len, columns.values()))
    handles = []
    for kind, names in columns.items():
        handles.append(_entry(kind))
        handles += [_entry(name, look[name]) for name in names]
        handles += [_entry("")] * (depth - len(names))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(columns),
        frameon=False,
        fontsize=7.5,
        columnspacing=1,
        handletextpad=0.2,
    )


def _entry(text: str, look: Look | None = None) -> Line2D:
    """A line of the key; a heading has no marker."""
    marker, colour = (look.marker, look.colour) if look else ("none", "none")
    return Line2D([], [], linestyle="none", marker=marker, color=colour, label=text)


def note_on(points: Sequence[Row]) -> str | None:
    """What the mark of inexact strategies means, where there is one."""
    return None if all(row["exact"] for row in points) else f"{INEXACT} gradients are approximate"


def draw(axes: Axes, points: Sequence[Row], look: Mapping[str, Look]) -> None:
    """Points of what was measured, with their intervals."""
    draw_intervals(axes, points)
    draw_filled(axes, points, look)


def draw_intervals(axes: Axes, points: Sequence[Row]) -> None:
    """The interval of each point, as a bar; none where there is no interval."""
    known = [row for row in points if row["step_ratio_low"] is not None]
    if not known:
        return
    x, y = zip(*map(at, known), strict=True)
    low = [row["step_ratio"] - row["step_ratio_low"] for row in known]
    high = [row["step_ratio_high"] - row["step_ratio"] for row in known]
    axes.errorbar(x, y, yerr=[low, high], fmt="none", ecolor="0.55", lw=1)


def draw_filled(axes: Axes, points: Sequence[Row], look: Mapping[str, Look]) -> None:
    """Points of what was measured."""
    if not points:
        return
    x, y = zip(*map(at, points), strict=True)
    sns.scatterplot(
        data=pd.DataFrame({"strategy": [row["strategy"] for row in points], "x": x, "y": y}),
        x="x",
        y="y",
        hue="strategy",
        style="strategy",
        palette={name: one.colour for name, one in look.items()},
        markers={name: one.marker for name, one in look.items()},
        s=70,
        legend=False,
        ax=axes,
        zorder=3,
    )
    finish(axes)


def draw_hollow(axes: Axes, points: Sequence[Row], look: Mapping[str, Look], **style: Any) -> None:
    """Hollow points: of what was modelled, which nobody saw, or of what is too noisy to rank."""
    for row in points:
        one = look[row["strategy"]]
        style = {"s": 45, "zorder": 2, **style}
        axes.scatter(
            *at(row), marker=one.marker, facecolors="white", edgecolors=one.colour, **style
        )
    finish(axes)


def finish(axes: Axes) -> None:
    """Grid, and room round the points."""
    axes.grid(visible=True, **canvas.GRID)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.2)


def draw_front(axes: Axes, front: Sequence[Row], label: str, **style: Any) -> None:
    """A staircase through points that nothing beats: from each, its time holds to the next."""
    axes.plot(
        *zip(*map(at, front), strict=True),
        **{"color": "0.75", "linestyle": "--", "linewidth": 1, "zorder": 0, **style},
        drawstyle="steps-post",
        label=label,
    )


def at(row: Row, time: str = "step_ratio") -> tuple[float, float]:
    """Where a row is in the plane: megabytes, and step time over that of none."""
    return row["peak_allocated_bytes"] / MEGABYTE, row[time]


def label(
    axes: Axes,
    points: Sequence[Row],
    fronts: Sequence[Sequence[Row]],
    others: Sequence[Row] = (),
    *,
    first: float = 0.0,
) -> None:
    """Names beside points, clear of error bars, of fronts, of other points and of the legend."""
    rows = (*points, *others)
    known = [row for row in rows if row["step_ratio_low"] is not None]
    spans = [(at(row, "step_ratio_low"), at(row, "step_ratio_high")) for row in known]
    for left, right in (pair for front in fronts for pair in pairwise(front)):
        corner = (at(right)[0], at(left)[1])
        spans += [(at(left), corner), (corner, at(right))]
    boxes = [Bbox(axes.transData.transform(span)).padded(2) for span in spans]
    legend = axes.get_legend()
    assert legend is not None
    boxes.append(legend.get_window_extent())
    names = [row["label"] + ("" if row["exact"] else f" {INEXACT}") for row in points]
    marks, unnamed = map(at, points), map(at, others)
    place_labels(axes, names, list(marks), others=list(unnamed), avoid=boxes, first=first)
