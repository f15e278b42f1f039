"""Commands whose work is done elsewhere: what they refuse, hand on, print and exit with."""

import json
import math
import types

import command
import pytest
import study_factory
import test_clusters
import tiny
import torch
from study_factory import changed
from test_contest import contest_of
from test_report_factory import chain, make

from bench.cli import contest as contest_command
from bench.cli import printing
from bench.cli import sweep as sweep_command
from bench.cli.flags import RunFormat
from bench.cli.plan import sentences
from bench.measure import reference
from bench.report import bouts, regenerate
from bench.report import pays as pays_report
from bench.report.shared import row
from bench.run import endings, executor, guarded, sweep
from bench.simulate import fit
from bench.store import budgets as budget_studies
from bench.store import clusters, contests, records
from bench.studies import clusters as cluster_study
from bench.studies import entrants, ring
from bench.studies import pays as pays_study
from bench.studies.timeline_parts import Profile
from bench.sweeps import submission

SIM = "sim:l4-24gb"
TINY = ("--workload", "mlp-chain", "--layers", "2", "--dim", "8")
RUN = ("run", *TINY, "--strategy", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ranks", "0"), "ranks must be at least 1, not 0"),
        (("--fit", "batch", "--ranks", "2"), "--fit searches on a simulated device, for one rank"),
        (("--fit", "layers"), "--fit takes batch or seq, not 'layers'"),
        (("--batch", "4", "--batch", "5"), "--batch takes one of 4, 5"),
        (("--batch", "1e3"), "--batch takes a whole number or file.py:function, not '1e3'"),
        (("--sim", "memory_gb=8"), "--sim describes --device sim:custom, not 'cpu'"),
        (("--precision", "bf16-master"), "bf16-master keeps fp32 weights for an optimizer"),
        (("--optimizer", "adamw-8bit"), "of adamw-8bit the memory is modelled, not the values"),
        (("--memory-limit-mb", "8", "--device", SIM), "only a cpu cell takes a memory limit"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said, tmp_path):
    given = arguments if "--device" in arguments else (*arguments, "--device", "cpu")
    done = command.run(*RUN, *given, "--results", str(tmp_path / "results"))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_strategy_without_a_budget_plans_for_none():
    done = command.run("plan", *TINY, "--strategy", "sqrt", "--budget", "50%", "--device", SIM)
    assert done.returncode == 2
    assert "sqrt takes no budget; " in done.stderr
    assert "optimal" in done.stderr


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cpu", "advice has a fixed number of rounds; see `run`"),
        (SIM, "there is no interval to narrow where no rounds are timed"),
    ],
)
def test_advice_has_no_interval_to_narrow(device, said):
    done = command.run("advise", "--model", "mlp-chain", "--device", device, "--precision", "2%")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def inline(monkeypatch):
    """What a process would do is done in this one."""
    monkeypatch.setattr(executor, "in_process", lambda work, payload, *_, **__: work(payload))


def sized(cell, timeout_s):
    """A record of a cell."""
    return make(cell.spec, workload_options=cell.options)


@pytest.mark.parametrize(("found", "largest"), [(48, 48), (None, 1)])
def test_the_largest_batch_is_run_and_printed(inline, monkeypatch, found, largest):
    """Where none fits, the smallest: its record says why."""
    monkeypatch.setattr(fit, "largest", lambda cell, axis: found and fit.sized(cell, axis, found))
    monkeypatch.setattr(
        executor, "run", lambda cell, timeout_s: make(workload_options=cell.options)
    )
    done = command.run(*RUN, "--device", SIM, "--fit", "batch", "--format", "csv")
    assert done.returncode == 0, done.stderr
    head, one = done.stdout.splitlines()
    assert head.startswith("strategy,largest batch,peak_allocated_bytes")
    assert one.startswith(f"none,{largest},")


@pytest.mark.parametrize("status", ["unsupported", "oom"])
def test_a_search_that_ends_early(monkeypatch, status):
    """What cannot run has no size to search, and its record will say so."""
    answering(monkeypatch, endings.Ending(status, "it says why"))
    monkeypatch.setattr(
        executor, "run", lambda cell, timeout_s: make(workload_options=cell.options)
    )
    done = command.run(*RUN, "--batch", "7", "--device", SIM, "--fit", "batch", "--format", "csv")
    if status == "unsupported":
        assert done.stdout.splitlines()[1].startswith("none,7,")
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert "--fit batch ended in oom: it says why" in done.stderr


