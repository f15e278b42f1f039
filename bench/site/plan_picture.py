"""A schedule drawn: a square a block, a frame a recompute group, a dot a boundary that is kept."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from bench.report import canvas
from bench.report.timeline import COLOURS
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node
from strategies.schedules.schedule import ALL, Schedule

KEPT, RECOMPUTED = COLOURS["saved tensors"], COLOURS["recomputed activations"]
PARTLY = "#F5D48A"
BOUNDARY = COLOURS["boundary activations"]
_HALF = 0.34  # of a square's side, in units of one block
_MARGIN = 0.05  # by which a frame is wider than the frame inside it
_INCHES = 0.62  # of one block
_LEGEND_INCHES = 1.9


def figure(schedule: Schedule) -> Figure:
    """The picture, in the current style; blocks from left to right, as forward runs them."""
    n_blocks = sum(1 for node in schedule.plan for _ in plans.leaves(node))
    picture, [axes] = canvas.new(_INCHES * (n_blocks + 1.6) + _LEGEND_INCHES, 1.75)
    for node in schedule.plan:
        _draw(axes, schedule, node, depth=_depth(node), top=True)
    _count(axes, schedule, n_blocks)
    axes.set(xlim=(-1.6, n_blocks), ylim=(-1.3, 0.95), aspect="equal")
    axes.axis("off")
    axes.legend(
        handles=_legend(schedule),
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8,
    )
    return picture


def _depth(node: Node) -> int:
    return 0 if isinstance(node, int) else 1 + max(map(_depth, node))


def _draw(axes: Axes, schedule: Schedule, node: Node, *, depth: int, top: bool) -> None:
    """A block, or a group: its frame, the boundary that it begins with, and what is in it."""
    if isinstance(node, int):
        _block(axes, schedule, node, recomputed=not top)
        return
    first, *_, last = (*plans.leaves(node), *plans.leaves(node))
    room = _HALF + _MARGIN * depth
    _box(axes, (first - room, -room), (last - first + 2 * room, 2 * room), fc="none", ec=BOUNDARY)
    _boundary(axes, schedule, first, first - room, top=top)
    for child in node:
        _draw(axes, schedule, child, depth=depth - 1, top=False)


def _box(axes: Axes, corner: tuple[float, float], size: tuple[float, float], **style: Any) -> None:
    axes.add_patch(
        FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.09", lw=1.3, **style)
    )


def _block(axes: Axes, schedule: Schedule, index: int, *, recomputed: bool) -> None:
    mode = schedule.mode(index)
    colour = RECOMPUTED if recomputed else KEPT if mode == ALL else PARTLY
    face = "white" if recomputed else colour
    side = 2 * _HALF - 0.06
    _box(axes, (index - side / 2, -side / 2), (side, side), fc=face, ec=colour)
    axes.text(index, 0, str(index), ha="center", va="center", fontsize=9)
    if mode != ALL:
        axes.text(index, 0.42, mode, ha="left", va="bottom", fontsize=6.5, rotation=30)


def _boundary(axes: Axes, schedule: Schedule, block: int, x: float, *, top: bool) -> None:
    """Filled where it rests from forward to backward, hollow where it exists in a recompute."""
    face = BOUNDARY if top else "white"
    axes.plot(x, 0, marker="o", markersize=6.5, mfc=face, mec=BOUNDARY, zorder=3)
    if top and block in schedule.offloaded:
        axes.annotate(
            schedule.tier,
            (x, -0.06),
            (x, -0.62),
            fontsize=8,
            ha="center",
            va="top",
            color=BOUNDARY,
            arrowprops={"arrowstyle": "<->", "color": BOUNDARY},
        )


def _count(axes: Axes, schedule: Schedule, n_blocks: int) -> None:
    """Under each block, how often it runs forward in a step."""
    style: dict[str, Any] = {"va": "center", "fontsize": 8, "color": "0.3"}
    axes.text(-0.75, -1.05, "forwards", ha="right", **style)
    for index, count in enumerate(plans.forward_counts(schedule.plan, n_blocks)):
        axes.text(index, -1.05, f"{count}×", ha="center", **style)


def _legend(schedule: Schedule) -> list[Patch | Line2D]:
    """What is in this picture, and nothing else."""
    bare = [node for node in schedule.plan if isinstance(node, int)]
    groups = [node for node in schedule.plan if not isinstance(node, int)]
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markeredgecolor": BOUNDARY}
    entries: list[tuple[bool, Patch | Line2D]] = [
        (any(schedule.mode(i) == ALL for i in bare), Patch(fc=KEPT, label="kept whole")),
        (any(schedule.mode(i) != ALL for i in bare), Patch(fc=PARTLY, label="kept in part")),
        (bool(groups), Patch(fc="white", ec=RECOMPUTED, label="recomputed")),
        (bool(groups), Patch(fc="none", ec=BOUNDARY, label="recompute group")),
        (bool(groups), Line2D([], [], mfc=BOUNDARY, label="boundary, kept", **dot)),
        (
            any(_depth(group) > 1 for group in groups),
            Line2D([], [], mfc="white", label="kept in a recompute", **dot),
        ),
    ]
    return [handle for present, handle in entries if present]
