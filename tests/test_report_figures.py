"""Figures: the same bytes each time, labels that do not overlap, and honest points."""

import itertools
import math
import re
import subprocess
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_report_factory import chain, gpt_options, make

from bench.report import canvas, families, placement, plane
from bench.report.figures import figures
from bench.report.frame import build, groups, rows
from bench.report.placement import LEADER, crossing, place_labels
from bench.store import records


def timed(strategy, peak_mb, ratio, **changes):
    return make(
        strategy,
        **{
            "workload": "gpt-mini",
            "workload_options": gpt_options(),
            "peak_allocated_bytes": int(peak_mb * 1e6),
            "step_s": [ratio * (1 + i / 100) for i in range(5)],
            "none_step_s": [1.0] * 5,
        }
        | changes,
    )


RECORDS = [
    timed("none", 170, 1.0),
    timed("every_layer", 60, 1.3),
    timed("worse", 80, 1.4),
    timed("sqrt", 70, 1.2),
    timed("int8", 55, 1.5, exact=False),
]


@pytest.fixture(scope="module")
def drawn():
    return figures(build([*RECORDS, *chain("none"), *chain("sqrt")]))


@pytest.fixture(scope="module")
def plane_drawn():
    return figures(build(RECORDS))


def test_the_same_records_make_the_same_bytes(drawn):
    first, records = drawn, [*RECORDS, *chain("none"), *chain("sqrt")]
    assert figures(build(records[::-1])) == first
    assert sorted(first) == [
        "depth-mlp-chain-cpu.png",
        "depth-mlp-chain-cpu.svg",
        "memory-time-gpt-mini-cpu.png",
        "memory-time-gpt-mini-cpu.svg",
    ]


