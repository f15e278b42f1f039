"""``python -m bench plan``."""

import json
from pathlib import Path

import command
import pytest
import tiny
import torch
from effort import few
from nested import random_profile

import strategies
from bench.cli import plan as plan_command
from bench.run import planning
from bench.simulate.run import trace_cell
from strategies.optimal import Optimal
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.solvers import optimal

ROOT = Path(__file__).parent.parent
SMALL = ["--layers", "4", "--seq", "64", "--dim", "32", "--batch", "4"]


def run(*arguments):
    return command.run("plan", *arguments)


@pytest.mark.parametrize("device", ["cpu", "sim:l4-24gb"])
def test_facts(device):
    arguments = ("--workload", "gpt-mini", "--device", device, *SMALL, "--format", "json")
    done = run(*arguments, "--budget", "60%", "--modelled")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["modelled"] == (device != "cpu")
    assert facts["times"] == "modelled"
    assert facts["budget_bytes"] == int(0.6 * facts["none_peak_bytes"])
    assert facts["predicted_peak_bytes"] <= facts["budget_bytes"]
    assert facts["step_ratio"] > 1
    assert 0 <= facts["gap_fraction"] < 0.05
    cheaper, smaller = facts["next_cheaper"], facts["next_smaller"]
    assert cheaper["step_ratio"] < facts["step_ratio"]
    assert cheaper["predicted_peak_bytes"] > facts["budget_bytes"]
    assert smaller["predicted_peak_bytes"] < facts["predicted_peak_bytes"]
    assert smaller["step_ratio"] >= facts["step_ratio"]


@pytest.mark.parametrize(("device", "times"), few([("cpu", "measured"), ("sim:b200", "modelled")]))
def test_times_are_measured_where_the_device_is(device, times):
    arguments = ("--workload", "gpt-mini", "--device", device, *SMALL, "--format", "json")
    done = run(*arguments, "--budget", "100%")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["times"], facts["step_ratio"], facts["plan"]) == (times, 1, "0 1 2 3")


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_those_among_all_budgets(seed, monkeypatch):
    """Of 41 plans, with fewer than half of them worked out."""
    profile = random_profile(seed, 6, 2)
    most_bytes = predict(profile, plans.plain(6)).peak_bytes
    budget_bytes = (optimal.smallest_bytes(profile) + most_bytes) // 2
    strategy = strategies.get("optimal", budget=str(budget_bytes))
    here = strategy.answers(profile)[0]
    every = plan_command._Frontier(profile, strategy)
    known = [point for point in map(every.at, every.budgets) if point]
    asked = []
    solution = Optimal.solution
    monkeypatch.setattr(Optimal, "solution", lambda *call: asked.append(call) or solution(*call))
    found = plan_command.neighbours(here, strategy)
    cheaper = [p for p in known if p["step_s"] < here.prediction.step_s]
    smaller = [p for p in known if p["predicted_peak_bytes"] < here.prediction.peak_bytes]
    assert found["next_cheaper"] == min(cheaper, key=lambda p: p["predicted_peak_bytes"])
    assert found["next_smaller"] == max(smaller, key=lambda p: p["predicted_peak_bytes"])
    assert len(asked) < len(every.budgets) / 2


@pytest.mark.long
def test_sentences():
    done = run("--workload", "gpt-mini", *SMALL, "--budget", "60%")
    assert done.returncode == 0, done.stderr
    plan, peak, gap, cheaper, smaller = done.stdout.splitlines()
    assert "[" in plan
    assert peak.startswith("gpt-mini on cpu: predicted peak ")
    assert gap.startswith("Step time by measured block times: ")
    assert "no nested plan within the budget is faster by more than" in gap
    assert cheaper.startswith("The next cheaper plan peaks at ")
    assert smaller.startswith("The next smaller plan peaks at ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--budget", "1000", "--modelled"],
            "nothing fits into 1,000 bytes; the smallest budget that does is",
        ),
        (["--budget", "much"], "a budget is written as 8GB, 8GiB, 123456 or 50%, not 'much'"),
        (["--budget", "50%", "--device", "sim:abacus"], "abacus"),
        ([], "plan needs --budget, or --ranks"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(arguments, sentence):
    done = run("--workload", "gpt-mini", *SMALL, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


@pytest.mark.long
def test_the_simulated_peak_is_the_predicted_one():
    """The plan for a simulated device, run there: tensors to the byte."""
    simulated = tiny.cell(
        "gpt-mini", "optimal(budget='80%')", {"dim": 64, "seq": 64, "batch": 4}, device="sim:b200"
    )
    profile = planning.profile_cell(simulated)
    none = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
    found = optimal.solve(profile, int(0.8 * none))

    made = trace_cell(simulated)
    groups = sum(not isinstance(node, int) for node in made.prepared.schedule.plan)
    assert groups
    peak_bytes = max(made.trace.alive_bytes())
    predicted = predict(profile, made.prepared.schedule).peak_bytes
    assert found is not None
    assert abs(predicted - peak_bytes) <= profile.group_bytes * len(profile.blocks)


def profile(*arguments):
    return command.run("profile", "--workload", "gpt-mini", *arguments)


def test_a_chain_profile_as_data_is_the_profile(monkeypatch):
    profiles = []
    original = planning.profile_cell

    def kept(cell, **options):
        assert (cell.workload, cell.spec, cell.device) == ("gpt-mini", "none", "sim:l4-24gb")
        sizes = {"layers": 2, "seq": 64, "dim": 32, "batch": 4}
        assert cell.make_workload().options().items() >= sizes.items()
        profiles.append(original(cell, **options))
        return profiles[-1]

    monkeypatch.setattr(planning, "profile_cell", kept)
    sizes = ("--layers", "2", *SMALL[2:])
    done = profile(*sizes, "--chain", "--format", "json", "--device", "sim:l4-24gb")
    assert done.returncode == 0, done.stderr
    found, (known,) = json.loads(done.stdout), profiles
    assert len(found["blocks"]) == 2
    assert found["blocks"][0]["gradient_bytes"] == known.blocks[0].gradient_bytes
    assert [mode["name"] for mode in found["blocks"][0]["modes"]] == ["all", "core", "products"]


@pytest.mark.long
def test_equal_blocks_share_a_row_of_a_chain_profile():
    done = profile(*SMALL, "--chain")
    assert done.returncode == 0, done.stderr
    head = done.stdout.splitlines()[0]
    assert head.startswith("gpt-mini on cpu (")
    assert f"; torch {torch.__version__}; " in head
    assert head.endswith("; times are measured")
    assert "0–" in done.stdout
    assert "saved_bytes" in done.stdout
    assert "tail_working_bytes: " in done.stdout


def test_a_timeline_needs_a_folder():
    done = profile()
    assert done.returncode == 2
    assert "profile needs --out FOLDER for its files, --results FOLDER or --chain" in done.stderr
