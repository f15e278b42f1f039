"""Mutation testing does what it says: which mutants there are, which tests run, what kills."""

import itertools
import os
import sys
from pathlib import Path

import numba
import pytest

pytest.importorskip("cosmic_ray", reason="installed by nox -s mutants")

from mutants import killers, population, runs
from mutants.runs import Verdict
from mutants.session import Session

PLAN = "strategies/schedules/plan.py"


@pytest.fixture
def sum_of_two(tmp_path, monkeypatch):
    """A project of one line."""
    (tmp_path / "sums.py").write_text("def add(a: int | None, *, b):\n    return a + b\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(population, "ROOT", tmp_path)
    return population.places(["sums.py"])


def test_a_mutant_is_another_program(sum_of_two):
    """Not another annotation or signature, and no operator of bits where numbers are added."""
    after = {mutant.after for mutant in population.mutants(sum_of_two)}
    assert after == {f"return a {sign} b" for sign in ("-", "*", "/", "//", "%", "**")}


def test_a_mutant_comes_once(sum_of_two):
    assert len(list(population.mutants([*sum_of_two, *sum_of_two]))) == 6


def test_a_mutant_knows_its_line(sum_of_two):
    mutant = next(population.mutants(sum_of_two))
    assert mutant.key == ("sums.py", "add", "return a + b", mutant.after)
    assert mutant.lines == range(2, 3)


@pytest.mark.parametrize("seed", range(5))
def test_every_beginning_of_the_sample_is_spread_evenly(seed):
    order = population.spread(range(1000), seed)
    assert sorted(order) == list(range(1000))
    for size in (100, 377):
        counts = [sum(number // 100 == part for number in order[:size]) for part in range(10)]
        assert all(abs(count - size / 10) <= 2 for count in counts), counts


def test_seeds_differ():
    assert population.spread(range(1000), 0) != population.spread(range(1000), 1)


def test_tests_of_mutated_modules_are_run():
    named, others = (
        {Path(name).stem.removeprefix("test_") for name in some} for some in killers.test_files()
    )
    assert {"plan", "optimal", "interpreter", "interpreter_costs"} <= named
    assert {"operators", "sharing"} <= others
    assert not {"shape", "execute"} & (named | others)
    assert not named & others


SLOW, QUICK = "tests/test_plan.py::slow", "tests/test_plan.py::quick"
FAR, FAILS = "tests/test_shape.py::far", "tests/test_shape.py::fails"


@pytest.fixture
def recorded():
    """Of a file whose module fixture runs line 5, and of one that imports no such module."""
    plan = {
        "seconds": {SLOW: 9.0, QUICK: 1.0},
        "lines": {PLAN: {"3": [SLOW], "5": ["tests/test_plan.py"]}},
    }
    shape = {"seconds": {FAR: 0.5}, "lines": {PLAN: {"5": [FAR, FAILS]}}}
    return killers.Killers({"tests/test_plan.py": plan, "tests/test_shape.py": shape})


@pytest.mark.parametrize(
    ("lines", "tests"),
    [
        (range(3, 4), [SLOW]),
        (range(5, 6), [QUICK, SLOW, FAR]),
        (range(3, 6), [QUICK, SLOW, FAR]),
        (range(7, 8), [QUICK, SLOW, FAR]),
        (range(2, 4), [QUICK, SLOW, FAR]),
    ],
)
def test_the_tests_of_a_line(recorded, lines, tests, monkeypatch):
    """Those of files that import the module first; of a line that none runs, or that the first to
    import it runs for all, the file's.
    """
    monkeypatch.setattr(killers, "lines_of_functions", lambda file: frozenset(range(3, 9)))
    assert recorded.of(PLAN, lines) == tests


def test_which_lines_are_run_by_an_import(tmp_path, monkeypatch):
    text = "@once\ndef add(\n    a=1,\n):\n    b = a\n\n    return b\n\n\nclass C:\n    x = 1\n"
    (tmp_path / "sums.py").write_text(text)
    monkeypatch.setattr(killers, "ROOT", tmp_path)
    assert killers.lines_of_functions.__wrapped__("sums.py") == {5, 6, 7}


def test_another_file_has_no_tests(recorded):
    assert recorded.of("strategies/schedules/link.py", range(1, 9)) == []


def test_batches_hold_what_fits(monkeypatch):
    monkeypatch.setattr(runs, "BATCHES_S", (2.0, 5.0))
    seconds = dict.fromkeys("abcdefghi", 1.0)
    assert list(runs.batches("abcdefghi", seconds)) == [list("ab"), list("cdefg")]
    assert list(runs.batches("a", {"a": 9.0})) == []


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    modules, path, folder, njit = dict(sys.modules), sys.path[:], Path.cwd(), numba.njit
    hosting = runs.Tree(tmp_path_factory.mktemp("mutants") / "tree")
    hosting.host()
    yield hosting
    sys.modules.clear()
    sys.modules.update(modules)
    sys.path[:], numba.njit = path, njit
    os.chdir(folder)


@pytest.fixture(scope="module")
def recorded_plan(tree):
    return killers.Killers({"tests/test_plan.py": tree.record("tests/test_plan.py")})


@pytest.mark.long
@pytest.mark.parametrize(
    ("old", "new", "killed_by"),
    [
        ("text = text.rstrip()", "text = text.rstrip()", ""),
        ("text = text.rstrip()", "pass", "failed"),
        ("text = text.rstrip()", "import no_such_module", "failed"),
        ("import re", "import no_such_module", "failed"),
        ("text = text.rstrip()", "while True: pass", "time"),
        ("text = text.rstrip()", "import os; os.abort()", "a signal"),
    ],
)
def test_what_kills(tree, recorded_plan, old, new, killed_by):
    source = (population.ROOT / PLAN).read_text()
    text = source.replace(old, new)
    spec = population.MutationSpec(PLAN, "core/NoOp", 0, (1, 0), (len(source.splitlines()), 1))
    verdict = tree.judge(population.Mutant(spec, text, old, new), recorded_plan)
    assert verdict == Verdict(killed_by, len(recorded_plan.seconds))
    assert (tree.folder / PLAN).read_text() == source


@pytest.mark.long
def test_what_is_known_is_not_run_again(tmp_path):
    """Unless the sources are others, or it survived and the tests are."""
    spec = population.MutationSpec(PLAN, "core/NoOp", 0, (1, 0), (1, 1), definition_name="first")
    some = [population.Mutant(spec, text, "a", text) for text in "bc"]
    dead, alive = Verdict("failed", 3), Verdict("", 3)
    file = tmp_path / "session.sqlite"
    for mutant, verdict in zip(some, (dead, alive), strict=True):
        Session(file, "sources", "tests").store(mutant, verdict)
    known = {
        names: [Session(file, *names).known(mutant) for mutant in some]
        for names in itertools.product(("sources", "other"), ("tests", "other"))
    }
    assert known.pop(("sources", "tests")) == [dead, alive]
    assert known.pop(("sources", "other")) == [dead, None]
    assert set(map(tuple, known.values())) == {(None, None)}
