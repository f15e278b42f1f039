"""What all figures share: style, size, heading, and bytes that depend on the records alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report import display
from bench.report.canonical import canonical
from bench.report.frame import ATTENTION, Row

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
GRID: dict[str, Any] = {"color": "0.92", "linewidth": 0.8}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The same look whatever the user's own settings are, which come back at the end."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc at home must not change what is committed
        mpl.rcParams.update(STYLE)
        yield


def render(figure: Figure) -> dict[str, bytes]:
    """``figure`` as PNG and SVG, without date, version, random identifiers or last bits."""
    images = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=metadata)
        images[kind] = stream.getvalue()
    return images | {"svg": canonical(images["svg"].decode()).encode()}


def new(width: float, height: float, columns: int = 1, lines: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, with axes line by line; it belongs to no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(lines, columns, squeeze=False).flat)


def head(figure: Figure, what: str, points: Sequence[Row], without: Sequence[str] = ()) -> None:
    """Title, and under it where, when and with which options it was measured."""
    first = points[0]
    shape = display.options(first, without=(ATTENTION, *without))
    facts = f"{display.where(points)}\n{shape}; {first['precision']}"
    heading(figure, f"{first['workload']}: {what}", [facts])


def heading(figure: Figure, text: str, facts: Sequence[str]) -> None:
    """A title, and under it facts for one panel after another."""
    for axes, lines in zip(figure.axes, facts, strict=False):
        axes.set_title(wrap(lines), fontsize=7.5, color="0.3", loc="left")
    title = figure.suptitle(text, fontsize=12, ha="left")
    figure.draw_without_rendering()  # settles the layout, which what follows depends on
    figure.set_layout_engine("none")
    title.set_x(figure.axes[0].get_position().x0)


def wrap(text: str, width: int = 125) -> str:
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
