"""Published GPU figures beside what is modelled for them: a table, a figure, and a sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report import canvas, display, separated
from bench.report.display import cell
from bench.report.rounding import steady
from bench.report.tables import plain
from bench.store.published import UNITS, Point

KINDS = {
    "operator": "Operators and loss heads",
    "block": "Blocks whose operators are kept or recomputed one by one",
    "model": "Whole models",
    "batch": "Largest batches",
    "formula": "Closed forms",
}
HEADER = ("Point", "GPU", "Checkpointing", "Published", "Modelled", "Error", "Remark", "Source")
NOTES = (
    "Measurements of GPU memory that others published, each with the configuration that its source "
    "states, and what the simulator says for it without a GPU (*modelled*). Peaks are of "
    "`torch.cuda.max_memory_allocated`: whole blocks of the caching allocator, with cuBLAS's "
    "workspaces, in the third iteration of the loop as its source writes it. No point is dropped "
    "for its error; where the *source* is wrong, the remark says why, and the error is counted in "
    "no median. Each point is a file in `results/published/`; `python -m bench published` models "
    "them again.\n"
)


def sentence(points: Sequence[Point]) -> str:
    """Median and worst, for the README."""
    parts = []
    for kind in ("operator", "model", "batch"):
        errors = [abs(p.error_fraction) for p in _sound(points, kind)]  # type: ignore[arg-type]
        if errors:
            worst = max(_sound(points, kind), key=lambda p: abs(p.error_fraction or 0.0))
            parts.append(
                f"{KINDS[kind].lower()}: median error {_percent(statistics.median(errors))}, worst"
                f" {_signed(worst)} ({cell(worst.name)}), of {len(errors)}"
            )
    return f"Published GPU figures, modelled: {'; '.join(parts)}."


def _sound(points: Sequence[Point], kind: str) -> list[Point]:
    known = [p for p in points if p.sound and p.error_fraction is not None]
    return [p for p in known if p.kind == kind]


def markdown(points: Sequence[Point]) -> str:
    """One table a kind, the worst first; then those whose source is wrong."""
    parts = ["# Published GPU figures, modelled\n", NOTES, f"{sentence(points)}\n"]
    for kind, title in KINDS.items():
        sound = [p for p in points if p.kind == kind and p.sound]
        if sound:
            parts += [f"## {title}\n", display.table(HEADER, map(_line, _worst_first(sound)))]
    if wrong := [p for p in points if not p.sound]:
        parts += ["## Sources that are wrong\n", display.table(HEADER, map(_line, wrong))]
    return "\n".join(parts)


def _worst_first(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (-steady(abs(p.error_fraction or 0.0)), p.name))


def _line(point: Point) -> list[str]:
    return [
        cell(point.name),
        cell(point.product),
        "yes" if point.checkpointing else "no",
        f"{_figure(point.published)} {point.unit}",
        display.MISSING if point.modelled is None else f"{_figure(point.modelled)} {point.unit}",
        _signed(point),
        cell(point.remark),
        cell(f"{point.source}: {point.where}"),
    ]


def _figure(value: float) -> str:
    return f"{steady(value):,.6g}" if value < 1e6 else f"{steady(value):,.0f}"


def _signed(point: Point) -> str:
    error = point.error_fraction
    if error is None or not math.isfinite(error):
        return display.MISSING
    return display.percent(steady(error), 2, sign="+")


def _percent(part: float) -> str:
    return display.percent(steady(part), 2)


def csv(points: Sequence[Point]) -> str:
    """Every point: figures as stored."""
    frame = pd.DataFrame(list(_rows(points)), dtype=object)
    return separated.csv(frame)


def _rows(points: Sequence[Point]) -> Iterator[dict[str, object]]:
    for point in points:
        names = ("name", "kind", "product", "device", "checkpointing", "sound", "unit")
        row = {name: getattr(point, name) for name in (*names, "published", "modelled")}
        row |= {"error": point.error_fraction, "source": point.source, "where": point.where}
        yield {name: plain(value) for name, value in row.items()}


def figure(points: Sequence[Point]) -> Figure:
    """Error over the published size, one mark a point, a colour for each kind."""
    figure, [axes] = canvas.new(8.5, 4.6)
    axes.axhline(0, color="0.4", linewidth=1, zorder=1)
    for index, kind in enumerate(kind for kind in KINDS if kind != "batch"):
        shown = [p for p in _sound(points, kind) if p.published]
        _draw(axes, shown, KINDS[kind], index)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set(xlabel="Published, MB", ylabel="Modelled over published, less one, %")
    axes.grid(visible=True, **canvas.GRID)
    axes.legend(frameon=False, fontsize=8)
    canvas.heading(figure, "Published GPU figures, modelled", [sentence(points)])
    return figure


def _draw(axes: Axes, points: Sequence[Point], name: str, index: int) -> None:
    axes.scatter(
        [steady(p.published * UNITS[p.unit] / 1e6) for p in points],
        [steady(100 * (p.error_fraction or 0.0)) for p in points],
        s=22,
        alpha=0.75,
        linewidths=0,
        color=display.COLOURS[index],
        marker=display.MARKERS[index],
        label=name,
        zorder=2,
    )