def test_a_chain_is_printed(inline):
    given = ("profile", "--chain", *TINY, "--device", SIM, "--strategy", "none")
    facts = json.loads(command.run(*given, "--format", "json").stdout)
    assert len(facts["blocks"]) == 2
    done = command.run(*given, "--format", "text")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"mlp-chain on {SIM}")
    assert "| output_bytes" in done.stdout
    assert "link_bytes_per_s" in done.stdout


def test_a_plan_is_said_in_sentences():
    facts = {
        "plan": "0 [1]",
        "workload": "mlp-chain",
        "device": SIM,
        "predicted_peak_bytes": 60_000_000,
        "none_peak_bytes": 80_000_000,
        "budget_bytes": 75_000_000,
        "used_fraction": 0.8,
        "peak_phase": "backward",
        "times": "modelled",
        "step_ratio": 1.25,
        "among": "plan",
        "gap_fraction": 0.015,
        "slot_bytes": 1,
        "next_cheaper": None,
        "next_smaller": {
            "plan": "[0] [1]",
            "predicted_peak_bytes": 50_000_000,
            "step_s": 1.0,
            "step_ratio": 1.5,
        },
    }
    first, peak, time, cheaper, smaller = sentences(facts)
    assert first == "0 [1]"
    assert "predicted peak 60.0 MB of a budget of 75.0 MB (80.0%), 0.75× none" in peak
    assert "1.250× none; no plan within the budget is faster by more than 1.50%" in time
    assert cheaper == "No plan is cheaper."
    assert smaller == "The next smaller plan peaks at 50.0 MB and takes 1.500× none: [0] [1]"


# Sweeps.


def test_a_suite_is_measured_here(tmp_path, monkeypatch, untouched):
    some = [make("none", step_s=[1.0], none_step_s=[1.0]), make("sqrt")]
    monkeypatch.setattr(sweep, "run", lambda *given, timeout_s: some)
    shown = []
    monkeypatch.setattr(sweep_command, "show", lambda records, output: shown.append(records))
    given = ("--suite", "smoke", "--device", SIM, "--results", str(tmp_path))
    done = command.run("sweep", *given)
    assert done.returncode == 0, done.stderr
    assert shown == [some[:1]]  # of those that were timed there is a table of times
    assert untouched == [tmp_path]


def test_a_suite_in_jobs_that_ended_early_exits_1(tmp_path, monkeypatch, untouched):
    plans = []

    def run(plan, cells, progress):
        plans.append(plan)
        raise submission.LostError("2 of 3 jobs ended early")

    monkeypatch.setattr(submission, "run", run)
    asked = ("--executor", "slurm", "--jobs", "3", "--cores", "4", "--sbatch", "partition=gpu")
    where = ("--device", SIM, "--suite", "smoke", "--results", str(tmp_path))
    done = command.run("sweep", *asked, *where)
    assert (done.returncode, done.stderr) == (1, "error: 2 of 3 jobs ended early\n")
    [plan] = plans
    assert (plan.cluster, plan.jobs, plan.resources.cores) == ("slurm", 3, 4)
    assert plan.resources.more == {"partition": "gpu"}
    assert untouched == []


# Studies.


@pytest.fixture
def untouched(monkeypatch):
    """Tables and figures are not made; the folders that they would be made in."""
    folders = []
    monkeypatch.setattr(regenerate, "regenerate", lambda folder, readme: folders.append(folder))
    return folders


def answering(monkeypatch, answer):
    monkeypatch.setattr(executor, "in_process", lambda *given: answer)


BUDGETS = ("budgets", "--workload", "gpt-mini", "--device", "cpu", "--format", "json")


