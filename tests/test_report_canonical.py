"""Figures and tables that another CPU makes too: a last bit that differs changes nothing."""

import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib.transforms
import msgspec
import numpy as np
import pytest
import test_frontier
import test_timeline
from effort import few
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from study_factory import study
from test_report_factory import chain
from test_report_figures import RECORDS
from test_solver_study import made_up

from bench.report import canvas, frontier, timeline
from bench.report.canonical import canonical
from bench.report.figures import figures
from bench.report.frame import build
from bench.report.likeness import same, same_picture
from bench.report.rounding import snapped, steady
from bench.report.stored import Stored

TIMED = [*RECORDS, *chain("none"), *chain("sqrt")]


def drawn():
    """Every kind of figure."""
    files = figures(build(TIMED), [study()], [made_up()])
    kinds = {
        "frontier": frontier.render(frontier.rows_of(test_frontier.MEASURED)),
        "timeline": timeline.render(test_timeline.everything()),
    }
    return files | {f"{name}.{kind}": data for name, d in kinds.items() for kind, data in d.items()}


def svgs(files):
    return {name: data for name, data in files.items() if name.endswith(".svg")}


@pytest.fixture
def another_cpu(monkeypatch):
    """Every coordinate that matplotlib computes comes out one last bit higher, or lower."""
    exact = matplotlib.transforms.affine_transform

    def install(towards):
        monkeypatch.setattr(
            matplotlib.transforms,
            "affine_transform",
            lambda *arguments: np.nextafter(exact(*arguments), towards),
        )

    return install


@pytest.fixture(scope="module")
def here_and_raw():
    """Every figure as it is drawn here; and by its text, that of matplotlib's own."""
    raw = {}

    def keeping(svg):
        text = canonical(svg)
        raw[text.encode()] = svg.encode()
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "canonical", keeping)
        return drawn(), raw


@pytest.fixture(scope="module")
def here(here_and_raw):
    return here_and_raw[0]


@pytest.mark.long
def test_another_cpu_draws_the_same(here, another_cpu):
    another_cpu(np.inf)
    there = drawn()
    assert sorted(there) == sorted(here)
    assert {re.split(r"[-.]", name)[0] for name in svgs(here)} == {
        "memory",
        "depth",
        "budgets",
        "solvers",
        "frontier",
        "timeline",
    }
    for name, data in svgs(here).items():
        assert there[name] == data, name
    for name, data in here.items():
        assert same(name[-4:], data, there[name]), name


@pytest.mark.long
def test_without_canonical_text_another_cpu_draws_another(monkeypatch, another_cpu):
    monkeypatch.setattr(canvas, "canonical", lambda svg: svg)
    before = svgs(figures(build(TIMED)))
    another_cpu(np.inf)
    after = svgs(figures(build(TIMED)))
    assert all(after[name] != data for name, data in before.items())


def nudged(value, towards):
    """``value`` with every float in it one last bit off."""
    if isinstance(value, float):
        return float(np.nextafter(value, towards))
    if isinstance(value, list):
        return [nudged(item, towards) for item in value]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        changes = {name: nudged(getattr(value, name), towards) for name in names}
        return msgspec.structs.replace(value, **changes)
    return value


@pytest.mark.parametrize("towards", few([np.inf, -np.inf]))
def test_a_last_bit_in_the_data_changes_no_table_and_no_figure(here, towards):
    records, studies, timed = TIMED, [study()], [made_up()]
    stored = Stored(records, studies, timed)
    other = Stored(*(nudged(part, towards) for part in (records, studies, timed)))
    assert other.records[1].step_s != records[1].step_s
    assert other.tables() == stored.tables()
    made = figures(build(other.records), other.budgets, other.solvers)
    assert svgs(made) == {name: data for name, data in svgs(here).items() if name in made}


# The text.

