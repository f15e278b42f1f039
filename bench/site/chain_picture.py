"""A model as a chain of blocks: what is a boundary, and what autograd saves."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from bench.report import canvas
from bench.site.plan_picture import BOUNDARY, KEPT

PARTS = ("head", "block 0", "block 1", "block 2", "tail", "loss")
BLOCKS = range(1, 4)
"""Which of them are blocks."""
_GREY = "0.45"


def figure() -> Figure:
    """The picture, in the current style."""
    picture, [axes] = canvas.new(9.0, 2.6)
    for place, name in enumerate(PARTS):
        _part(axes, place, name)
        if place:
            _arrow(axes, place - 1, place)
    for place in BLOCKS:
        axes.plot(place - 0.5, 0, marker="o", markersize=8, color=BOUNDARY, zorder=3)
    _note(
        axes, "boundary activations:\nwhat one block hands to the next", (1.5, 0.06), 0.62, BOUNDARY
    )
    _note(axes, "saved tensors:\nwhat autograd keeps in a block", (2.0, -0.16), -0.62, "0.2")
    backward = {"arrowstyle": "->", "color": _GREY, "linestyle": (0, (3, 2))}
    axes.annotate("", (3.9, -0.75), (5.2, -0.75), arrowprops=backward)
    axes.text(4.55, -0.7, "backward", color=_GREY, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(-0.5, len(PARTS) - 0.5), ylim=(-0.95, 0.95))
    axes.axis("off")
    return picture


def _part(axes: Axes, place: int, name: str) -> None:
    is_block = place in BLOCKS
    box = "round,pad=0,rounding_size=0.05"
    style: dict[str, Any] = {
        "fc": "#FFF4DC" if is_block else "0.95",
        "ec": KEPT if is_block else "0.7",
    }
    axes.add_patch(FancyBboxPatch((place - 0.3, -0.28), 0.6, 0.56, boxstyle=box, lw=1.3, **style))
    axes.text(place, 0.13, name, ha="center", va="center", fontsize=9)
    if is_block:
        axes.plot([place + x for x in (-0.16, 0, 0.16)], [-0.12] * 3, "s", color=KEPT, markersize=5)


def _arrow(axes: Axes, begin: int, end: int) -> None:
    ends = {"arrowstyle": "->", "color": _GREY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end - 0.3, 0), (begin + 0.3, 0), arrowprops=ends)


def _note(axes: Axes, text: str, to: tuple[float, float], y: float, colour: str) -> None:
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8}
    axes.annotate(
        text, to, (to[0], y), fontsize=8, ha="center", va="center", color=colour, arrowprops=line
    )
