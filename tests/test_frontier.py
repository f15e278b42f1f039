"""``python -m bench frontier``: every strategy is there, and what failed is a row too."""

import csv
import io
import json
from pathlib import Path

import command
import matplotlib as mpl
import planted
import pytest
import tiny
from test_report_factory import gpt_options, make

import strategies
from bench.report import canvas, display
from bench.report import frontier as report
from bench.run import planning, sweep
from bench.studies import frontier
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import classes, find
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain

ROOT = Path(__file__).parent.parent
SIM = "sim:l4-24gb"
TINY = ["--layers", "4", "--batch", "512", "--dim", "32"]
SIZES = {"dim": 32, "batch": 512}  # activations, not parameters, decide the peak


def run(*arguments):
    return command.run("frontier", *arguments)


# Which cells.


def base(device, spec="none"):
    return tiny.cell("mlp-chain", spec, SIZES, device=device)


def specs(device, count=3):
    return [cell.spec for cell in frontier.cells_of(base(device), count)]


def budgets_of(found, name):
    made = [strategies.get(spec) for spec in found]
    return [int(one.budget) for one in made if one.name() == name]


@pytest.mark.parametrize("device", ["cpu", SIM])
def test_every_strategy_is_there_and_budgeted_ones_at_even_budgets(device):
    found = specs(device)
    assert found[0] == "none"
    assert len(set(found)) == len(found)
    fixed = [s for s in sweep.every_spec() if not isinstance(strategies.get(s), Budgeted)]
    assert found[: len(fixed)] == fixed
    low, middle, high = budgets_of(found, "optimal")
    optimal = strategies.get("optimal")
    profile = planning.profile_for(base(device, "optimal"), optimal)
    assert (low, high) == (
        optimal.smallest_bytes(profile),
        predict(profile, plain(len(profile.blocks))).peak_bytes,
    )
    assert middle == low + (high - low) // 2


def test_a_new_strategy_is_picked_up_and_another_distributions_is_not(tmp_path, monkeypatch):
    """Code of others runs when it is named; here theirs stand for new files of ours."""
    with planted.found_in(tmp_path):
        assert not {"thrifty", "unplannable"} & {cls.name() for cls in frontier.budgeted()}
        added = {name: find(name) for name in ("thrifty", "unplannable", "renamed")}
        monkeypatch.setattr(frontier, "classes", lambda: {**classes(), **added})
        found = specs("cpu")
        names = {cls.name() for cls in frontier.budgeted()}
        assert {"optimal", "thrifty", "unplannable"} <= names
        assert "renamed" not in names  # another name for a strategy is not run twice
        assert len(budgets_of(found, "thrifty")) == 3
        assert [s for s in found if s.startswith("unplannable")] == ["unplannable(budget='50%')"]


def test_budgets_are_evenly_spaced():
    assert planning.budgets_between(10, 20, 3) == [10, 15, 20]
    assert planning.budgets_between(10, 21, 2) == [10, 21]
    assert planning.budgets_between(10, 21, 1) == [10]


# What is made of them.


def record(spec, peak_mb, modelled_ratio, ratio=None, **changes):
    strategy = spec.partition("(")[0]
    fields = {
        "spec": spec,
        "workload": "gpt-mini",
        "workload_options": gpt_options(),
        "peak_allocated_bytes": int(peak_mb * 1e6),
        "predicted_peak_bytes": int(peak_mb * 1e6) - 1,
        "modelled_step_s": modelled_ratio,
        "modelled_none_step_s": 1.0,
        "step_s": [ratio * (1 + i / 100) for i in range(5)] if ratio else [],
        "none_step_s": [1.0] * 5 if ratio else [],
    }
    return make(strategy, **fields | changes)


def budgeted(size, *figures, **changes):
    spec = f"optimal(budget='{size}')"
    return record(spec, *figures, params={"budget": str(size)}, **changes)


MEASURED = [
    record("none", 100, 1.0, 1.0),
    record("every_layer", 40, 1.3, 1.35),
    record("compressed(codec=int4)", 30, 1.4, 1.45, exact=False),
    budgeted(40_000_000, 40, 1.2, 1.22),
    budgeted(70_000_000, 70, 1.1, 1.12),
    make("offload", workload="gpt-mini", workload_options=gpt_options(), status="unsupported",
         reason="offload: no tier", peak_allocated_bytes=None),
]  # fmt: skip


def simulated():
    shared = {"device": SIM, "device_name": "NVIDIA L4", "modelled": True}
    oom = {"status": "oom", "reason": "1,000 bytes missing"}
    return [
        record("none", 100, 1.0, **shared, **oom),
        record("every_layer", 40, 1.3, **shared),
        budgeted(70_000_000, 70, 1.1, **shared),
    ]


def test_data_has_a_row_for_every_cell_failures_included():
    rows = list(csv.DictReader(io.StringIO(report.csv(report.rows_of(MEASURED)))))
    assert sorted(row["spec"] for row in rows) == sorted(one.spec for one in MEASURED)
    [failed] = [row for row in rows if row["status"] != "ok"]
    assert (failed["status"], failed["reason"]) == ("unsupported", "offload: no tier")
    assert failed["step_ratio"] == failed["peak_allocated_bytes"] == ""
    [one] = [row for row in rows if row["budget_bytes"] == "70000000"]
    assert (one["modelled_step_ratio"], one["peak_allocated_bytes"]) == ("1.100000", "70000000")
    assert one["torch_version"] == "2.13.0+cpu"


