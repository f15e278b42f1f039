"""The report page: whole, sealed, the same each time; what is stored is shown, and not obeyed."""

import base64
import gzip
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import command
import pytest
import stored_factory
from stored_factory import HOSTILE, timed

from bench.report.frame import build, rows
from bench.report.page import cells, charts, markup, page, planes
from bench.report.page.environments import environments
from bench.report.stored import Stored, read
from bench.store import records

ROOT = Path(__file__).parent.parent
MOST_BYTES = 6_000_000
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Reader(HTMLParser):
    """Tags with their attributes, scripts by their text, and all other text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def whole():
    return page.render(stored_factory.stored())


@pytest.fixture(scope="module")
def reader(whole):
    return Reader(whole.decode())


def shown(reader):
    [(_, text)] = [one for one in reader.scripts if one[0].get("id") == "data"]
    return json.loads(text)


def test_the_same_records_make_the_same_bytes(whole):
    assert page.render(stored_factory.stored()) == whole


def policy(reader):
    """Rules of the page by their kind."""
    [text] = [a["content"] for _, a in reader.tags if a.get("http-equiv")]
    return dict(rule.split(" ", 1) for rule in text.split("; "))


def digest(data):
    return f"'sha256-{base64.b64encode(hashlib.sha256(data).digest()).decode()}'"


def test_it_asks_nobody_and_runs_only_what_its_policy_names(reader):
    by_kind = {attributes.get("type", "script"): text for attributes, text in reader.scripts}
    assert set(by_kind) == {"application/json", "application/octet-stream", "script"}
    drawing = gzip.decompress(base64.b64decode(by_kind["application/octet-stream"]))
    assert b"MIT license" in drawing[:300]
    scripts = [digest(by_kind["script"].encode()), digest(drawing)]
    assert policy(reader)["script-src"].split() == scripts
    assert policy(reader)["default-src"] == "'none'"
    for tag, attributes in reader.tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#"), attributes
        assert not [name for name in attributes if name.startswith("on")], tag


def test_hostile_names_are_shown_and_make_no_tag(reader):
    assert sum(HOSTILE in text for text in reader.texts) >= 4  # label, reason, notes, plan
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert not reader.open
    data = shown(reader)
    assert HOSTILE in [point["label"] for plane in data["planes"] for point in plane["points"]]
    assert {point["model"] for point in data["promises"]} == {HOSTILE}


def test_markdown_shows_tags_and_follows_no_script():
    text = markup.markdown(f"# Title\n\n## Part\n\n{HOSTILE}\n\n[x](javascript:alert(1))\n")
    assert "<img" not in text
    assert "<script" not in text
    assert "&lt;img" in text
    assert "href" not in text
    assert "Title" not in text
    assert "<h3>Part</h3>" in text


def test_every_cell_has_a_row_with_its_environment(reader):
    kept = rows(build(stored_factory.records()))
    lines = cells.lines(kept)
    anchors = [a["id"] for t, a in reader.tags if t == "tbody" and "id" in a]
    assert sorted(anchors) == sorted(line.anchor for line in lines)
    for line, row in zip(lines, kept, strict=True):
        environment = dict(line.details)["Environment"]
        for part in ("device", "torch_version", "machine_id", "python_version"):
            assert row[part] in environment
        assert row["started_at_utc"][:10] in environment
        assert ("modelled" in environment) == row["modelled"]
        assert line.filters.keys() == set(cells.FILTERS)


def test_figures_sort_by_what_is_stored():
    [line] = cells.lines(rows(build([timed("sqrt", 60, 1.2)])))
    keys = dict(zip(cells.COLUMNS, (figure.key for figure in line.figures), strict=True))
    assert keys["Peak, MB"] == 60_000_000
    assert keys["Step × none [95 %]"] == pytest.approx(1.2)
    assert keys["Saved after forward, MB"] == 8 * 2_097_152
    assert keys["Peak × none"] is None


def test_timed_cells_come_first():
    kept = cells.ordered(rows(build(stored_factory.records())))
    timed_ones = [row["step_ratio"] is not None for row in kept]
    assert timed_ones == sorted(timed_ones, reverse=True)


def planes_of(found, studies=()):
    return planes.planes(build(found), {}, studies)


def test_a_plane_holds_its_points_and_both_fronts():
    [plane] = planes_of([timed(*point) for point in _points()])
    assert [point.label for point in plane.points] == ["loose", "every_layer", "sqrt", "none"]
    assert [plane.points[i].label for i in plane.front] == ["loose", "none"]
    assert [plane.points[i].label for i in plane.exact_front] == ["every_layer", "sqrt", "none"]


def _points():
    yield from ((name, *point) for name, point in stored_factory.POINTS.items())
    yield "loose", 30, 1.1


@pytest.fixture(autouse=True)
def loose_is_inexact(monkeypatch):
    """`loose` promises no exact gradients."""
    real = stored_factory.make

    def make(strategy, **changes):
        return real(strategy, **({"exact": False} if strategy == "loose" else {}) | changes)

    monkeypatch.setattr(stored_factory, "make", make)


def test_machines_devices_and_versions_never_share_a_plane():
    others = ({"machine_id": "m2"}, {"torch_version": "2.14.0"}, {"device_name": "Other CPU"})
    found = [timed(name, 50, 1.0, **other) for name in ("none", "sqrt") for other in ({}, *others)]
    assert [len(plane.points) for plane in planes_of(found)] == [2] * 4


def test_a_modelled_plane_says_so_and_has_no_intervals():
    modelled = {
        "device": "sim:x",
        "device_name": "X",
        "modelled": True,
        "modelled_none_step_s": 1.0,
    }
    [plane] = planes_of(
        [timed("none", 9, 1.0, step_s=[], none_step_s=[], modelled_step_s=1.0, **modelled)]
    )
    assert plane.modelled
    assert plane.facts.startswith("modelled sim:x (X); torch")
    assert [(point.low, point.high, point.unstable) for point in plane.points] == [
        (None, None, False)
    ]


def test_what_did_not_fit_is_no_answer_to_a_budget():
    [plane] = planes_of([timed("none", 100, 1.0), timed("sqrt", 60, 1.2, status="oom")])
    assert [point.label for point in plane.points] == ["none"]


def test_a_budget_study_is_a_plane_and_its_budgets_are_in_that_of_its_cells():
    study = stored_factory.study_factory.study()
    shape = {"workload": study.workload, "workload_options": study.workload_options}
    cell, of_study = planes_of([timed("none", 100, 1.0, **shape)], [study])
    assert (cell.title, of_study.title) == ("gpt-mini on cpu", "gpt-mini on cpu: 6 budgets")
    assert cell.budgets == of_study.budgets == sorted(b.budget_bytes for b in study.budgets)
    lines = {point.label: point.line for point in of_study.points}
    assert lines["every_k(k=2)"] == "strategies.apply(model, 'every_k(k=2)')"
    assert lines["optimal(budget=36000000)"].endswith("example=batch)")


def test_a_line_applies_the_strategy_as_it_was_measured():
    budget = timed("auto", 50, 1.1, spec="auto(budget='50%')", params={"budget": "50%"})
    flash = {"workload_options": {"layers": 8, "attention": "flash"}}
    [one], [two] = planes_of([budget]), planes_of([timed("sqrt", 50, 1.0, **flash)])
    assert one.points[0].line == "strategies.apply(model, \"auto(budget='50%')\", example=batch)"
    assert two.points[0].line.startswith("strategies.apply(model, 'sqrt')  # and flash attention")


def test_a_timeline_keeps_its_bytes_and_its_place():
    data = charts.timeline(stored_factory.timeline())
    assert [series["bytes"] for series in data["series"]] == [[5, 5, 5, 5], [0, 8, 9, 0]]
    assert data["facts"].startswith("cpu (Test CPU); torch 2.13.0; 2026-01-02.")
    assert data["kept"] == "4 of 9 moments"
    assert data["peak"]["parts"][0] == {"name": "saved tensors", "bytes": 9}


def test_a_study_of_budgets_says_the_verdict_of_each():
    data = charts.budget(stored_factory.study_factory.study())
    assert data["verdicts"][0] == "no rule fits"
    assert data["rule"][0] is None
    assert len({len(data[name]) for name in ("budgets", "optimal", "predicted", "rule")}) == 1


def test_claims_lead_to_the_rows_behind_them(reader):
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    links = {a["href"][1:] for t, a in reader.tags if t == "a"}
    assert links <= ids
    assert any(link.startswith("cell-") for link in links)


def test_environments_count_everything_that_is_stored():
    stored = stored_factory.stored()
    lines = environments(stored)
    assert sum(line.count for line in lines) == sum(
        len(getattr(stored, name)) for name in Stored.__dataclass_fields__
    )
    [modelled] = [line for line in lines if line.device.startswith("modelled")]
    assert (modelled.kind, modelled.count) == ("records", 2)


def test_any_one_kind_makes_a_page():
    for name in ("records", "budgets", "solvers", "promises", "timelines"):
        alone = Stored(**{"records": ()} | {name: getattr(stored_factory.stored(), name)})
        text = page.render(alone).decode()
        assert 'id="environments"' in text
        assert ('id="cell-table"' in text) == (name == "records")


def test_nothing_stored_is_refused():
    with pytest.raises(ValueError, match="nothing is stored to report"):
        page.render(Stored(()))


# The command.


def test_the_command_writes_the_page(tmp_path):
    records.write(timed("none", 100, 1.0), tmp_path)
    done = command.run("report", "--results", str(tmp_path), "--output", str(tmp_path / "p.html"))
    assert done.returncode == 0
    assert done.stdout.startswith(f"wrote {tmp_path / 'p.html'} (")
    assert (tmp_path / "p.html").read_bytes() == page.render(read(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--results", "{}/none"], "there is no folder"),
        (["--results", "{}"], "nothing is stored to report"),
        (["--results", "{}", "--output", "{}"], "--output names a file"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command.run("report", *(text.format(tmp_path) for text in arguments))
    assert done.returncode == 2
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_is_committed_makes_a_page_that_is_small_without_torch(tmp_path):
    output = tmp_path / "report.html"
    program = f"""
import sys
from pathlib import Path
from bench.cli.report import report
report(output=Path({str(output)!r}), results=Path("results"))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    text = output.read_text("utf-8")
    assert output.stat().st_size < MOST_BYTES
    kept = rows(build(records.read_all(ROOT / "results")))
    assert text.count('<tbody id="cell-') == len(kept)
