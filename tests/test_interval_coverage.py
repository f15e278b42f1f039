"""How often intervals hold the true ratio: the study, its file, its table and its figure."""

import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.__main__ import main
from bench.report import coverage
from bench.store import coverage as store
from bench.store.coverage import Case, Method, Study
from bench.studies import coverage as bench

ROOT = Path(__file__).parent.parent
ASKED = ("normal", "log-normal", "heavy-tailed")


def made_up(**changes):
    method = Method(covered=190, median_width=0.125)
    fields = {
        "torch_version": "2.13.0",
        "python_version": "3.11.2",
        "machine_id": "m1",
        "machine": {},
        "commit": None,
        "dirty": None,
        "started_at_utc": "2026-01-02T03:04:05Z",
        "numpy_version": "2.4.6",
        "level": 0.95,
        "ratio": 4 / 3,
        "samples": 200,
        "resamples": 2000,
        "noises": {"normal": "normal"},
        "cases": [
            Case(noise="normal", rounds=rounds, interval=method, bootstrap=method)
            for rounds in (4, 9)
        ],
    }
    return Study(**fields | changes)


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line, in this process: exit code and what was said on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", "coverage", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code, capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def committed():
    [study] = store.read_all(ROOT / "results")
    return study


def test_the_committed_study_covers_between_94_and_97_percent(committed):
    cases = {(one.noise, one.rounds): one.interval.covered for one in committed.cases}
    assert committed.samples >= 10_000
    for noise in ASKED:
        for rounds in range(4, 31):
            assert 0.94 < cases[noise, rounds] / committed.samples < 0.97, (noise, rounds)


def test_the_committed_study_is_what_its_seed_gives(committed):
    for wanted in (committed.cases[3], committed.cases[-1]):
        number = list(bench.NOISES).index(wanted.noise)
        draws = np.random.default_rng((committed.seed, number, wanted.rounds))
        found = bench.case(wanted.noise, wanted.rounds, committed.samples, draws)
        # Another CPU's logarithms may move a sample over the edge, not more.
        assert found.interval.covered == pytest.approx(wanted.interval.covered, abs=3)
        assert found.bootstrap.covered == pytest.approx(wanted.bootstrap.covered, abs=3)


def test_a_study_has_every_noise_at_every_number_of_rounds(monkeypatch):
    assert list(bench.ROUNDS) == list(range(4, 31))
    monkeypatch.setattr(bench, "ROUNDS", (4, 9))
    seen = []
    study = bench.study(40, 7, seen.append)
    assert study.cases == seen
    expected = [(noise, rounds) for noise in bench.NOISES for rounds in (4, 9)]
    assert [(one.noise, one.rounds) for one in seen] == expected
    assert store.decode(store.encode(study)) == study
    again = bench.study(40, 7, seen.append)
    assert again.cases == study.cases
    assert bench.study(40, 8, seen.append).cases != study.cases


@pytest.mark.parametrize("count", [4, 7, 10])
def test_the_bootstrap_is_that_of_every_resample(count):
    values = np.random.default_rng(1).standard_normal((3, count))
    places = np.random.default_rng(count).integers(0, count, (bench.RESAMPLES, count))
    for row, low, high in zip(np.sort(values, axis=1), *bench.bootstrap(values), strict=True):
        expected = np.quantile(np.median(row[places], axis=1), [0.025, 0.975])
        assert (low, high) == pytest.approx(tuple(expected), rel=1e-12)


def test_an_order_effect_cancels_in_even_rounds_alone():
    """Whichever comes second is faster by 3 %: without other noise this is all that is seen."""
    noise = bench.Noise("", lambda draws, shape: np.ones(shape), order=0.03)
    for rounds, cancels in ((8, True), (9, False)):
        [found] = bench._logarithms(noise, (1, rounds), np.random.default_rng(0))
        assert (np.mean(found) == pytest.approx(np.log(bench.RATIO))) == cancels


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"samples": 100}, "190 of 100 samples"),
        ({"noises": {}}, "noise normal is not described"),
        ({"more": 1}, "not a study of coverage"),
    ],
)
def test_senseless_studies_are_refused(change, sentence):
    data = msgspec.json.encode(msgspec.to_builtins(made_up()) | change)
    with pytest.raises(ValueError, match=sentence):
        store.decode(data)


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One study of coverage")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)
    parts = (Study, Case, Method)
    assert names == [name for part in parts for name in part.__struct_fields__]


def test_the_table_marks_what_is_outside():
    low = Method(covered=187, median_width=0.1)
    study = made_up(cases=[Case(noise="normal", rounds=4, interval=low, bootstrap=low)])
    assert "| 4 | **93.5 %** (10.0 %) | **93.5 %** (10.0 %) |" in coverage.markdown([study])
    text = coverage.markdown([made_up()])
    assert "| 9 | 95.0 % (12.5 %) | 95.0 % (12.5 %) |" in text
    assert "The interval covers 95.0 % to 95.0 %" in text


def test_the_figure_has_a_line_a_noise_in_both_panels():
    figure = coverage.figure([made_up()])
    for axes in figure.axes:
        lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker()]
        assert [list(line.get_xdata()) for line in lines if line.get_label() == "normal"] == [
            [4, 9]
        ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--samples", "0"], "1 to 10,000,000 samples, not 0"),
        (["--seed", "-1"], "a seed is at least 0, not -1"),
    ],
)
def test_bad_input_exits_with_a_sentence(call, arguments, sentence):
    code, said = call(*arguments)
    assert code == 2
    assert sentence in said


def test_the_command_stores_the_study(call, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", (4,))
    code, said = call("--samples", "2", "--results", tmp_path)
    assert code == 0
    [study] = store.read_all(tmp_path)
    assert study.samples == 2
    assert "normal, 4 rounds: " in said
