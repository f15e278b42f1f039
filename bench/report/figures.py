"""The figures, as PNG and SVG bytes that depend on the records alone."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)
from matplotlib.transforms import Bbox

from bench.report import display
from bench.report.depth import LAYERS, Series, by_chain, series
from bench.report.display import MEGABYTE, Look
from bench.report.frame import ATTENTION, FLASH, Row, groups
from bench.report.placement import place_labels

STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "ckpt-bench",
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}
LINES = ("-", "--", ":", "-.")  # of variants of one strategy, which share a colour
INEXACT = "≈"
GRID: dict[str, Any] = {"color": "0.92", "linewidth": 0.8}


def render(figure: Figure) -> dict[str, bytes]:
    """``figure`` as PNG and SVG, without date, version or random identifiers."""
    made = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=metadata)
        made[kind] = stream.getvalue()
    return made


def figures(frame: pd.DataFrame) -> dict[str, bytes]:
    """Every figure by file name."""
    look = display.looks(str(name) for name in frame["strategy"])
    files: dict[str, bytes] = {}
    with mpl.rc_context():  # puts the caller's style back
        mpl.rcdefaults()  # a matplotlibrc at home must not change what is committed
        mpl.rcParams.update(STYLE)
        for name, figure in (*_planes(frame, look), *_depths(frame, look)):
            files |= {f"{name}.{kind}": data for kind, data in render(figure).items()}
    return files


def _new(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")


def _named(kind: str, key: str, row: Row, used: set[str]) -> str:
    """``memory-time-gpt-mini-cpu``; a digest of the setting tells later ones apart."""
    name = f"{kind}-{_slug(row['workload'])}-{_slug(row['device'])}"
    if name in used:
        name += "-" + hashlib.sha256(key.encode()).hexdigest()[:6]
    used.add(name)
    return name


def plane_points(group: Sequence[Row]) -> list[Row]:
    """Cells with a peak and a step ratio to one and the same `none`: math attention's if timed."""
    timed = [r for r in group if r["step_ratio"] is not None and r["peak_allocated_bytes"]]
    against_math = [r for r in timed if r["timed_attention"] != FLASH]
    return sorted(against_math or timed, key=lambda r: (r["peak_allocated_bytes"], r["label"]))


def pareto(points: Sequence[Row]) -> list[Row]:
    """Those that no other beats in both memory and time, from least memory to least time."""
    front: list[Row] = []
    for row in sorted(points, key=lambda r: (r["peak_allocated_bytes"], r["step_ratio"])):
        if not front or row["step_ratio"] < front[-1]["step_ratio"]:
            front.append(row)
    return front


def _planes(frame: pd.DataFrame, look: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    used: set[str] = set()
    found = [(plane_points(group), group) for group in groups(frame)]
    for points, group in sorted(found, key=lambda pair: -len(pair[0])):
        if len(points) > 1:
            yield (
                _named("memory-time", group[0]["family"], group[0], used),
                _plane(points, look),
            )


def _plane(points: list[Row], look: Mapping[str, Look]) -> Figure:
    figure, [axes] = _new(8.5, 5.6)
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
    _head(figure, "memory against time", points)
    _label_plane(axes, points, front)
    return figure


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
    axes.grid(visible=True, **GRID)
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


def _head(figure: Figure, what: str, points: Sequence[Row], without: Sequence[str] = ()) -> None:
    """Title, and under it where, when and with which options it was measured."""
    first = points[0]
    shape = display.options(first, without=(ATTENTION, *without))
    facts = f"{display.where(points)}\n{shape}; {first['precision']}"
    figure.axes[0].set_title(_wrap(facts), fontsize=7.5, color="0.3", loc="left")
    title = figure.suptitle(f"{first['workload']}: {what}", fontsize=12, ha="left")
    figure.draw_without_rendering()  # settles the layout, which what follows depends on
    figure.set_layout_engine("none")
    title.set_x(figure.axes[0].get_position().x0)


def _wrap(text: str, width: int = 125) -> str:
    """Lines of at most ``width`` characters, broken after a comma or semicolon."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + len(word) >= width:
                lines.append(line)
                line = ""
            line += f" {word}" if line else word
        lines.append(line)
    return "\n".join(lines)


def _depths(frame: pd.DataFrame, look: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    used: set[str] = set()
    for chain in by_chain(series(frame)):
        yield _named("depth", chain[0].chain, chain[0].first, used), _depth(chain, look)


PANELS = (
    ("saved_after_forward_bytes", "Saved after forward, MB (10⁶ bytes)"),
    ("peak_allocated_bytes", "Peak, MB (10⁶ bytes)"),
)


def _depth(chain: Sequence[Series], look: Mapping[str, Look]) -> Figure:
    figure, axes = _new(11, 5.2 + 0.09 * len(chain), columns=2)
    for panel, (column, title) in zip(axes, PANELS, strict=True):
        _depth_panel(panel, chain, column, look)
        panel.set(ylabel=title, xlabel="Depth L, blocks")
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        [_growth(one) for one in chain],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=4,
    )
    _head(figure, "memory against depth", [r for one in chain for r in one.rows], (LAYERS,))
    return figure


def _growth(one: Series) -> str:
    """``sqrt: saved L^0.50, peak L^0.61``."""
    saved, peak = (one.fit(column) for column, _ in PANELS)
    parts = [
        f"{name} L^{fit.exponent:.2f}" for name, fit in (("saved", saved), ("peak", peak)) if fit
    ]
    return f"{one.first['label']}: {', '.join(parts) or 'no fit'}"


def _depth_panel(
    axes: Axes, chain: Sequence[Series], column: str, look: Mapping[str, Look]
) -> None:
    axes.set(xscale="log", yscale="log")
    variants: Counter[str] = Counter()
    for index, one in enumerate(chain):
        points = [(d, r[column]) for d, r in zip(one.layers, one.rows, strict=True) if r[column]]
        strategy = one.first["strategy"]
        sns.lineplot(
            x=[depth for depth, _ in points],
            y=[value / MEGABYTE for _, value in points],
            color=look[strategy].colour,
            marker=look[strategy].marker,
            linestyle=LINES[variants[strategy] % len(LINES)],
            linewidth=1 + 2.5 * (1 - index / len(chain)),  # one that lies below another shows
            label=one.first["label"],
            legend=False,
            ax=axes,
        )
        variants[strategy] += 1
    _depth_axes(axes, sorted({depth for one in chain for depth in one.layers}))


def _depth_axes(axes: Axes, depths: Sequence[int]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, **GRID)
