"""Labels beside points, none over another: each takes the nearest free place, in a fixed order.

Lines that lead from a label to its point cross neither each other nor another label, where there is
such a place: a crowd may shut one of its points in. Pixels are rounded before they decide, so that
the last bit of a float, which differs between CPUs, does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from bench.report.rounding import snapped

Point = tuple[float, float]
Segment = tuple[Point, Point]

NEAR = 9.0  # in typographic points, as all distances here
FAR = 170.0
STEP = 7.0
ANGLES = 24
MARKER = 5.0
LEADER = 16.0  # a label further off than this gets a line to its point


def place_labels(
    axes: Axes,
    texts: Sequence[str],
    points: Sequence[Point],
    *,
    avoid: Sequence[Bbox] = (),
    first: float = 0.0,
) -> list[Annotation]:
    """Write ``texts`` beside ``points`` (data coordinates), inside the axes.

    ``avoid`` are further boxes to keep clear, in pixels; ``first`` is the direction to try first,
    in radians from that of the x axis. A text that finds no free place goes to
    its nearest one, so that it is never lost.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    centres = [_steady(xy) for xy in map(axes.transData.transform, points)]
    inside = _settled(axes.bbox)
    leaders: list[Segment] = []
    obstacles = [Bbox.from_bounds(x, y, 0, 0).padded(MARKER * scale) for x, y in centres]
    obstacles += map(_settled, avoid)
    labels: list[Bbox] = []
    notes = []
    for text, point, centre in zip(texts, points, centres, strict=True):
        note = axes.annotate(text, point, xytext=(NEAR, 0), textcoords="offset points", fontsize=8)
        size = note.get_window_extent()
        places = list(_places(centre, size, scale, first))
        free = [place for place in places if _is_free(place[1], obstacles, inside)]
        clear = (p for p in free if _is_clear(_leader(centre, *p), p[1], leaders, labels))
        offset, box = next(clear, (free or places)[0])
        obstacles.append(box.padded(1.5 * scale))
        labels.append(box)
        leaders.append(_leader(centre, offset, box))
        _move(axes, note, offset)
        notes.append(note)
    return notes


def _candidates(first: float) -> Iterator[Point]:
    """Offsets, nearest first, and of those in the direction ``first`` before others."""
    radius = NEAR
    while radius <= FAR:
        for turn in range(ANGLES):
            # 0, +1, -1, +2, -2, …: both sides of the direction alike
            angle = first + 2 * math.pi / ANGLES * ((turn + 1) // 2) * (-1 if turn % 2 else 1)
            yield radius * math.cos(angle), radius * math.sin(angle)
        radius += STEP


def _places(centre: Point, size: Bbox, scale: float, first: float) -> Iterator[tuple[Point, Bbox]]:
    for dx, dy in _candidates(first):
        yield (dx, dy), _box(centre, (dx * scale, dy * scale), size)


def _is_free(box: Bbox, obstacles: Sequence[Bbox], inside: Bbox) -> bool:
    fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
    return fits and not box.count_overlaps(obstacles)


def _leader(centre: Point, offset: Point, box: Bbox) -> Segment:
    """From a point to the near edge of its label."""
    return centre, (box.x0 if offset[0] >= 0 else box.x1, (box.y0 + box.y1) / 2)


def _is_clear(
    leader: Segment, box: Bbox, leaders: Sequence[Segment], labels: Sequence[Bbox]
) -> bool:
    """The leader meets no other and no label, and the label no other leader."""
    if any(crossing(leader, other) or _through(other, box) for other in leaders):
        return False
    return not any(_through(leader, label) for label in labels)


def crossing(one: Segment, other: Segment) -> bool:
    """Two segments cross, or lead on from one another."""
    (a, b), (c, d) = one, other
    return _side(a, b, c) * _side(a, b, d) <= 0 and _side(c, d, a) * _side(c, d, b) <= 0


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _through(segment: Segment, box: Bbox) -> bool:
    """A segment passes through a box."""
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    sides = zip(corners, [*corners[1:], corners[0]], strict=True)
    return any(crossing(segment, side) for side in sides)


def _steady(values: Iterable[float]) -> Point:
    """Pixels to thousandths, away from ties."""
    x, y = (float(snapped(float(value), 3)) for value in values)
    return x, y


def _settled(box: Bbox) -> Bbox:
    return Bbox([_steady(corner) for corner in box.get_points()])


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
