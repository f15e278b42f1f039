"""Everything generated, from a folder of records, and the check that it is up to date."""

import os
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from test_report_factory import chain, gpt_options, make

from bench.report import readme as readmes
from bench.report import regenerate as module
from bench.report.regenerate import regenerate
from bench.store import parts, records
from bench.store.records import Record

FORMULAS = {"none": "O(L·N·d)", "sqrt": "O(√L·N·d)"}


@pytest.fixture
def results(tmp_path):
    found = [*chain("none", (4, 8, 16, 32)), *chain("sqrt", (4, 8, 16, 32))]
    for name, ratio in (("none", 1.0), ("sqrt", 1.3)):
        times = {"step_s": [ratio] * 5, "none_step_s": [1.0] * 5}
        shape = {"workload": "gpt-mini", "workload_options": gpt_options()}
        found.append(make(name, **shape, **times, textbook_memory=FORMULAS[name]))
    for record in found:
        records.write(record, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Name\n\n{readmes.BEGIN}\n{readmes.END}\n\nEnd.\n", "utf-8")
    return path


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def nothing_drawn(monkeypatch):
    """Figures take seconds, and not every test is about them."""
    monkeypatch.setattr(module, "figures", lambda *_, **__: {})


def test_writes_everything_once_and_is_then_up_to_date(results, readme, monkeypatch):
    done = regenerate(results, readme)
    names = {Path(line.removeprefix("wrote ")).name for line in done}
    assert names == {
        "tradeoff.md",
        "tradeoff.csv",
        "depth.md",
        "depth.csv",
        "calibration.md",
        "simulator.md",
        "failures.md",
        "claims.md",
        "claims.json",
        "memory-time-gpt-mini-cpu.png",
        "memory-time-gpt-mini-cpu.svg",
        "depth-mlp-chain-cpu.png",
        "depth-mlp-chain-cpu.svg",
        "README.md",
    }
    assert {Path(name).suffix for name in names} <= module.SUFFIXES
    assert_keeps_its_text_and_links_to_the_tables(readme)
    first = content(results.parent)
    assert regenerate(results, readme, check=True) == []  # everything is drawn anew
    drawn = {path.name: path.read_bytes() for path in (results / "figures").iterdir()}
    monkeypatch.setattr(module, "figures", lambda *_, **__: drawn)
    assert regenerate(results, readme) == []
    assert content(results.parent) == first


@pytest.mark.long
def test_twice_from_nothing_is_the_same_to_the_byte(results, readme):
    regenerate(results, readme)
    first = content(results.parent)
    for path in [*(results / "tables").iterdir(), *(results / "figures").iterdir()]:
        path.unlink()
    regenerate(results, readme)
    assert content(results.parent) == first


def assert_keeps_its_text_and_links_to_the_tables(readme):
    text = readme.read_text("utf-8")
    assert text.startswith("# Name\n")
    assert text.endswith("\nEnd.\n")
    assert "| sqrt |" in text
    for link in re.findall(r"\]\(([^)]+\.md)\)", text):
        assert (readme.parent / link).is_file()


def test_a_picture_is_written_with_its_svg(results, monkeypatch):
    """Another date moves so few pixels that the two show the same."""
    drawn = {"one.svg": b"26", "one.png": b"a picture of the 26th"}
    monkeypatch.setattr(module, "figures", lambda *_, **__: drawn)
    monkeypatch.setattr(module, "same", lambda suffix, *both: suffix == ".png" or len({*both}) == 1)
    regenerate(results, None)
    drawn["one.png"] = b"the same picture, blended on another CPU"
    assert regenerate(results, None) == []
    drawn["one.svg"] = b"27"
    assert len(regenerate(results, None)) == 2
    assert content(results / "figures") == {Path(name): data for name, data in drawn.items()}


@pytest.mark.long
def test_check_finds_a_stale_table_and_changes_nothing(results, readme):
    regenerate(results, readme)
    table = results / "tables" / "tradeoff.md"
    table.write_text(table.read_text("utf-8").replace("1.30×", "1.10×"), "utf-8")
    before = content(results.parent)
    [difference] = regenerate(results, readme, check=True)
    assert re.search(r"^-.*1\.10×", difference, re.MULTILINE)
    assert re.search(r"^\+.*1\.30×", difference, re.MULTILINE)
    assert content(results.parent) == before


@pytest.mark.long
def test_check_finds_what_a_new_record_changes(results, readme):
    regenerate(results, readme)
    shape = {"workload": "gpt-mini", "workload_options": gpt_options()}
    records.write(make("every_layer", **shape), results)
    found = "\n".join(regenerate(results, readme, check=True))
    assert "tradeoff.md (regenerated)" in found
    assert "tradeoff.csv (regenerated)" in found


@pytest.mark.long
def test_check_finds_missing_differing_and_stray_files(results, readme):
    regenerate(results, readme)
    figures = results / "figures"
    (figures / "depth-mlp-chain-cpu.svg").unlink()
    (figures / "depth-mlp-chain-cpu.png").write_bytes(b"other")
    (figures / "old.png").write_bytes(b"old")
    found = regenerate(results, readme, check=True)
    assert sorted(Path(line.split(":")[0]).name + line.split(":")[1] for line in found) == [
        "depth-mlp-chain-cpu.png differs",
        "depth-mlp-chain-cpu.svg missing",
        "old.png stale, no record asks",
    ]


@pytest.mark.usefixtures("nothing_drawn")
def test_stale_files_are_deleted_and_others_are_not(results):
    for folder in ("tables", "figures", "elsewhere"):
        (results / folder).mkdir()
        (results / folder / "old.png").write_bytes(b"old")
    (results / "tables" / "notes.txt").write_text("mine")
    done = regenerate(results, None)
    assert [line for line in done if line.startswith("deleted")] == [
        f"deleted {results / 'figures' / 'old.png'}",
        f"deleted {results / 'tables' / 'old.png'}",
    ]
    assert not (results / "figures" / "old.png").exists()
    assert not (results / "tables" / "old.png").exists()
    assert (results / "elsewhere" / "old.png").exists()
    assert (results / "tables" / "notes.txt").exists()


@pytest.mark.long
def test_a_torn_record_is_set_aside_but_never_by_a_check(results):
    regenerate(results, None)
    torn = results / "raw" / "m1" / "mlp-chain" / "torn.json"
    torn.write_text('{"schema_version": 1, "workl')
    [line] = regenerate(results, None, check=True)
    assert line.startswith(f"{torn}: not a record")
    assert torn.exists()
    with pytest.warns(UserWarning, match="set aside"):
        assert regenerate(results, None) == []
    assert torn.with_name("torn.json.set-aside").read_text() == '{"schema_version": 1, "workl'


def test_no_records_leave_what_is_there(tmp_path):
    table = tmp_path / "tables" / "tradeoff.md"
    table.parent.mkdir()
    table.write_text("precious")
    with pytest.raises(ValueError, match=f"no records under {re.escape(str(tmp_path))}"):
        regenerate(tmp_path, None)
    assert table.read_text() == "precious"


@pytest.mark.usefixtures("nothing_drawn")
def test_a_readme_without_markers_leaves_what_is_there(results, readme):
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="README must hold"):
        regenerate(results, readme)
    assert not (results / "tables").exists()


