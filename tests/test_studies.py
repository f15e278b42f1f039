"""Budget studies: strict files, every verdict, and a report that needs none."""

import csv
import io
import json
import re
import warnings
from pathlib import Path
from typing import get_type_hints

import pytest
from study_factory import CONTENDERS, MB, changed, contender, study
from test_report_factory import gpt_options, make

from bench import __main__ as cli
from bench.report import budgets, canvas, display, figures, readme, regenerate, staircase
from bench.report.frame import build
from bench.store import budgets as studies
from bench.store import records


@pytest.fixture
def results(tmp_path):
    shape = {"workload": "gpt-mini", "workload_options": gpt_options()}
    for name, ratio in (("none", 1.0), ("sqrt", 1.3)):
        times = {"step_s": [ratio] * 5, "none_step_s": [1.0] * 5}
        records.write(make(name, **shape, **times), tmp_path / "results")
    return tmp_path / "results"


# The file.


def test_what_is_written_is_read_back(tmp_path):
    path = studies.write(study(), tmp_path)
    assert path == tmp_path / "budgets" / "m1" / "gpt-mini.json"
    assert list(studies.read_all(tmp_path)) == [study()]
    assert studies.decode(studies.encode_line(study()).encode()) == study()


def test_devices_of_one_machine_have_files_of_their_own():
    assert studies.path_of(study(device="cuda")).name == "gpt-mini-cuda.json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"extra": 1}, "unknown field `extra`"),
        ({"schema_version": 2}, "schema version 2; this program reads 1"),
        ({"fixed_s": "long"}, r"Expected `float`, got `str` - at `\$.fixed_s`"),
        ({"rounds": 5}, "every contender of a budget study has 5 timed rounds"),
        ({"contenders": []}, "a budget names contender 3 of 0"),
    ],
)
def test_what_is_no_study_is_refused(change, reason):
    data = json.loads(studies.encode(study())) | change
    del data["checksum"]  # as of a study from before there was one
    with pytest.raises(ValueError, match=reason):
        studies.decode(json.dumps(data).encode())


def test_unknown_fields_inside_are_refused_too():
    data = json.loads(studies.encode(study()))
    for part in ("blocks", "contenders", "budgets"):
        torn = json.loads(json.dumps(data))
        torn[part][0]["extra"] = 1
        with pytest.raises(ValueError, match="unknown field `extra`"):
            studies.decode(json.dumps(torn).encode())


def test_a_torn_study_is_set_aside_but_never_by_a_check(results, monkeypatch):
    monkeypatch.setattr(regenerate, "figures", lambda *_, **__: {})  # they take seconds
    path = studies.write(study(), results)
    path.write_bytes(studies.encode(study())[:100])
    regenerate_lines = regenerate.regenerate(results, None, check=True)
    assert any(line.startswith(f"{path}: not a budget study") for line in regenerate_lines)
    assert path.exists()
    with pytest.warns(UserWarning, match="set aside"):
        regenerate.regenerate(results, None)
    assert path.with_name("gpt-mini.json.set-aside").exists()


# What it says.


def lines():
    return budgets.lines(study())


def test_verdicts():
    assert [line.verdict for line in lines()] == [
        "no rule fits",
        "same plan",
        "faster",
        "slower",
        "within noise",
        "same plan",
    ]
    assert {line.verdict for line in lines()} == set(budgets.VERDICTS)


def test_the_best_rule_is_the_fastest_whose_measured_peak_fits():
    found = [line.best and budgets.rule(line.best) for line in lines()]
    assert found == [None, "every_layer", "every_layer", "every_k(k=2)", "every_k(k=2)", "none"]


def test_figures_of_a_line():
    line = lines()[2]
    assert (line.kept, line.used) == (True, 50 / 52)
    assert line.step.estimate == pytest.approx(1.15)
    assert line.versus.estimate == pytest.approx(1.15 / 1.3)
    assert line.error == pytest.approx(0.1)
    assert line.gap == pytest.approx(0.265)


def test_none_against_itself_is_tested():
    none = CONTENDERS[0].step_s
    text = budgets.markdown([study(none_again_step_s=[1.02 * seconds for seconds in none])])
    assert "A/A test: none against itself reads 1.02× " in text
    assert "A/A test" not in budgets.markdown([study()])
    with pytest.raises(ValueError, match="timed again in 6 rounds or not at all"):
        studies.decode(studies.encode(study(none_again_step_s=none[:2])))


def test_a_budget_that_was_not_kept_is_said():
    over = changed(CONTENDERS[4], peak_allocated_bytes=53 * MB)
    made = study(contenders=[*CONTENDERS[:4], over, *CONTENDERS[5:]])
    line = budgets.lines(made)[2]
    assert not line.kept
    assert "| **no** | 101.9 % |" in budgets.markdown([made])


