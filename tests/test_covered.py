"""What is said of the lines and branches that tests run."""

import dataclasses

import pytest
from covered.outcome import Counts, Outcome

ENOUGH = Outcome(
    day="2026-01-02",
    test_files=3,
    short=2,
    long=["tests/test_a.py"],
    earlier=0,
    passed=1234,
    failed={},
    counts=(
        Counts("bench/__main__.py", 15, 20, 0, 0),
        Counts("bench/cli/plan.py", 80, 80, 9, 10),
        Counts("strategies/sqrt.py", 19, 20, 2, 2),
    ),
)


def changed(which, **changes):
    counts = [dataclasses.replace(one, **changes) if one.file == which else one for one in COUNTS]
    return dataclasses.replace(ENOUGH, counts=tuple(counts))


COUNTS = ENOUGH.counts


def test_enough_lines_and_branches_are_run():
    assert list(Outcome.read().faults()) == []


def test_each_folder_is_judged_by_itself():
    assert list(ENOUGH.faults()) == []
    assert list(changed("bench/cli/plan.py", lines=79, branches=8).faults()) == [
        "94.0% of the lines of bench; at least 95%",
        "80.0% of the branches of bench; at least 90%",
    ]
    assert list(changed("strategies/sqrt.py", lines=18).faults()) == [
        "90.0% of the lines of strategies; at least 95%"
    ]


def test_what_failed_is_a_fault():
    failed = dataclasses.replace(ENOUGH, failed={"tests/test_a.py": 2})
    assert list(failed.faults()) == ["tests/test_a.py: 2 failed"]


def test_the_page_has_each_folder_and_what_was_run():
    text = "\n".join(ENOUGH.section())
    assert "2026-01-02: 2 of 3 test files, 1,234 tests; long ones of 1 files." in text
    assert "| **`bench`** | 100 | **95.0%** | 10 | **90.0%** |" in text
    assert "| `bench/cli` | 80 | 100.0% | 10 | 90.0% |" in text
    assert "| **`strategies`** | 20 | **95.0%** | 2 | **100.0%** |" in text
    assert "earlier" not in text
    assert "Failed" not in text


def test_the_page_says_what_was_not_run_on_this_code_and_what_failed():
    some = dataclasses.replace(ENOUGH, long=[], earlier=2, failed={"tests/test_a.py": 2})
    text = "\n".join(some.section())
    assert (
        "1,234 tests; no long ones. 2 ran before the last change of a source or of their tests"
        in text
    )
    assert "Failed: 2 in tests/test_a.py." in text


def test_an_outcome_is_read_as_it_was_written(tmp_path):
    ENOUGH.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json") == ENOUGH


def test_a_run_counts_for_sources_that_are_as_they_were(tmp_path, monkeypatch):
    measured = pytest.importorskip("coverage.data", reason="installed by nox -s coverage")
    runs = pytest.importorskip("covered.runs")
    monkeypatch.setattr(runs, "WORK", tmp_path)
    same, other = (str(runs.ROOT / "bench" / name) for name in ("__init__.py", "__main__.py"))
    data = measured.CoverageData(str(runs.data_of("tests/test_covered.py", False)))
    data.add_arcs({same: [(1, 2)], other: [(1, 2)]})
    data.write()
    test_digest = runs.digest(runs.ROOT / "tests/test_covered.py")
    run = runs.Run("tests/test_covered.py", False, 1, 0, test_digest, runs.sources())
    assert run.is_fresh
    assert run.valid().arcs(same) == run.valid().arcs(other) == [(1, 2)]
    stale = dataclasses.replace(run, source_digests=runs.sources() | {"bench/__main__.py": "0"})
    assert not stale.is_fresh
    assert (stale.valid().arcs(same), stale.valid().arcs(other)) == ([(1, 2)], [])
