"""Labels beside points, none over another: each takes the best free place, in a fixed order.

Best is near, and nearer to its own point than to any other; where a crowd has no such place, a line
leads to the point. These lines cross neither each other nor another label, where there is such a
place: a crowd may shut one of its points in. Pixels are rounded before they decide, so that the
last bit of a float, which differs between CPUs, does not.
"""

from __future__ import annotations

import dataclasses
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
NEARER = 3.0  # each point by which another mark is nearer costs as much as so many of distance
APART = (
    10.0  # a label gets a line, too, unless every other mark is further off than its own by this
)
THROUGH = 20.0  # so does each other mark that the line passes through


def place_labels(
    axes: Axes,
    texts: Sequence[str],
    points: Sequence[Point],
    *,
    others: Sequence[Point] = (),
    avoid: Sequence[Bbox] = (),
    first: float = 0.0,
) -> list[Annotation]:
    """Write ``texts`` beside ``points`` (data coordinates), inside the axes.

    ``others`` are marks without a label; ``avoid`` are further boxes to keep clear, in pixels;
    ``first`` is the direction to try first, in radians from that of the x axis. A text that finds
    no free place goes to its best one, so that it is never lost.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    marks = [_steady(xy) for xy in map(axes.transData.transform, [*points, *others])]
    crowd = Crowd(marks, avoid, axes.bbox, scale)
    notes = []
    for text, point, centre in zip(texts, points, marks, strict=False):
        note = axes.annotate(text, point, xytext=(NEAR, 0), textcoords="offset points", fontsize=8)
        place = crowd.settle(_places(centre, note.get_window_extent(), scale, first))
        _move(axes, note, place.offset, leads=crowd.is_ambiguous(place))
        notes.append(note)
    return notes


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a label might lie: ``offset`` in points from its mark, all else in pixels."""

    centre: Point
    offset: Point
    box: Bbox

    @property
    def leader(self) -> Segment:
        """From the mark to the near edge of the label."""
        near = self.box.x0 if self.offset[0] >= 0 else self.box.x1
        return self.centre, (near, (self.box.y0 + self.box.y1) / 2)


class Crowd:
    """Marks, boxes, and labels that have their places; in pixels."""

    def __init__(
        self, marks: Sequence[Point], avoid: Sequence[Bbox], inside: Bbox, scale: float
    ) -> None:
        self.marks, self.inside, self.scale = marks, _settled(inside), scale
        self.bodies = {mark: _around(mark, MARKER * scale) for mark in marks}
        self.obstacles = [*self.bodies.values(), *map(_settled, avoid)]
        self.labels: list[Bbox] = []
        self.leaders: list[Segment] = []

    def settle(self, places: Iterable[Place]) -> Place:
        """The best place, taken: a free one, with a clear leader, if there is any."""
        every = list(places)
        free = [place for place in every if self._is_free(place.box)]
        clear = [place for place in free if self._is_clear(place)]
        best = min(clear or free or every, key=self._cost)
        self.obstacles.append(best.box.padded(1.5 * self.scale))
        self.labels.append(best.box)
        self.leaders.append(best.leader)
        return best

    def is_ambiguous(self, place: Place) -> bool:
        """A reader might take the label for another mark's."""
        return self._excess(place) > -APART * self.scale

    def _is_free(self, box: Bbox) -> bool:
        x0, y0, x1, y1 = self.inside.extents
        fits = x0 < box.x0 and box.x1 < x1 and y0 < box.y0 and box.y1 < y1
        return bool(fits) and not box.count_overlaps(self.obstacles)

    def _is_clear(self, place: Place) -> bool:
        """The leader meets no other and no label, and the label no other leader."""
        leader, box = place.leader, place.box
        if any(crossing(leader, other) or _through(other, box) for other in self.leaders):
            return False
        return not any(_through(leader, label) for label in self.labels)

    def _cost(self, place: Place) -> float:
        """How far off, how much nearer to another mark, and through how many its leader goes."""
        met = sum(_through(place.leader, body) for body in self._bodies_beside(place.centre))
        nearer = max(0.0, self._excess(place)) / self.scale
        distance = math.hypot(*place.offset) + NEARER * nearer
        return float(snapped(distance + THROUGH * met, 3))

    def _excess(self, place: Place) -> float:
        """By how much another mark is nearer than the label's own; below 0 if none is."""
        others = [_distance(mark, place.box) for mark in self.marks if mark != place.centre]
        return _distance(place.centre, place.box) - min(others, default=math.inf)

    def _bodies_beside(self, centre: Point) -> Iterator[Bbox]:
        """Those of other marks that do not lie over this one."""
        own = self.bodies[centre]
        return (body for body in self.bodies.values() if not body.overlaps(own))


def _candidates(first: float) -> Iterator[Point]:
    """Offsets, nearest first, and of those in the direction ``first`` before others."""
    radius = NEAR
    while radius <= FAR:
        for turn in range(ANGLES):
            # 0, +1, -1, +2, -2, …: both sides of the direction alike
            angle = first + 2 * math.pi / ANGLES * ((turn + 1) // 2) * (-1 if turn % 2 else 1)
            yield radius * math.cos(angle), radius * math.sin(angle)
        radius += STEP


def _places(centre: Point, size: Bbox, scale: float, first: float) -> Iterator[Place]:
    for dx, dy in _candidates(first):
        yield Place(centre, (dx, dy), _box(centre, (dx * scale, dy * scale), size))


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


def _around(point: Point, radius: float) -> Bbox:
    return Bbox.from_bounds(*point, 0, 0).padded(radius)


def _distance(point: Point, box: Bbox) -> float:
    """From a point to the nearest edge of a box; 0 inside."""
    (x, y), (x0, y0, x1, y1) = point, box.extents
    return math.hypot(max(x0 - x, 0.0, x - x1), max(y0 - y, 0.0, y - y1))


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


def _move(axes: Axes, note: Annotation, offset: Point, *, leads: bool) -> None:
    note.set_position(offset)
    note.set_horizontalalignment("left" if offset[0] >= 0 else "right")
    note.set_verticalalignment("center")
    if leads or math.hypot(*offset) > LEADER:
        axes.annotate(
            "",
            note.xy,
            xytext=offset,
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "0.25", "linewidth": 0.6, "shrinkB": 0},
            zorder=4,  # over marks: in a crowd its end says which one is meant
        )