def test_a_study_of_budgets_is_stored_and_printed(tmp_path, monkeypatch, untouched):
    study = study_factory.study()
    answering(monkeypatch, budget_studies.encode(study))
    done = command.run(*BUDGETS, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert budget_studies.decode(done.stdout.encode()) == study
    assert list(budget_studies.read_all(tmp_path)) == [study]
    assert untouched == [tmp_path]
    assert "gpt-mini: 60 s; wrote " in done.stderr


def test_a_study_of_budgets_that_ended_is_said(tmp_path, monkeypatch, untouched):
    answering(monkeypatch, endings.Ending("oom", "12 GB missing"))
    done = command.run(*BUDGETS, "--results", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("gpt-mini: oom: 12 GB missing\n")
    assert untouched == []


@pytest.mark.parametrize(("problem", "code"), [("", 1), ("oom: 12 GB missing", 1)])
def test_a_contest_is_stored_and_a_broken_budget_fails(
    tmp_path, monkeypatch, untouched, problem, code
):
    held = contest_of("U-Net", ours=0, problem=problem)  # `auto` took the plan of 2,000 bytes
    monkeypatch.setattr(contest_command, "answer_of", lambda *given, **more: held)
    given = ("--only", "U-Net", "--kind", "eager", "--format", "csv", "--results", str(tmp_path))
    done = command.run("contest", *given, "--device", "cpu")
    assert done.returncode == code, done.stderr
    assert list(contests.read_all(tmp_path)) == [held]
    assert f"U-Net: {problem}" in done.stderr
    assert done.stdout.startswith("model,")


def test_who_is_in_a_contest():
    chosen, kind = contest_command._chosen, contest_command.Kind
    compiled = contest_command.COMPILED
    both = ["vit-mini", compiled[0]]
    assert chosen(both, kind.both, compiled=False, named=True) == both
    assert chosen(both, kind.both, compiled=True, named=True) == [compiled[0]]
    assert chosen(both, kind.eager, compiled=True, named=True) == []
    assert chosen(both, kind.compiled, compiled=True, named=True) == both
    assert chosen(both, kind.compiled, compiled=True, named=False) == list(compiled)


def test_where_it_pays_is_stored_apart_and_printed(tmp_path, monkeypatch):
    stored = [*chain("none", (2, 4)), make("none", status="crash", reason="it broke")]

    def run(cells, folder, progress, timeout_s):
        assert cells == pays_study.cells()
        for number, record in enumerate(stored, 1):
            records.write(record, folder)
            progress(number, len(stored), record)
        return stored

    table = tmp_path / regenerate.TABLES / "pays.md"
    table.parent.mkdir()
    table.write_text("# Where it pays\n")
    monkeypatch.setattr(sweep, "run", run)
    monkeypatch.setattr(regenerate, "regenerate", lambda folder, readme: None)
    done = command.run("pays", "--results", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "# Where it pays\n")  # one crashed
    assert len(list(records.read_all(pays_report.within(tmp_path)))) == len(stored)


# Rows.


def test_a_row_of_ranks():
    shared = {
        "ranks": 2,
        "parallel": "fsdp2",
        "rank_peaks_bytes": [2_000_000, 3_500_000],
        "communication_bytes": {"reduce": 1_000_000, "gather": 2_500_000},
        "communication_calls": {"gather": 3},
        "grads_bitwise_equal": False,
        "grad_max_rel_err": 1.5e-7,
        "step_s": [1.5] * 6,
        "none_step_s": [1.0] * 6,
    }
    assert row(make("sqrt", **shared)) == {
        "workload": "mlp-chain",
        "strategy": "sqrt",
        "ranks": 2,
        "parallel": "fsdp2",
        "status": "ok",
        "peak MB, largest rank": "3.5",
        "spread MB": "1.5",
        "step ms, slowest rank": "1500.0",
        "step / none": "1.50 [1.50, 1.50]",
        "sent MB": "gather 2.5, reduce 1.0",
        "calls": "gather 3",
        "calls more than none": "0",
        "same bits as none": "no",
        "gradient error": "1.5e-07",
        "reason": "",
    }
    failed = row(make("sqrt", ranks=2, parallel="ddp", status="oom", reason="full"))
    measured = ("peak MB, largest rank", "step ms, slowest rank", "step / none", "gradient error")
    assert [failed[name] for name in measured] == [""] * 4
    assert (failed["same bits as none"], failed["reason"]) == ("", "full")


def test_two_rounds_have_no_interval():
    assert row(make("sqrt", step_s=[1.5] * 2, none_step_s=[1.0] * 2))["step / none"] == "1.50"


def test_records_of_a_search_have_a_line_a_strategy(capsys):
    some = [make("sqrt"), make("none", status="oom", reason="full")]
    printing.show(some, RunFormat.table, fit="layers")
    lines = capsys.readouterr().out.splitlines()
    assert "largest layers" in lines[0]
    assert lines[2].split()[1:4] == ["sqrt", "|", "8"]
    assert lines[3].split()[1:4] == ["none", "|", "0"]


# Clusters, and whoever answers.


def test_ranks_of_clusters_are_said_and_stored(tmp_path, monkeypatch):
    known = test_clusters.study(*test_clusters.SMALL)

    def studies(device, ranks, points, said):
        assert (device, ranks, points) == (SIM, [8], list(known.points))
        said(known.points[0])
        yield known

    path = clusters.write(known, tmp_path)
    monkeypatch.setattr(cluster_study, "studies", studies)
    monkeypatch.setattr(clusters, "read_all", lambda results: [changed(known, device=SIM)])
    given = ("clusters", "--device", SIM, "--ranks", "8", "--results", str(tmp_path))
    done = command.run(*given)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("small, 8 ranks, none: reserves 90.0 GB, does not fit; ")
    assert done.stdout == f"wrote {path}\n"


def test_code_of_a_user_runs_in_a_process_of_its_own(monkeypatch):
    cell = tiny.cell("mlp-chain")
    assert guarded.answer(bytes.upper, b"own", cell) == b"OWN"
    monkeypatch.setattr(guarded, "references_of", lambda workload: ["own.py:model"])
    answering(monkeypatch, b"there")
    assert guarded.answer(bytes.upper, b"own", cell) == b"there"
    answering(monkeypatch, endings.Ending("timeout", "no result within 1 s"))
    with pytest.raises(ValueError, match="mlp-chain ended in timeout: no result within 1 s"):
        guarded.answer(bytes.upper, b"own", cell)


def test_every_solver_of_the_compiler_is_asked_where_it_decides():
    asked = [(one.fraction, one.solver) for one in entrants.compilers([0, 0.5, 1])]
    others = [(0.5, solver) for solver in entrants.SOLVERS]
    assert asked == [(0, entrants.SOLVERS[0]), *others, (1, entrants.SOLVERS[0])]


def test_budgets_of_a_contest_of_compilers_are_apart(monkeypatch):
    """Those of promises, and what compilers need, unless another is as close as can be."""
    monkeypatch.setattr(ring.Ring, "sizes", lambda self, least, most: [1000, 2000])
    one = object.__new__(ring.CompiledRing)
    peaks = [900, 1500, int(2000 * (1 + bouts.CLOSE)), 1500]
    one.entries = [types.SimpleNamespace(peak_allocated_bytes=peak) for peak in peaks]
    one._others = [types.SimpleNamespace(entry=n) for n in (0, 1, 2, None)]
    assert one.sizes(1000, 2000) == [1000, 1500, 2000]
    assert one.others(1) is one._others


def test_a_reference_that_is_not_finite_compares_nothing():
    def problem(loss, gradient):
        first = types.SimpleNamespace(loss=torch.tensor(loss), gradients={"w": gradient, "b": None})
        return reference.Reference.problem.fget(types.SimpleNamespace(first=first))

    assert problem(1.0, torch.ones(2)) is None
    assert "the reference's loss is nan" in problem(math.nan, torch.ones(2))
    assert problem(1.0, torch.tensor([math.inf])).endswith("gradient is not finite for w")


@pytest.mark.parametrize(
    ("limit_bytes", "facts", "said"),
    [(None, {}, ""),
     (10_000_000, {"status": "ok"}, "It fits: the allocator reserves 9.0 MB of 10.0 MB."),
     (1, {"status": "oom", "reason": "lacks 8 bytes"}, "It does not fit: it lacks 8 bytes.")],
)  # fmt: skip
def test_a_timeline_says_whether_it_fits(limit_bytes, facts, said):
    timeline = types.SimpleNamespace(limit_bytes=limit_bytes)
    assert Profile(timeline, {"peak_reserved_bytes": 9_000_000, **facts})._verdict() == said
