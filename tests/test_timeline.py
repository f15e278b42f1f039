"""Timelines: nothing lost in the data, nothing that matters lost in the picture."""

import dataclasses
import io
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend

from bench.report import canvas, timeline
from bench.report.display import sized
from bench.report.timeline import csv, render, thin
from bench.store.timeline import Heading, Peak, Phase, Timeline, Total

HEADING = Heading(
    title="gpt-mini, every_k(k=4): memory over one step",
    device="cpu (Test CPU)",
    torch_version="2.13.0",
    date="2026-01-02",
    setting="batch=4, layers=8; fp32; optimizer none",
    modelled=False,
)
NAMES = list(timeline.COLOURS)
COUNTS = st.integers(0, 2**45)


def make(series, phases=("forward",), positions=None, allocated=None, **changes):
    """A timeline of these counts, its phases of equal length."""
    series = {name: list(counts) for name, counts in series.items()}
    totals = [sum(counts) for counts in zip(*series.values(), strict=True)]
    positions = range(len(totals)) if positions is None else positions
    at = int(np.argmax(totals))
    edges = np.linspace(positions[0], positions[-1], len(phases) + 1).tolist()
    peak = Peak(
        position=positions[at],
        size_bytes=totals[at],
        operator="mm",
        module="h.1",
        phase="backward",
        by_category={name: counts[at] for name, counts in series.items() if counts[at]},
    )
    return Timeline(
        positions=positions,
        series=series,
        phases=[Phase(n, *ends) for n, ends in zip(phases, itertools.pairwise(edges), strict=True)],
        peak=peak,
        axis="event",
        axis_label="Events",
        heading=dataclasses.replace(HEADING, **changes.pop("heading", {})),
        allocated=allocated,
        **changes,
    )


@st.composite
def timelines(draw):
    """Any timeline, with or without an allocator's own moments."""
    size = draw(st.integers(1, 30))
    counts = st.lists(COUNTS, min_size=size, max_size=size)
    series = {name: draw(counts) for name in draw(st.sets(st.sampled_from(NAMES), min_size=1))}
    phases = draw(st.lists(st.sampled_from(list(timeline.PHASE_COLOURS)), min_size=1, max_size=9))
    if not draw(st.booleans()):
        return make(series, phases)
    moments = st.floats(0, 1e4, allow_subnormal=False)
    others = sorted(draw(st.lists(moments, max_size=30)))
    total = Total([0.0, *others], draw(st.lists(COUNTS, min_size=len(others) + 1).map(tuple)))
    total = Total(total.positions, total.size_bytes[: len(total.positions)])
    positions = sorted(draw(st.lists(moments, min_size=size - 1, max_size=size - 1)))
    return make(series, phases, [0.0, *positions], total)


