"""What mkdocs calls, called here; the command that makes pictures; the picture of memory."""

import importlib
import types

import pytest
import typer

from bench.site import __main__ as command
from bench.site import links, memory_picture, pages, pictures, strategy_pages
from bench.store.timeline import Heading, Peak, Phase, Timeline


@pytest.fixture
def hooks(monkeypatch):
    pytest.importorskip("mkdocs", reason="installed by nox -s docs")
    hooks = importlib.import_module("bench.site.hooks")
    monkeypatch.setattr(hooks, "_MADE", {})
    monkeypatch.setattr(
        pages, "generated", lambda root: {"made.md": "# Made", "a/b.svg": b"<svg/>"}
    )
    monkeypatch.setattr(pages, "written", lambda root: ["own.md"])
    return hooks


def page_of(path):
    return types.SimpleNamespace(file=types.SimpleNamespace(src_uri=path))


def test_pages_that_are_made_are_files_and_in_the_order(hooks):
    config = importlib.import_module("mkdocs.config.defaults").MkDocsConfig()
    config["plugins"] = importlib.import_module("mkdocs.plugins").PluginCollection()
    config.plugins._current_plugin = "hooks"  # as mkdocs sets it when it calls one
    config["nav"] = ["made.md", {"Drawn": ["a/"]}]
    assert hooks.on_config(config).nav[-1] == {pages.MORE: ["own.md"]}
    files = hooks.on_files(hooks.Files([]), config)
    assert {file.src_uri for file in files} == {"made.md", "a/b.svg"}
    assert files.get_file_from_path("made.md").content_string == "# Made"


def test_links_are_moved_and_strategies_lead_to_their_pages(hooks):
    row = "| `sqrt` | every [plan](plans.md) |"
    link = "[words](../README.md)"
    moved = hooks.on_page_markdown(f"{row}\n{link}", page_of("strategies.md"), None, None)
    folder = strategy_pages.FOLDER
    assert f"| [`sqrt`]({folder}/sqrt.md) | every [plan](plans.md) |" in moved
    assert links.moved(link, "strategies.md") in moved
    assert hooks.on_page_markdown(link, page_of("faq.md"), None, None) == "[words](index.md)"
    made = page_of(f"{folder}/sqrt.md")  # its links are right as they are made
    assert hooks.on_page_markdown(link, made, None, None) == link


def test_a_page_that_needs_the_network_ends_the_build(hooks):
    own = '<script src="own.js"></script>'
    assert hooks.on_post_page(own, page_of("faq.md"), None) == own
    with pytest.raises(hooks.PluginError, match=r"faq\.md loads from elsewhere: .*a\.org"):
        hooks.on_post_page('<img src="https://a.org/b.png">', page_of("faq.md"), None)


def test_the_command_says_what_it_did_and_fails_where_a_check_does(monkeypatch, capsys):
    lines = ["a.svg: differs"]
    monkeypatch.setattr(pictures, "update", lambda *, check: lines)
    command.main(check=False)
    with pytest.raises(typer.Exit) as ended:
        command.main(check=True)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().out == "a.svg: differs\n" * 2
    lines.clear()
    command.main(check=True)


def timeline(peak_bytes):
    return Timeline(
        heading=Heading("gpt-mini", "an L4", "2.13.0", "2026-01-02", "fp32", modelled=True),
        axis="time_ms",
        axis_label="Time, ms (modelled)",
        positions=[0.0, 1.0, 2.0],
        series={"parameters": [1_000_000] * 3, "saved tensors": [0, peak_bytes - 1_000_000, 0]},
        phases=[Phase("forward", 0.0, 1.0), Phase("backward", 1.0, 2.0)],
        peak=Peak(1.0, peak_bytes, "mm", "h.1", "backward", {}),
    )


def test_memory_is_drawn_on_one_scale(monkeypatch):
    peaks = {"none": 9_000_000, "sqrt": 4_000_000}

    def profile(cell):
        return types.SimpleNamespace(timeline=timeline(peaks[cell.spec]))

    monkeypatch.setattr(memory_picture, "profile_cell", profile)
    panels = [axes for axes in memory_picture.figure().axes if axes.get_title(loc="left")]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["none: peak 9.0 MB", "sqrt: peak 4.0 MB"]
    assert {axes.get_ylim() for axes in panels} == {(0.0, 1.1 * 9)}
    assert panels[0].get_xlabel() == "Time, ms"
