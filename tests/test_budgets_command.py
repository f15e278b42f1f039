"""``python -m bench budgets``: a study measured for real, tiny, and what is refused."""

import itertools
import json
from pathlib import Path

import command
import pytest
import tiny

import strategies
from bench.cli import budgets as commands_budgets
from bench.cli.flags import Setup
from bench.report import budgets as report
from bench.store import budgets as studies
from bench.studies import budgets
from strategies.profiling.profiler import profile_chain

ROOT = Path(__file__).parent.parent
TINY = ["--layers", "4", "--seq", "32", "--dim", "32", "--batch", "2"]


def run(*arguments, folder):
    return command.run("budgets", *arguments, "--results", str(folder))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budgets")
    arguments = ["--workload", "gpt-mini", "--device", "cpu", *TINY, "--rounds", "2"]
    return folder, run(*arguments, "--format", "json", folder=folder)


@pytest.mark.long
def test_one_file_a_workload_and_what_is_derived(done):
    folder, process = done
    assert process.returncode == 0, process.stderr
    [path] = studies.paths(folder)
    [found] = studies.read_all(folder)
    assert path == studies.path_of(found, folder)
    assert studies.decode(process.stdout.encode()) == found
    made = {p.name for kind in ("tables", "figures") for p in (folder / kind).iterdir()}
    assert made == {"budgets.md", "budgets.csv", "budgets-gpt-mini.png", "budgets-gpt-mini.svg"}


@pytest.mark.long
def test_every_budget_is_kept_and_every_gradient_equal(done):
    [found] = studies.read_all(done[0])
    assert (found.workload, found.rounds, found.device) == ("gpt-mini", 2, "cpu")
    assert found.workload_options["layers"] == 4
    assert len(found.budgets) == budgets.BUDGETS
    assert all(line.kept for line in report.lines(found))
    assert all(one.grads_bitwise_equal for one in found.contenders)
    assert all(len(one.step_s) == 2 for one in found.contenders)


@pytest.mark.long
def test_budgets_run_from_the_smallest_to_none(done):
    [found] = studies.read_all(done[0])
    sizes = [one.budget_bytes for one in found.budgets]
    steps = {later - earlier for earlier, later in itertools.pairwise(sizes)}
    assert max(steps) - min(steps) <= 1
    none, last = found.contenders[0], found.contenders[found.budgets[-1].contender]
    assert none == last
    assert (none.plan, none.heuristics) == ("0 1 2 3", ["none", *none.heuristics[1:]])
    assert sizes[-1] == none.predicted_peak_bytes


@pytest.mark.long
def test_equal_blocks_have_equal_times(done):
    [found] = studies.read_all(done[0])
    assert len(found.blocks) == 4
    assert found.blocks[1] == found.blocks[2]
    assert set(found.blocks[0].mode_recompute_s) == {"core", "products"}


def test_every_distinct_rule_is_a_contender():
    step = tiny.step("gpt-mini")
    none = strategies.prepare(step.model, "none", chain=tiny.chain_of(step))
    found = {s.render(): specs for s, specs in budgets.contenders(none, []).items()}
    assert found == {
        "0 1 2 3 4 5": ["none"],
        "[0] [1] [2] [3] [4] [5]": ["every_layer"],
        "[0 1] [2 3] [4 5]": ["every_k(k=2)"],
        "[0 1 2] [3 4 5]": ["every_k(k=3)"],
        "[0 1 2 3] [4 5]": ["every_k(k=4)"],
        "[0 1 2 3 4] [5]": ["every_k(k=5)"],
        "[0 1 2 3 4 5]": ["every_k(k=6)"],
        "[0 1 2] 3 4 5": ["sqrt"],
        "[[[0] 1] 2] [[3] 4] 5": ["recursive"],
    }


def test_rules_stop_at_borders_and_optimal_ones_come_last():
    step = tiny.step("resnet-mini")  # four containers of one block
    none = strategies.prepare(step.model, "none", chain=tiny.chain_of(step))
    optimal = [f.schedule for _, f in budgets.solutions(profile_chain(step, none.chain), 3)]
    found = {s.render(): specs for s, specs in budgets.contenders(none, optimal).items()}
    names = list(found)
    assert names[0] == "0 1 2 3"
    assert found["[0] [1] [2] [3]"][:2] == ["every_layer", "every_k(k=2)"]
    assert all(found[name] for name in names[:2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workload", "gpt-micro"], "no workload 'gpt-micro'"),
        (["--workload", "gpt-mini", "--device", "sim:b200"], "budgets are measured, and sim:b200"),
        (["--workload", "gpt-mini", "--rounds", "0"], "needs at least 1 round, not 0"),
        (["--workload", "gpt-mini", "--option", "depth=3"], "has no option 'depth'"),
        (["--workload", "gpt-mini", "--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(arguments, sentence, tmp_path):
    process = run(*arguments, folder=tmp_path / "results")
    assert process.returncode == 2
    assert sentence in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
    assert not process.stdout
    assert not (tmp_path / "results").exists()


def test_a_study_that_dies_leaves_nothing_and_exits_1(tmp_path):
    arguments = ["--workload", "gpt-mini", "--device", "cpu", *TINY, "--timeout", "0.01"]
    process = run(*arguments, folder=tmp_path / "results")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "gpt-mini: timeout: no result within 0.01 s"
    assert not (tmp_path / "results").exists()


def test_defaults_are_workloads_that_exist():
    for name, options in commands_budgets.WORKLOADS.items():
        cell = commands_budgets.cell_of(Setup(), name, "cpu", rounds=1)
        assert json.loads(json.dumps(cell.options)) == options