def dense(size=20_000):
    """More events than pixels: noise below, and one needle."""
    noise = np.random.default_rng(0).integers(0, 10**8, size)
    noise[size // 3 + 7] = 2 * 10**9
    return make({"parameters": [10**9] * size, "temporaries": noise.tolist()})


def everything(**changes):
    """All that can be drawn at once."""
    series = {name: [(i + 1) * 10**8, 10**8] for i, name in enumerate(NAMES)}
    total = Total([0, 0.5, 1], [10**9, 5 * 10**9, 10**9])
    return make(series, tuple(timeline.PHASE_COLOURS), allocated=total, **changes)


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(canvas.STYLE):
        yield


# Data.


@given(timelines())
def test_data_holds_every_moment_to_the_byte(one):
    read = pd.read_csv(io.StringIO(csv(one)))
    columns = {f"{name.replace(' ', '_')}_bytes": name for name in one.series}
    allocated = ["allocated_bytes"] if one.allocated else []
    assert list(read.columns) == ["event", "phase", *columns, "total_bytes", *allocated]
    assert read["event"].is_monotonic_increasing
    assert (read[list(columns)].sum(axis=1) == read["total_bytes"]).all()
    wanted = list(zip(one.positions, zip(*one.series.values(), strict=True), strict=True))
    found = list(
        zip(read["event"], read[list(columns)].itertuples(index=False, name=None), strict=True)
    )
    assert is_part_of(wanted, found)
    if one.allocated:
        theirs = list(zip(one.allocated.positions, one.allocated.size_bytes, strict=True))
        assert is_part_of(theirs, list(zip(read["event"], read["allocated_bytes"], strict=True)))
        assert len(read) == len(wanted) + len(theirs)
    else:
        assert found == wanted


def is_part_of(some, more):
    """Whether ``some`` are found among ``more`` in their order."""
    rest = iter(more)
    return all(item in rest for item in some)


def test_data_say_the_phase_and_hold_the_last_count():
    total = Total([0.0, 1.5, 3.5], [5, 7, 9])
    one = make({"batch": [1, 2, 3]}, ("forward", "backward"), [0.0, 1.0, 3.0], total)
    assert csv(one).splitlines() == [
        "event,phase,batch_bytes,total_bytes,allocated_bytes",
        "0.0,forward,1,1,5",
        "0.0,forward,1,1,5",
        "1.0,forward,2,2,5",
        "1.5,backward,2,2,7",
        "3.0,backward,3,3,7",
        "3.5,backward,3,3,9",
    ]


# Thinning.


@st.composite
def traces(draw):
    size = draw(st.integers(1, 60))
    positions = sorted(draw(st.lists(st.integers(0, 100), min_size=size, max_size=size)))
    return positions, draw(st.lists(COUNTS, min_size=size, max_size=size))


@given(traces(), st.integers(1, 12))
def test_thinning_keeps_the_peak_and_what_each_column_ends_with(trace, columns):
    positions, totals = trace
    kept = thin(positions, totals, columns).tolist()
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == len(totals) - 1
    assert totals.index(max(totals)) in kept
    assert len(kept) <= 2 * columns + 1
    width = (positions[-1] - positions[0]) / columns or 1
    for column in range(columns):
        inside = [
            i
            for i, x in enumerate(positions)
            if min(int((x - positions[0]) / width), columns - 1) == column
        ]
        if inside:
            assert inside[-1] in kept
            assert max(totals[i] for i in kept if i in inside) == max(totals[i] for i in inside)


def test_few_events_are_all_drawn():
    totals = [5, 1, 4, 1, 3]
    assert thin(range(5), totals).tolist() == [0, 1, 2, 3, 4]


def test_a_needle_among_twenty_thousand_events_is_drawn_to_its_tip():
    one = dense()
    [axes] = timeline.figure(one).axes
    stacked = [a for a in axes.collections if isinstance(a, PolyCollection) and a.get_zorder() == 2]
    tips = [max(path.vertices[:, 1].max() for path in area.get_paths()) for area in stacked]
    assert tips == pytest.approx([1.0, 3.0])
    assert sum(len(path.vertices) for path in stacked[0].get_paths()) < 8 * timeline.COLUMNS


# Picture.


def test_the_same_timeline_makes_the_same_bytes_whatever_the_users_style():
    first = render(everything(limit_bytes=6 * 10**9))
    with mpl.rc_context({"font.size": 22, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        assert render(everything(limit_bytes=6 * 10**9)) == first
    assert sorted(first) == ["png", "svg"]
    assert first["png"].startswith(b"\x89PNG")
    assert b"</svg>" in first["svg"]
    for data in first.values():
        assert mpl.__version__.encode() not in data


@examples(10)
@given(timelines())
def test_anything_can_be_drawn(one):
    with mpl.rc_context(canvas.STYLE):
        [axes] = timeline.figure(one).axes
    unit = 1e9 if one.peak.size_bytes >= 1e9 else 1e6
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] >= one.peak.size_bytes / unit


def texts(figure):
    [axes] = figure.axes
    legends = [a for a in axes.get_children() if isinstance(a, Legend)]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_legend_says_what_makes_up_the_peak_from_the_top_down():
    one = make({"parameters": [10**6] * 2, "batch": [0, 0], "temporaries": [0, 2 * 10**6]})
    found = texts(timeline.figure(one))
    assert found == ["temporaries: 2.0 MB", "parameters: 1.0 MB", "peak: 3.0 MB", "forward"]


def test_legend_says_what_the_allocator_has_beyond_tensors():
    one = everything()
    more = dataclasses.replace(one.peak, size_bytes=one.peak.size_bytes + 5_100)
    found = texts(timeline.figure(dataclasses.replace(one, peak=more)))
    assert "allocator; kernels' scratch: 5.1 kB" in found
    assert found[-4:] == ["forward", "recompute", "backward", "optimizer"]


def test_picture_says_where_when_and_in_which_units():
    figure = timeline.figure(everything(heading={"modelled": True}))
    [axes] = figure.axes
    assert figure.get_suptitle() == HEADING.title
    assert axes.get_title("left").splitlines() == [
        "modelled cpu (Test CPU); torch 2.13.0; 2026-01-02",
        "batch=4, layers=8; fp32; optimizer none",
        "Peak: mm in h.1, backward",
    ]
    assert axes.get_ylabel() == "Alive, GB (10⁹ bytes), modelled"
    [small] = timeline.figure(make({"batch": [999_999_999]})).axes
    assert small.get_ylabel() == "Alive, MB (10⁶ bytes), measured"


def test_peak_is_marked_where_it_is():
    one = make({"batch": [1_000_000, 7_000_000, 2_000_000]})
    [axes] = timeline.figure(one).axes
    [mark] = [line for line in axes.lines if line.get_label() == "peak: 7.0 MB"]
    assert mark.get_xydata().tolist() == [[1, 7]]


@pytest.mark.parametrize("limit_mb", [3, 7, 14])
def test_a_limit_in_sight_is_drawn(limit_mb):
    one = make({"batch": [1_000_000, 7_000_000]}, limit_bytes=limit_mb * 10**6)
    [axes] = timeline.figure(one).axes
    label = f"device memory: {limit_mb}.0 MB"
    [line] = [line for line in axes.lines if line.get_label() == label]
    assert set(line.get_ydata()) == {limit_mb}
    assert axes.get_ylim()[1] > max(7, limit_mb)


def test_a_limit_out_of_sight_is_said_and_does_not_flatten_the_picture():
    one = make({"batch": [1_000_000, 7_000_000]}, limit_bytes=80 * 10**9)
    figure = timeline.figure(one)
    assert "device memory: 80.0 GB\n(above this picture)" in texts(figure)
    assert figure.axes[0].get_ylim()[1] < 10


def bands(axes, name):
    """Horizontal extents of a phase's strip."""
    colour = to_rgb(timeline.PHASE_COLOURS[name])
    [strip] = [
        a
        for a in axes.collections
        if a.get_zorder() != 2 and a.get_alpha() == 1 and tuple(a.get_facecolor()[0][:3]) == colour
    ]
    return [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in strip.get_paths()]


def test_phases_are_shaded_where_they_are():
    phases = ("forward", "recompute", "backward", "recompute", "backward")
    [axes] = timeline.figure(make({"batch": [1] * 11}, phases)).axes
    assert bands(axes, "forward") == [(0, 2)]
    assert bands(axes, "recompute") == [(2, 4), (6, 8)]
    assert bands(axes, "backward") == [(4, 6), (8, 10)]


@pytest.mark.parametrize(
    "heading",
    [
        {},
        {
            "title": "w" * 50 + ", hybrid(inner='every_k(k=4)', storage='int8'): " + "x" * 50,
            "device": "sim:custom(memory_gb=48, bf16_tflops=100, bandwidth_gb_s=900) " * 3,
            "setting": "attention=flash, positions=131072, " * 8,
        },
    ],
)
@pytest.mark.parametrize("limit_bytes", [6 * 10**9, 80 * 10**9])
def test_nothing_is_clipped_and_nothing_overlaps(heading, limit_bytes):
    figure = timeline.figure(everything(limit_bytes=limit_bytes, heading=heading))
    figure.draw_without_rendering()
    [axes] = figure.axes
    legends = [a for a in axes.get_children() if isinstance(a, Legend)]
    assert len(legends) == 2
    title = axes.title if axes.title.get_text() else axes._left_title
    labels = [axes.xaxis.label, axes.yaxis.label]
    things = [axes.patch, figure._suptitle, title, *labels, *legends]
    boxes = [thing.get_window_extent() for thing in things]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (45_678_901, "45.7 MB"),
        (999_999_999, "1000.0 MB"),
        (1e9, "1.0 GB"),
        (700.9e9, "700.9 GB"),
    ],
)
def test_sizes_are_in_powers_of_ten(count, text):
    assert sized(count) == text


# Colours.

# Viénot, Brettel and Mollon (1999): what is left of linear RGB without one kind of cone.
VISION = {
    "full": np.eye(3),
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, vision):
    """CIE 1976 L*a*b*, for white D65."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    relative = XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / XYZ.sum(axis=1)
    root = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    x, y, z = root
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", [timeline.COLOURS, timeline.PHASE_COLOURS])
def test_colours_can_be_told_apart_without_one_kind_of_cone(palette, vision):
    seen = [lab(colour, vision) for colour in palette.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10