@pytest.mark.long
def test_killed_half_way_leaves_whole_files(results, monkeypatch):
    regenerate(results, None)
    before = content(results)
    records.write(make("every_layer"), results)
    calls = iter([None, OSError("killed")])

    def fsync(_descriptor):
        error = next(calls)
        if error:
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="killed"):
        regenerate(results, None)
    after = content(results)
    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) == 1
    assert not [path for path in after if path.name.endswith(".tmp")]


def documented():
    """Name, type, unit and meaning of each field in results/README.md."""
    text = (Path(__file__).parent.parent / "results" / "README.md").read_text("utf-8")
    lines = text.partition("## One record")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| `" in line]
    return [(name.strip("`"), kind, unit, meaning) for name, kind, unit, meaning in rows]


def test_results_readme_documents_every_field_in_order():
    assert [row[0] for row in documented()] == list(Record.__struct_fields__)
    for name, kind, _, meaning in documented():
        optional = "None" in str(get_type_hints(Record)[name])
        assert ("null" in kind) == optional, name
        assert meaning, name


def test_documented_units_agree_with_names():
    ends = {"_bytes": "bytes", "_s": "seconds", "_flops": "FLOPs"}
    special = {"peak_by_category": "bytes"}
    for name, _, unit, _ in documented():
        expected = next((u for end, u in ends.items() if name.endswith(end)), special.get(name, ""))
        assert unit == expected, name


def test_documented_statuses_are_those_of_the_schema():
    [meaning] = [row[3] for row in documented() if row[0] == "status"]
    statuses = get_args(parts.Status)
    assert re.findall(r"`(\w+)`", meaning)[: len(statuses)] == list(statuses)