def names(made, column):
    return {row["spec"] for row in made if row[column]}


def test_fronts_of_all_and_of_exact_strategies():
    made = report.rows_of(MEASURED)
    exact = {"none", "optimal(budget='40000000')", "optimal(budget='70000000')"}
    for kind in ("measured", "modelled"):
        assert names(made, f"on_{kind}_front") == exact | {"compressed(codec=int4)"}
        assert names(made, f"on_{kind}_exact_front") == exact


def test_what_was_measured_and_what_was_modelled_are_apart():
    made = report.rows_of(MEASURED)
    measured, modelled = (report.points_of(made, kind) for kind in ("measured", "modelled"))
    assert len(measured) == len(modelled) == 5
    assert {p["peak_allocated_bytes"] % 2 for p in measured} == {0}
    assert {p["peak_allocated_bytes"] % 2 for p in modelled} == {1}  # as predicted
    assert modelled[0]["step_ratio"] == modelled[0]["step_ratio_high"] == 1.4
    assert report.points_of(report.rows_of(simulated()), "measured") == []


def drawn(records):
    made = report.rows_of(records)
    with canvas.style():
        figure = report.figure(made, display.looks(row["strategy"] for row in made))
    [axes] = figure.axes
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return figure, axes, texts, legend


def test_the_picture_says_what_is_what():
    figure, axes, texts, legend = drawn(MEASURED)
    assert legend[:2] == [
        "modelled: predicted peak, roofline time",
        "measured, with its 95 % interval",
    ]
    assert set(texts) == {
        "none",
        "every_layer",
        "compressed(codec=int4) ≈",
        "optimal, by budget",
    }
    assert "Not drawn: unsupported: offload." in figure.get_supxlabel()
    assert "cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02" in axes.get_title("left")
    assert axes.get_xlabel() == "Peak, MB (10⁶ bytes)"


def test_a_simulated_picture_is_hollow_alone():
    figure, axes, texts, legend = drawn(simulated())
    assert legend == ["modelled", "Pareto front, modelled"]
    assert set(texts) == {"every_layer", "optimal, by budget"}
    assert "Not drawn: oom: none." in figure.get_supxlabel()
    assert axes.get_xlabel() == "Modelled peak, MB (10⁶ bytes)"
    assert "modelled sim:l4-24gb (NVIDIA L4)" in axes.get_title("left")


def test_the_same_records_make_the_same_bytes_whatever_the_users_style():
    first = report.render(report.rows_of(MEASURED))
    assert sorted(first) == ["csv", "png", "svg"]
    with mpl.rc_context({"font.size": 22, "svg.hashsalt": "other"}):
        assert report.render(report.rows_of(MEASURED[::-1])) == first


def test_nothing_that_ended_well_is_still_a_picture():
    made = report.rows_of([one for one in MEASURED if one.status != "ok"])
    assert report.render(made)["csv"].count(b"\n") == 2
    assert "Nothing ended well." in report.markdown(made)
    assert "offload: unsupported: offload: no tier" in report.markdown(made)


# The command.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("frontier")
    arguments = ["--workload", "mlp-chain", "--device", SIM, *TINY, "--budgets", "2"]
    return out, run(*arguments, "--out", str(out), "--format", "json")


@pytest.mark.long
def test_a_simulated_front_for_real(done):
    out, process = done
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert {Path(path).name for path in found["files"]} == {
        f"frontier-mlp-chain-sim-l4-24gb.{kind}" for kind in ("png", "svg", "csv")
    }
    assert all(Path(path).is_file() for path in found["files"])
    statuses = {row["spec"]: row["status"] for row in found["rows"]}
    assert statuses["selective(variant=textbook)"] == "unsupported"
    assert len([spec for spec in statuses if spec.startswith("optimal")]) == 2
    assert len(list((out / "raw").rglob("*.json"))) == len(found["rows"])
    assert {row["status"] for row in found["rows"]} == {"ok", "unsupported"}


@pytest.mark.long
def test_records_are_kept_and_resumed(done):
    out, first = done
    before = {p: p.stat().st_mtime_ns for p in (out / "raw").rglob("*.json")}
    arguments = ["--workload", "mlp-chain", "--device", SIM, *TINY, "--budgets", "2"]
    again = run(*arguments, "--out", str(out / "again"), "--results", str(out), "--format", "json")
    assert json.loads(again.stdout)["rows"] == json.loads(first.stdout)["rows"]
    assert {p: p.stat().st_mtime_ns for p in (out / "raw").rglob("*.json")} == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workload", "gpt-micro"], "no workload 'gpt-micro'"),
        (["--workload", "mlp-chain", "--budgets", "0"], "a front needs at least 1 budget, not 0"),
        (["--workload", "mlp-chain", "--device", "sim:abacus"], "abacus"),
        (["--workload", "mlp-chain", "--rounds", "-1"], "rounds must be at least 0, not -1"),
        ([], "Missing option"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(arguments, sentence, tmp_path):
    process = run(*arguments, "--out", str(tmp_path / "out"))
    assert process.returncode == 2
    assert sentence in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
    assert not process.stdout
    assert not (tmp_path / "out").exists()
