"""The documentation site: pages made from code and records, pictures, order and links."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from matplotlib.patches import FancyBboxPatch
from snippets import ROOT, run
from test_report_factory import make

from bench.__main__ import app
from bench.report import canvas
from bench.report.frame import build
from bench.site import commands, docstrings, links, pages, pictures, plan_picture, strategy_pages
from bench.store import records
from bench.store.json_store import RESULTS
from strategies import Schedule, Strategy
from strategies.contract.registry import classes
from strategies.schedules import plan as plans

SECTIONS = ["Parameters", "What it keeps", "Measured", "Modelled"]
ROWS = [
    make("none", plan="0 1 2 3"),
    make("sqrt", plan="[0 1] 2 3", peak_allocated_bytes=10_485_760, recompute_flops=4_000_000),
    make("sqrt", plan="[0 1] 2 3", device="sim:x", device_name="X", modelled=True),
]


@pytest.fixture(scope="module")
def frame():
    return build(records.read_all(ROOT / RESULTS))


def page_of(name, frame):
    shown = strategy_pages.drawn(name, frame)
    return strategy_pages.page(classes()[name], frame, shown, dict.fromkeys(shown, "x.svg"))


# Pages of strategies.


@pytest.mark.parametrize("name", classes())
def test_each_strategy_has_a_whole_page(name, frame):
    text = page_of(name, frame)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    optional = {"What it keeps"}
    assert titles[0] == name
    assert [title for title in SECTIONS if title not in optional - set(titles)] == titles[1:]
    assert re.search(r"^cpu \(.+\); torch \d[^;]+; \d{4}-\d\d-\d\d", text, re.MULTILINE)
    assert "Not measured yet" not in text
    assert "Not modelled yet" not in text
    assert "``" not in re.sub("```", "", text)


@pytest.mark.parametrize("name", classes())
def test_each_parameter_is_explained(name):
    cls = classes()[name]
    explained = docstrings.attributes(cls)
    own = {field.name for field in dataclasses.fields(cls)}
    assert own <= set(explained)
    assert all(len(explained[key]) > 5 for key in own)


@pytest.mark.parametrize("name", sorted(set(classes()) - {"none"}))
def test_each_strategy_names_a_source(name):
    cls = classes()[name]
    said = " ".join(base.__doc__ or "" for base in cls.__mro__ if issubclass(base, Strategy))
    assert docstrings.papers(cls) or re.search(r"\b20\d\d\b", said)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if cls.needs_profile else name
        for name, cls in classes().items()
    ],
)
def test_what_a_page_says_to_type_can_be_typed(name, frame):
    [code] = re.findall(r"^```python\n(.*?)^```", page_of(name, frame), re.DOTALL | re.MULTILINE)
    assert f'"{name}"' in code
    assert run(code) == ""


def test_rows_of_a_page_are_those_of_the_records():
    text = page_of("sqrt", build(ROWS))
    measured, modelled = text.split("## Measured\n")[1].split("## Modelled\n")
    assert "cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02." in measured
    assert "| mlp-chain | sqrt | 0.50× | 50.0 % | — | — | 2026-01-02 |" in measured
    assert measured.count("\n| mlp-chain") == 1
    assert "| mlp-chain on sim:x | sqrt | 21.0 |" in modelled
    assert "- mlp-chain on sim:x: modelled sim:x (X); torch 2.13.0+cpu; 2026-01-02;" in modelled
    kept = "`sqrt` on mlp-chain: boundaries kept: 1; blocks kept: 2 of 4; "
    assert kept in text
    assert "![sqrt drawn: [0 1] 2 3](x.svg)" in text


def test_a_strategy_without_records_says_so():
    text = page_of("sqrt", build(ROWS[:1]))
    assert "Not measured yet." in text
    assert "Not modelled yet." in text


class Base:
    """A base.

    Attributes:
        a: of the base.
        b: of the base,
            over two lines.
    """


class Derived(Base):
    """Derived (arXiv 1604.06174), see ``a`` and pytorch/pytorch#12.

    Attributes:
        a: its own.

    The end (doi 10.1145/347837.347846).
    """


def test_docstrings_become_markdown():
    text = docstrings.prose(Derived)
    assert "Attributes" not in text
    assert "`a`" in text
    assert "https://github.com/pytorch/pytorch/issues/12" in text
    assert text.endswith("(https://doi.org/10.1145/347837.347846)).")
    assert docstrings.attributes(Derived) == {"a": "its own.", "b": "of the base, over two lines."}
    assert [link.partition("]")[0] for link in docstrings.papers(Derived)] == [
        "[arXiv 1604.06174",
        "[doi 10.1145/347837.347846",
    ]
    assert docstrings.papers(Base) == []


def test_the_questions_name_what_is_not_exact():
    text = (ROOT / "docs" / "faq.md").read_text("utf-8")
    [answer] = re.findall(r"no bit of it does\. (.*?) are not exact", text, re.DOTALL)
    inexact = {name for name, cls in classes().items() if not cls().exact}
    assert set(re.findall(r"`(\w+)`", answer)) == inexact


# Commands.


def test_every_command_and_flag_is_described():
    text = commands.page()
    for name, command in typer.main.get_command(app).commands.items():
        section = text.split(f"## `python -m bench {name}`\n")[1].split("\n## ")[0]
        for option in command.params:
            assert re.search(rf"[` ]{option.opts[0]}[`, .]", section), (name, option.opts)


# Pictures.


@pytest.mark.parametrize(
    ("text", "groups", "filled", "hollow"),
    [
        ("0 1 2", 0, 0, 0),
        ("[0 1] 2", 1, 1, 0),
        ("0 1 [2 3] [[4 5] 6]", 3, 2, 1),
        ("0:core [1 2]@disk 3", 1, 1, 0),
    ],
)
def test_a_plan_is_drawn(text, groups, filled, hollow):
    schedule = Schedule.parse(text)
    with canvas.style():
        [axes] = plan_picture.figure(schedule).axes
    n_blocks = sum(1 for node in schedule.plan for _ in plans.leaves(node))
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == n_blocks + groups
    faces = [line.get_markerfacecolor() for line in axes.lines]
    assert (faces.count(plan_picture.BOUNDARY), faces.count("white")) == (filled, hollow)
    words = [word.get_text() for word in axes.texts]
    counts = [f"{count}×" for count in plans.forward_counts(schedule.plan, n_blocks)]
    assert [word for word in words if word.endswith("×")] == counts
    assert ("disk" in words, "core" in words) == ("@disk" in text, ":core" in text)


QUICK = sorted(set(pictures.PICTURES) - {"memory"})


@pytest.mark.parametrize("name", [*QUICK, pytest.param("memory", marks=pytest.mark.long)])
def test_committed_pictures_are_those_of_the_code(name):
    committed = ROOT / pictures.FOLDER / f"{name}.svg"
    assert committed.read_bytes() == pictures.svg(pictures.PICTURES[name])


def test_there_are_no_other_pictures():
    names = {path.name for path in (ROOT / pictures.FOLDER).iterdir()}
    assert names == {f"{name}.svg" for name in pictures.PICTURES}


def test_pictures_are_written_checked_and_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURES", {"plan": lambda: canvas.new(1, 1)[0]})
    made, other = tmp_path / "plan.svg", tmp_path / "other.svg"
    other.touch()
    both = {f"{other}: no picture", f"{made}: differs"}
    assert set(pictures.update(tmp_path, check=True)) == both
    assert not made.exists()
    assert pictures.update(tmp_path) == [f"deleted {other}", f"wrote {made}"]
    assert pictures.update(tmp_path, check=True) == []
    assert list(tmp_path.iterdir()) == [made]


# Order and links.


def test_folders_are_expanded_and_pages_without_a_place_come_last():
    nav = ["a.md", {"B": ["b/"]}, {"C": "c/"}]
    every = ["a.md", "b/2.md", "b/1.md", "b/1.svg", "c/1.md", "new.md"]
    full = pages.expanded(nav, every, ["a.md", "new.md"])
    assert full == ["a.md", {"B": ["b/1.md", "b/2.md"]}, {"C": ["c/1.md"]}, {"More": ["new.md"]}]
    assert pages.expanded(["a.md"], every, ["a.md"]) == ["a.md"]


def test_the_order_names_pages_that_are_there():
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w/.-]+(?:\.md|/))$", text, re.MULTILINE)
    made = {pages.INDEX, commands.PATH, "results/README.md", "results/tables/", "strategies/"}
    assert len(named) == len(set(named)) > 10
    assert set(named) <= made | set(pages.written(ROOT))


@pytest.mark.parametrize(
    ("page", "link", "moved"),
    [
        ("index.md", "docs/plans.md#budgets", "plans.md#budgets"),
        ("index.md", "results/tables/claims.md", "results/tables/claims.md"),
        ("plans.md", "../results/tables/promises.md", "results/tables/promises.md"),
        ("faq.md", "../README.md#the-table", "index.md#the-table"),
        ("faq.md", "plans.md", "plans.md"),
        ("concepts.md", "pictures/plan.svg", "pictures/plan.svg"),
        ("results/README.md", "../docs/trust.md", "../trust.md"),
        ("results/README.md", "../README.md", "../index.md"),
        ("plans.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("plans.md", "#budgets", "#budgets"),
    ],
)
def test_links_lead_to_pages(page, link, moved):
    assert links.moved(f"a [word]({link}), ![x]({link})", page) == (
        f"a [word]({moved}), ![x]({moved})"
    )


@pytest.mark.parametrize(
    ("html", "count"),
    [
        ('<script src="https://a.org/b.js"></script>', 1),
        ('<link rel="stylesheet" href="https://a.org/b.css">', 1),
        ('<img alt="" src="http://a.org/b.png">', 1),
        ('<script src="assets/b.js"></script><link rel="canonical" href="https://a.org">', 0),
        ('<a href="https://a.org">elsewhere</a>', 0),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(html, count):
    assert len(links.foreign(html)) == count


def test_copies_are_of_files_that_are_there(frame, monkeypatch):
    monkeypatch.setattr(strategy_pages, "pages", lambda _: {})
    made = pages.generated(ROOT)
    copied = {path for path in made if path.startswith("results/")}
    tables = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results/tables").iterdir()}
    assert tables <= copied
    assert all(Path(ROOT / path).read_bytes() == made[path] for path in copied)
    assert made[pages.INDEX] == (ROOT / "README.md").read_text("utf-8")


# The whole of it.


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: nox -s docs builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_every_page_is_built_and_can_be_searched(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    searched = {entry["location"].partition("#")[0] for entry in index["docs"]}
    made = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert searched == made
    assert {f"strategies/{name}.html" for name in classes()} < made
    assert {path.replace(".md", ".html") for path in pages.written(ROOT)} < made


@pytest.mark.long
def test_pages_of_strategies_are_linked_from_their_table(site):
    text = (site / "strategies.html").read_text()
    assert {name for name in classes() if f'href="strategies/{name}.html"' in text} == set(
        classes()
    )


@pytest.mark.long
def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert links.foreign(path.read_text("utf-8")) == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", path.read_text("utf-8")), path