def test_the_table_says_where_and_when_and_what():
    text = budgets.markdown([study()])
    assert "cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02. attention=math, layers=4." in text
    assert "Gradients of all 7 plans are bitwise equal to those of `none`." in text
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 6
    assert rows[2].startswith("| 52.0 | `0 [1] [2] [3]` | 50.0 | 50.0 | yes | 96.2 % | 1.265× |")
    assert rows[2].endswith("| faster |")
    assert rows[3].endswith("| **slower** |")
    assert rows[0].endswith("| — | — | — | no rule fits |")


def test_a_wrong_gradient_is_said():
    wrong = contender("[0] [1] [2 3]", 45, 1.3, grads_bitwise_equal=False)
    text = budgets.markdown([study(contenders=[*CONTENDERS, wrong])])
    assert "**Gradients differ from those of `none`** under `[0] [1] [2 3]`." in text


def test_data_has_a_row_a_budget():
    rows = list(csv.DictReader(io.StringIO(budgets.csv([study(), study(workload="other")]))))
    assert len(rows) == 12
    assert rows[2]["budget_bytes"] == "52000000"
    assert rows[2]["over_best_rule"] == f"{1.15 / 1.3:.6f}"
    assert rows[0]["best_rule"] == ""
    assert rows[0]["verdict"] == "no rule fits"


# Among everything that is generated.


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"{readme.BEGIN}\n{readme.END}\n", "utf-8")
    return path


@pytest.mark.long
def test_studies_add_a_table_and_a_figure_and_are_then_up_to_date(results, page):
    regenerate.regenerate(results, page)
    before = {path.name for path in content(results)}
    assert "budgets" not in page.read_text("utf-8")
    studies.write(study(), results)
    regenerate.regenerate(results, page)
    added = {path.name for path in content(results)} - before
    assert added == {
        "gpt-mini.json",
        "budgets.md",
        "budgets.csv",
        "budgets-gpt-mini.png",
        "budgets-gpt-mini.svg",
    }
    assert "](results/tables/budgets.md)" in page.read_text("utf-8")
    assert regenerate.regenerate(results, page, check=True) == []
    first = content(results)
    regenerate.regenerate(results, page)
    assert content(results) == first


def test_studies_alone_are_reported(tmp_path):
    studies.write(study(), tmp_path)
    regenerate.regenerate(tmp_path, None)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"budgets.md", "budgets.csv"}


def test_the_command_reports_studies_alone_too(tmp_path, monkeypatch, capsys):
    studies.write(study(), tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "tables", "--results", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back at the end
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert f"wrote {tmp_path / 'tables' / 'budgets.md'}" in capsys.readouterr().out


def test_figures_of_two_machines_have_names_of_their_own():
    made = figures.figures(build([]), [study(), study(machine_id="m2")])
    names = sorted(name for name in made if name.endswith("png"))
    assert names[1] == "budgets-gpt-mini.png"
    assert re.fullmatch(r"budgets-gpt-mini-[0-9a-f]{6}\.png", names[0])


def test_the_figure_names_its_rules_and_its_units():
    with canvas.style():
        look = display.looks(staircase.strategies_of(study()))
        made = staircase.figure(study(), look)
    [axes] = made.axes
    assert {t.get_text() for t in axes.texts if t.get_text()} == {
        "none",
        "every_layer",
        "every_k(k=2)",
    }
    assert "cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02" in axes.get_title("left")
    assert "MB (10⁶ bytes)" in axes.get_xlabel()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["optimal, measured", "optimal, predicted from measured block times"]


# The documentation.


def documented():
    """Struct by struct: name, type, unit and meaning of each field."""
    text = (Path(__file__).parent.parent / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One budget study")[2].partition("\n## ")[0]
    parts = section.split("\n### ")
    for part in parts:
        rows = [[c.strip() for c in x.split("|")[1:-1]] for x in part.splitlines() if "| `" in x]
        yield [(name.strip("`"), kind, unit, meaning) for name, kind, unit, meaning in rows]


def test_results_readme_documents_every_field_in_order():
    structs = {
        value.__struct_fields__: value
        for value in vars(studies).values()
        if isinstance(value, type) and value.__module__ == studies.__name__
    }
    sections = {tuple(row[0] for row in rows): rows for rows in documented()}
    assert sections.keys() == structs.keys()
    for fields, rows in sections.items():
        struct = structs[fields]
        for name, kind, unit, meaning in rows:
            assert ("null" in kind) == ("None" in str(get_type_hints(struct)[name])), name
            ends = {"_bytes": "bytes", "_s": "seconds"}
            assert unit == next((u for e, u in ends.items() if name.endswith(e)), ""), name
            assert meaning
