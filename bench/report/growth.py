"""Memory against depth: the table, its data, and the figure with fitted exponents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)

from bench.report import canvas, display, separated
from bench.report.depth import LAYERS, Series, by_chain, series
from bench.report.display import MEGABYTE, MISSING, Look, cell, megabytes
from bench.report.frame import ATTENTION
from bench.report.stats import Fit
from bench.report.tables import plain, title

LINES = ("-", "--", ":", "-.")  # of variants of one strategy, which share a colour

NOTES = (
    f"{display.UNITS}. Exponent: b of c + a·Lᵇ over the depths L shown, with the coefficient of "
    "determination. The constant c (head, tail and loss) is fitted to `none` and subtracted from "
    "the others, where they rise above it; without it: b of a·Lᵇ, least squares on logarithms. "
    "The peak includes parameters and gradients, which grow as L under every strategy.\n"
)

QUANTITIES = (
    ("saved_after_forward_bytes", "Saved after forward, MB"),
    ("peak_allocated_bytes", "Peak, MB"),
)


def table(frame: pd.DataFrame) -> str:
    """Memory at each depth with the fitted exponent of growth."""
    parts = ["# Memory against depth\n", NOTES]
    for chain in by_chain(series(frame)):
        members = [row for one in chain for row in one.rows]
        shape = display.options(members[0], without=(ATTENTION, LAYERS))
        parts.append(f"## {cell(title(members))}\n")
        parts.append(cell(f"{display.where(members)}. {shape}.") + "\n")
        parts += [_table(chain, column, heading) for column, heading in QUANTITIES]
    return "\n".join(parts if len(parts) > 2 else [*parts, "No depth series yet.\n"])


def _table(chain: Sequence[Series], column: str, heading: str) -> str:
    depths = sorted({layers for one in chain for layers in one.layers})
    header = ("Strategy", "Textbook", *(f"L={n}" for n in depths), "Exponent (R²)", "Without c")
    body = [
        [
            cell(one.first["label"]),
            cell(one.first["textbook_memory"]),
            *(megabytes((one.at(n) or {}).get(column)) for n in depths),
            exponent(one.growth(column)),
            exponent(one.fit(column)),
        ]
        for one in chain
    ]
    return f"{heading}:\n\n{display.table(header, body, right=len(depths) + 2)}"


def exponent(fit: Fit | None) -> str:
    """``0.51 (0.998)``."""
    return MISSING if fit is None else f"{fit.exponent:.2f} ({fit.r_squared:.3f})"


def csv(frame: pd.DataFrame) -> str:
    """The depth series as data: one line a cell, fits repeated on each."""
    data = [
        {
            "workload": row["workload"],
            "device": row["device"],
            "modelled": row["modelled"],
            "torch_version": row["torch_version"],
            "started_at_utc": row["started_at_utc"],
            "label": row["label"],
            "layers": row["workload_options"][LAYERS],
            **{column: row[column] for column, _ in QUANTITIES},
            **{f"{c}_constant": plain(one.constant(c)) for c, _ in QUANTITIES},
            **{f"{c}_exponent": plain(_exponent(one.growth(c))) for c, _ in QUANTITIES},
            **{f"{c}_plain_exponent": plain(_exponent(one.fit(c))) for c, _ in QUANTITIES},
        }
        for one in series(frame)
        for row in one.rows
    ]
    return separated.csv(pd.DataFrame(data, dtype=object))


def _exponent(fit: Fit | None) -> float | None:
    return None if fit is None else fit.exponent


def figure(chain: Sequence[Series], look: Mapping[str, Look]) -> Figure:
    """Saved bytes and peak over depth, on logarithmic axes: a power law is a straight line."""
    figure, axes = canvas.new(11, 5.2 + 0.09 * len(chain), columns=2)
    lines = _lines(chain, look)
    for panel, (column, heading) in zip(axes, QUANTITIES, strict=True):
        _panel(panel, chain, column, lines)
        panel.set(ylabel=f"{heading} (10⁶ bytes)", xlabel="Depth L, blocks")
    figure.legend(
        title="Exponents are of what lies above the constant part of none",
        title_fontsize=8,
        handles=[Line2D([], [], **line) for line in lines],
        labels=[_growth(one) for one in chain],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=4,
    )
    canvas.head(figure, "memory against depth", [r for one in chain for r in one.rows], (LAYERS,))
    return figure


def _lines(chain: Sequence[Series], look: Mapping[str, Look]) -> list[dict[str, Any]]:
    """How each series is drawn: variants of a strategy differ in dashes."""
    variants: Counter[str] = Counter()
    lines = []
    for index, one in enumerate(chain):
        strategy = one.first["strategy"]
        lines.append(
            {
                "color": look[strategy].colour,
                "marker": look[strategy].marker,
                "markeredgecolor": "white",
                "linestyle": LINES[variants[strategy] % len(LINES)],
                "linewidth": 1 + 2.5 * (1 - index / len(chain)),  # what lies below another shows
            }
        )
        variants[strategy] += 1
    return lines


def _growth(one: Series) -> str:
    """``sqrt: saved L^0.50, peak L^0.61``."""
    saved, peak = (one.growth(column) for column, _ in QUANTITIES)
    parts = [
        f"{name} L^{fit.exponent:.2f}" for name, fit in (("saved", saved), ("peak", peak)) if fit
    ]
    return f"{one.first['label']}: {', '.join(parts) or 'no fit'}"


def _panel(
    axes: Axes, chain: Sequence[Series], column: str, lines: Sequence[dict[str, Any]]
) -> None:
    axes.set(xscale="log", yscale="log")
    for one, line in zip(chain, lines, strict=True):
        points = [(d, r[column]) for d, r in zip(one.layers, one.rows, strict=True) if r[column]]
        depths = [depth for depth, _ in points]
        amounts = [value / MEGABYTE for _, value in points]
        sns.lineplot(x=depths, y=amounts, ax=axes, **line)
    _axes(axes, sorted({depth for one in chain for depth in one.layers}))


def _axes(axes: Axes, depths: Sequence[int]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, **canvas.GRID)