def test_the_users_own_style_changes_nothing_and_is_put_back(plane_drawn):
    with mpl.rc_context({"font.size": 22, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        assert figures(build(RECORDS)) == plane_drawn
        assert mpl.rcParams["font.size"] == 22


def test_files_hold_no_date_and_no_version(drawn):
    for data in drawn.values():
        assert mpl.__version__.encode() not in data
        assert b"dc:date" not in data
        assert b"Software" not in data


def test_groups_of_one_workload_and_device_get_names_of_their_own():
    other = [timed(r.strategy, 10, 1, workload_options=gpt_options(layers=4)) for r in RECORDS[:2]]
    names = {name for name in figures(build([*RECORDS, *other])) if name.endswith("svg")}
    assert len(names) == 2
    assert "memory-time-gpt-mini-cpu.svg" in names
    [extra] = names - {"memory-time-gpt-mini-cpu.svg"}
    assert re.fullmatch(r"memory-time-gpt-mini-cpu-[0-9a-f]{6}\.svg", extra)


def test_nothing_to_draw_draws_nothing():
    assert figures(build([make("none")])) == {}
    assert figures(build(RECORDS[:1])) == {}


def test_depth_figure_without_a_single_peak_still_names_its_lines():
    records = list(chain("none", peak_allocated_bytes=None))
    assert len(figures(build(records))) == 2


def plane_of(records):
    [group] = groups(build(records))
    points = plane.points_of(group)
    return plane.figure(points), points


def test_plane_says_where_when_and_in_which_units():
    figure, _ = plane_of([timed(n, p, 1.0, modelled=True) for n, p in (("none", 9), ("sqrt", 5))])
    [axes] = figure.axes
    assert figure.get_suptitle() == "gpt-mini: memory against time"
    assert "modelled cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02" in axes.get_title("left")
    assert axes.get_xlabel() == "Measured peak, MB (10⁶ bytes)"
    assert axes.get_ylabel() == "Step time × none, 95 % interval"


def test_plane_leaves_out_what_failed_or_was_not_timed():
    records = [
        *RECORDS,
        timed("oom", 1, 1.0, status="oom", reason="full"),
        timed("untimed", 1, 1.0, step_s=[]),
        timed("no-peak", 1, 1.0, peak_allocated_bytes=None),
    ]
    _, points = plane_of(records)
    assert {row["strategy"] for row in points} == {r.strategy for r in RECORDS}


def test_pareto_front_is_what_nothing_beats_in_both():
    front = plane.pareto(plane_of(RECORDS)[1])
    assert [row["strategy"] for row in front] == ["int8", "every_layer", "sqrt", "none"]
    tie = rows(build([timed("a", 50, 1.2), timed("b", 50, 1.1), timed("c", 60, 1.1)]))
    assert [row["strategy"] for row in plane.pareto(tie)] == ["b"]


def test_approximate_gradients_are_marked():
    figure, _ = plane_of(RECORDS)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "int8 ≈" in texts
    assert "sqrt" in texts
    assert "worse" not in texts  # not on the front: it is in the key
    assert "approximate" in figure.axes[0].get_legend().get_title().get_text()


@pytest.mark.parametrize("spread", [1.0, 0.02])
def test_labels_overlap_neither_each_other_nor_points_and_stay_inside(spread):
    with mpl.rc_context(canvas.STYLE):
        figure = Figure(figsize=(8, 5))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(xlim=(0, 10), ylim=(0, 10))
        points = [(5 + spread * (i % 4), 5 + spread * (i // 4)) for i in range(12)]
        notes = place_labels(axes, [f"strategy(parameter={i})" for i in range(12)], points)
        boxes = [note.get_window_extent() for note in notes]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box, point in itertools.product(boxes, points):
        assert not box.contains(*axes.transData.transform(point))
    for box in boxes:
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0
        assert box.y1 <= axes.bbox.y1


def leaders(notes):
    """From each point to the near edge of its label."""
    for note in notes:
        box = note.get_window_extent()
        near = box.x0 if note.get_position()[0] >= 0 else box.x1
        start = note.axes.transData.transform(note.xy)
        yield tuple(map(float, start)), (near, (box.y0 + box.y1) / 2)


def committed(pattern):
    """Records that belong to the project: what somebody measured here since is not its figure."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        ["git", "ls-files", f":(glob){pattern}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return [records.decode((root / line).read_bytes()) for line in done.stdout.splitlines()]


def test_leaders_in_the_figure_of_the_readme_do_not_cross():
    found = committed("results/raw/*/gpt-mini/*.json")
    points = max(map(plane.points_of, groups(build(found))), key=len)
    figure = plane.figure(points)
    notes = [text for text in figure.axes[0].texts if text.get_text()]
    assert len(notes) == len(plane.pareto(points)) > 3
    assert any(math.hypot(*note.get_position()) > LEADER for note in notes)
    for one, other in itertools.combinations(leaders(notes), 2):
        assert not crossing(one, other)


def test_a_label_is_nearest_to_its_own_mark_where_there_is_such_a_place():
    with mpl.rc_context(canvas.STYLE):
        axes = canvas.new(8, 5)[1][0]
        axes.set(xlim=(0, 10), ylim=(0, 10))
        own, others = (5, 5), [(4.8, 5), (4.8, 5.3), (5, 5.3)]  # left and up is theirs
        [note] = place_labels(axes, ["offload"], [own], others=others, first=math.pi)
    box, mark = note.get_window_extent(), axes.transData.transform
    distance = {p: placement._distance(mark(p), box) for p in (own, *others)}
    assert min(distance, key=distance.get) == own


def test_a_line_leads_to_a_mark_that_others_surround():
    with mpl.rc_context(canvas.STYLE):
        axes = canvas.new(8, 5)[1][0]
        axes.set(xlim=(0, 10), ylim=(0, 10))
        ring = [(5 + 0.15 * x, 5 + 0.2 * y) for x, y in itertools.product((-1, 0, 1), repeat=2)]
        [note] = place_labels(axes, ["x"], [(5, 5)], others=[p for p in ring if p != (5, 5)])
    [line] = [text for text in axes.texts if text is not note]
    assert line.arrow_patch is not None
    assert line.xy == note.xy


def test_what_is_too_noisy_to_rank_is_hollow_and_the_legend_says_so():
    noisy = timed("sqrt", 50, 1.2, step_s=[0.6, 0.9, 1.2, 1.5, 1.8])
    figure, points = plane_of([timed("none", 100, 1.0), noisy, timed("every_k", 60, 1.1)])
    assert [row["label"] for row in points if row["unstable"]] == ["sqrt"]
    marks = [p for c in figure.axes[0].collections if (p := c.get_offsets()).size]
    hollow = [
        c.get_offsets().tolist()
        for c in figure.axes[0].collections
        if c.get_facecolor().tolist() == [[1, 1, 1, 1]]
    ]
    assert len(marks) > len(hollow)
    assert hollow == [[list(plane.at(points[0]))]]
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert plane.HOLLOW in texts
    figure, _ = plane_of([timed("none", 100, 1.0), timed("sqrt", 50, 1.1)])
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert plane.HOLLOW not in texts


def test_segments_that_cross():
    assert crossing(((0, 0), (2, 2)), ((0, 2), (2, 0)))
    assert not crossing(((0, 0), (1, 1)), ((0, 2), (2, 1.5)))
    assert not crossing(((0, 0), (2, 0)), ((0, 1), (2, 1)))


FAMILIES = {
    "nothing": ({"plan": "0 1", "recompute_flops": 0}, families.NOTHING),
    "whole": ({"plan": "[0 1]"}, families.GROUPS),
    "parts": ({"plan": "0 1", "recompute_flops": 5}, families.INSIDE),
    "away": ({"plan": "[0] [1]", "storage": "host"}, families.STORED),
    "budgeted": ({"plan": "[0] 1", "params": {"budget": "50%"}}, families.BUDGET),
    "compiler": ({"plan": None}, families.COMPILED),
}


def test_families_are_told_from_what_cells_did_and_have_a_colour_each():
    records = [timed("none", 100, 1.0)]
    records += [timed(name, 50, 1.2, **facts) for name, (facts, _) in FAMILIES.items()]
    figure, points = plane_of(records)
    found = families.families(points)
    assert found == {name: kind for name, (_, kind) in FAMILIES.items()}
    look = families.looks(points)
    assert len({look[name].colour for name in found}) == len(FAMILIES)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {*look, *found.values()} <= set(texts)
    width = figure.bbox.width
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= width


def test_strategies_of_a_family_have_markers_of_their_own():
    records = [timed("none", 100, 1.0), *(timed(f"s{i}", 50, 1.2, plan="[0]") for i in range(8))]
    look = families.looks(plane_of(records)[1])
    assert len({(one.colour, one.marker) for one in look.values()}) == 9


def test_dollar_signs_and_markup_in_names_are_text():
    # As mathematics this is an error; as text it is odd, but no reason to have no report.
    record = [timed("none", 9, 1.0), timed(r"cost$\frac$<b>", 5, 1.2)]
    made = figures(build(record))
    assert b"<b>" not in made["memory-time-gpt-mini-cpu.svg"]