SVG = """<?xml version="1.0"?>
<!-- id="n9" 1.23456 > -->
<svg viewBox="0 0 540.00001 360"><style>a{b: 1.23456}</style>
<clipPath id="p12.5e"><rect x="-0.0001" y="1.5" width="9.99999" height=".25"/></clipPath>
<path id="m1e5" clip-path="url(#p12.5e)" d="M 1.00001 -2.49999&#10;L 3 4e-7" style="fill: #1e5e05;
 stroke-width: 0.80001; clip-path: url(#p12.5e)"/>
<use xlink:href="#m1e5" transform="translate(10.004 5.0) scale(0.015625 -0.015625)"/>
<a href="#m1e5">7.77777 &lt; x="1.23456"</a><a href="http://x/#m1e5"/></svg>"""


def test_ids_are_numbered_references_follow_and_coordinates_are_rounded():
    text = canonical(SVG)
    assert 'viewBox="0 0 540 360"' in text
    assert '<clipPath id="n1"><rect x="0" y="1.5" width="10" height="0.25"/>' in text
    assert '<path id="n2" clip-path="url(#n1)" d="M 1 -2.5&#10;L 3 0" style="fill: #1e5e05;' in text
    assert "stroke-width: 0.8; clip-path: url(#n1)" in text
    assert '<use xlink:href="#n2" transform="translate(10 5) scale(0.015625 -0.015625)"/>' in text
    assert canonical(text) == text


def test_text_comments_and_other_documents_are_not_touched():
    text = canonical(SVG)
    assert '<!-- id="n9" 1.23456 > -->' in text
    assert "<style>a{b: 1.23456}</style>" in text
    assert '<a href="#n2">7.77777 &lt; x="1.23456"</a><a href="http://x/#m1e5"/>' in text


def elements(svg):
    return [(e.tag, sorted(e.attrib), e.text, e.tail) for e in ElementTree.fromstring(svg).iter()]


def test_nothing_is_lost_and_every_reference_has_its_id(here_and_raw):
    here, raw = here_and_raw
    assert len(svgs(here)) == len(raw)
    for name, own in svgs(here).items():
        data = raw[own]
        assert elements(own) == elements(data)
        assert here[name].count(b"<!--") == data.count(b"<!--")
        text = here[name].decode()
        ids = re.findall(r' id="([^"]+)"', text)
        assert ids == list(dict.fromkeys(ids))
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)


# Rounding.


@given(st.integers(-(10**7), 10**7), st.sampled_from([2, 3, 4, 5, 6, 8, 10, 16, 64, 72, 100, 1000]))
def test_no_simple_fraction_sits_where_rounding_decides(numerator, denominator):
    value = numerator / denominator
    texts = {snapped(float(np.nextafter(value, to)), 2) for to in (-np.inf, value, np.inf)}
    assert len(texts) == 1
    assert abs(float(texts.pop()) - value) < 0.0062


@given(st.floats(1e-9, 1e12))
def test_steady_numbers_stay_and_lose_a_trillionth_at_most(value):
    assert steady(steady(value)) == steady(value)
    assert steady(value) == pytest.approx(value, rel=5e-12)


def test_a_tie_is_one_number():
    assert f"{1.1249999999999998:.2f}" == f"{1.125:.2f}"
    assert f"{0.37499999999999994:.2f}" != f"{0.375:.2f}"
    assert steady(0.37499999999999994) == 0.375
    assert snapped(-0.001, 2) == "0"


# Pictures.


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_are_compared_by_what_they_show(here):
    data = here["memory-time-gpt-mini-cpu.png"]
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).copy()
    blended = np.where(pixels > 200, pixels - 1, pixels)
    assert same(".png", data, png(blended))
    assert not same(".svg", data, png(blended))
    lines = pixels.copy()
    lines[100] = 0
    assert same_picture(data, png(lines))
    lines[100:110] = 0
    assert not same_picture(data, png(lines))
    assert not same_picture(data, png(pixels[1:]))
    assert not same_picture(data, b"no picture")
    moved = [msgspec.structs.replace(r, step_s=[2 * s for s in r.step_s]) for r in RECORDS[1:2]]
    other = figures(build([RECORDS[0], *moved, *RECORDS[2:]]))["memory-time-gpt-mini-cpu.png"]
    assert not same_picture(data, other)
