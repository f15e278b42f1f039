"""``python -m bench published``: stored figures are those that are modelled; table and bounds."""

import csv
import io
import itertools
import statistics
from pathlib import Path

import command
import msgspec
import pytest

from bench.published.modelling import figure_of, modelled
from bench.report import figures
from bench.report import published as report
from bench.store import published as store
from bench.store.json_store import RESULTS

ROOT = Path(__file__).parent.parent
POINTS = {point.name: point for point in store.read_all(ROOT / RESULTS)}
WHOLE = {"model", "batch"}
"""Kinds that take seconds each."""
SHORT_RANK = "korthikanti-22b-tp-sp-selective"
"""The one rank of several that a short run simulates."""


def takes_long(point):
    rank = "ranks" in point.configuration.options
    return point.kind in WHOLE or (rank and point.name != SHORT_RANK)


def of_each_source():
    """All that are soon modelled; of the others every other one of a source, the last always.

    `python -m bench published` models them all.
    """
    soon = [name for name, point in POINTS.items() if not takes_long(point)]
    dear: dict[str, list[str]] = {}
    for name in POINTS.keys() - set(soon):
        dear.setdefault(POINTS[name].source, []).append(name)
    every_other = [sorted(names)[::-2] for names in dear.values()]
    return [*soon, *itertools.chain(*every_other)]


def point_of(name, **fields):
    return msgspec.structs.replace(POINTS[name], **fields)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if takes_long(POINTS[name]) else [])
        for name in sorted(of_each_source())
    ],
)
def test_the_stored_figure_is_what_is_modelled(name):
    pytest.importorskip("transformers")
    assert modelled(POINTS[name]) is POINTS[name]


def test_every_point_names_its_source_and_has_a_figure():
    for point in POINTS.values():
        assert point.source.startswith("https://")
        assert point.where
        assert point.remark
        assert point.modelled is not None


def test_there_are_as_many_as_were_promised():
    measured = [point for point in POINTS.values() if point.kind != "formula"]
    assert len(measured) >= 25
    assert sum(point.checkpointing for point in measured) >= 5


def test_operators_are_exact_and_models_near():
    errors = {
        kind: [abs(p.error_fraction) for p in POINTS.values() if p.kind == kind and p.sound]
        for kind in ("operator", "model")
    }
    assert max(errors["operator"]) < 1e-3
    assert statistics.median(errors["operator"]) == 0
    assert statistics.median(errors["model"]) < 0.02


def test_the_quantity_decides_the_figure():
    point = POINTS["liger-swiglu-t1024"]
    configuration = msgspec.structs.replace(point.configuration, requested=True)
    requested = msgspec.structs.replace(point, configuration=configuration)
    assert figure_of(requested) <= point.modelled


def test_a_changed_figure_takes_its_error_and_its_provenance_along():
    changed = modelled(point_of("torchtitan-none", modelled=None, error_fraction=None))
    assert changed.modelled == POINTS["torchtitan-none"].modelled
    assert changed.error_fraction == POINTS["torchtitan-none"].error_fraction
    assert changed.started_at_utc


def test_a_point_without_sense_is_refused():
    with pytest.raises(ValueError, match="no unit 'stone'"):
        store.decode(store.encode(point_of("cce-loss-fw", unit="stone")))
    with pytest.raises(ValueError, match="the error is"):
        store.decode(store.encode(point_of("cce-loss-fw", error_fraction=0.5)))


def test_a_wrong_source_is_shown_and_in_no_median():
    right = point_of("cce-loss-fw")
    wrong = point_of("cce-loss-bw", sound=False, modelled=1.0, error_fraction=None)
    text = report.markdown([right, wrong])
    assert "## Sources that are wrong" in text
    assert "cce-loss-bw" in text
    assert report.sentence([right, wrong]) == report.sentence([right])


def test_the_command_models_one_point(tmp_path):
    stale = point_of("torchtitan-full", modelled=None, error_fraction=None)
    store.write(stale, tmp_path)
    done = command.run("published", "--name", stale.name, "--results", str(tmp_path))
    assert done.returncode == 0
    assert f"{stale.name}: published 0 MiB, modelled 0 (+0.00 %)" in done.stderr
    [stored] = store.read_all(tmp_path)
    assert stored.modelled == 0


def test_a_point_that_is_not_there_exits_2(tmp_path):
    store.write(point_of("torchtitan-full"), tmp_path)
    done = command.run("published", "--name", "nowhere", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "error: no point nowhere; there are torchtitan-full\n"


def test_the_data_are_the_points():
    some = [point_of("cce-loss-fw"), point_of("cce-loss-bw", modelled=None, error_fraction=None)]
    first, second = csv.DictReader(io.StringIO(report.csv(some)))
    assert (first["name"], float(first["published"])) == (some[0].name, some[0].published)
    assert float(first["modelled"]) == pytest.approx(some[0].modelled, rel=1e-9)
    assert (second["modelled"], second["error"], second["source"]) == ("", "", some[1].source)
    assert "cce-loss-bw" in report.markdown(some)


def test_a_mark_a_point_a_colour_a_kind_and_nothing_without_an_error():
    some = [POINTS["cce-loss-fw"], POINTS["cce-loss-bw"], POINTS["korthikanti-22b-none"]]
    assert list(figures._published([point_of("cce-loss-fw", error_fraction=None)])) == []
    [(name, figure)] = figures._published(some)
    assert name == "published"
    marks = {c.get_label(): c.get_offsets().tolist() for c in figure.axes[0].collections}
    operators = marks[report.KINDS["operator"]]
    assert len(operators) == 2
    published_bytes = some[0].published * store.UNITS[some[0].unit]
    assert operators[0][0] == pytest.approx(published_bytes / 1e6)
    assert operators[0][1] == pytest.approx(100 * some[0].error_fraction)
    assert len(marks[report.KINDS["formula"]]) == 1
    assert marks[report.KINDS["model"]] == []


def test_what_is_not_stored_is_not_drawn():
    assert list(figures._coverage([])) == list(figures._clusters([])) == []
    assert list(figures._pays([])) == list(figures._contests([])) == []
