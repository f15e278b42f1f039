"""Labels beside points, none over another: each takes the nearest free place, in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

Point = tuple[float, float]

NEAR = 9.0  # in typographic points, as all distances here
FAR = 170.0
STEP = 7.0
ANGLES = 24
MARKER = 5.0
LEADER = 16.0  # a label further off than this gets a line to its point


def place_labels(
    axes: Axes, texts: Sequence[str], points: Sequence[Point], *, avoid: Sequence[Bbox] = ()
) -> list[Annotation]:
    """Write ``texts`` beside ``points`` (data coordinates), inside the axes.

    ``avoid`` are further boxes to keep clear, in pixels. A text that finds no free place goes to
    its nearest one, so that it is never lost.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    centres = [(float(x), float(y)) for x, y in map(axes.transData.transform, points)]
    taken = [Bbox.from_bounds(x, y, 0, 0).padded(MARKER * scale) for x, y in centres]
    taken += avoid
    made = []
    for text, point, centre in zip(texts, points, centres, strict=True):
        note = axes.annotate(text, point, xytext=(NEAR, 0), textcoords="offset points", fontsize=8)
        size = note.get_window_extent()
        offset, box = _free(centre, size, scale, taken, axes.bbox)
        taken.append(box.padded(1.5 * scale))
        _move(axes, note, offset)
        made.append(note)
    return made


def _candidates() -> Iterator[Point]:
    """Unit-free offsets, nearest first; to the right before above, below and left."""
    radius = NEAR
    while radius <= FAR:
        for turn in range(ANGLES):
            # 0, +1, -1, +2, -2, …: both sides of the horizontal alike
            angle = 2 * math.pi / ANGLES * ((turn + 1) // 2) * (-1 if turn % 2 else 1)
            yield radius * math.cos(angle), radius * math.sin(angle)
        radius += STEP


def _free(
    centre: Point, size: Bbox, scale: float, taken: Sequence[Bbox], inside: Bbox
) -> tuple[Point, Bbox]:
    first: tuple[Point, Bbox] | None = None
    for dx, dy in _candidates():
        box = _box(centre, (dx * scale, dy * scale), size)
        first = first or ((dx, dy), box)
        fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0
        if fits and box.y1 < inside.y1 and not box.count_overlaps(taken):
            return (dx, dy), box
    assert first is not None
    return first


def _box(centre: Point, offset: Point, size: Bbox) -> Bbox:
    """Where a text of ``size`` lies whose near edge is at ``offset`` from ``centre``."""
    x, y = centre[0] + offset[0], centre[1] + offset[1]
    left = x if offset[0] >= 0 else x - size.width
    return Bbox.from_bounds(left, y - size.height / 2, size.width, size.height)


def _move(axes: Axes, note: Annotation, offset: Point) -> None:
    note.set_position(offset)
    note.set_horizontalalignment("left" if offset[0] >= 0 else "right")
    note.set_verticalalignment("center")
    if math.hypot(*offset) > LEADER:
        axes.annotate(
            "",
            note.xy,
            xytext=offset,
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 4},
            zorder=1,
        )
