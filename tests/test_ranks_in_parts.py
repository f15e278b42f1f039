"""What ranks do, part by part, in one process: plans of a cluster, matrices, positions, answers."""

import json
import types

import command
import msgspec
import pytest
import tiny
import torch
from nested import random_profile
from test_report_factory import make
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from bench.cli import ranks as ranks_command
from bench.ranks import context, launch, parallelise, simulated_plan, simulated_record
from bench.ranks.merged import Answer
from bench.ranks.parallel import Parallel
from bench.ranks.simulated_plan import RankPlan, best_plan, smallest_cluster
from bench.run.endings import Ending
from bench.store import ranks as rank_store
from bench.store.parts import Fit
from strategies.optimal import Optimal
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule

SIM = "sim:h100-80gb"
SHARED = ("--ranks", "2", "--set-parallel", "ddp", "--device", "cpu")
RUN = ("run", "--workload", "mlp-chain", "--strategy", "none", "--layers", "2", "--dim", "8")


# Plans.


def shared(parallel="fsdp2", ranks=4):
    options = {"batch": 1024}
    return tiny.cell("gpt-mini", "none", options, device=SIM, ranks=ranks, parallel=parallel)


def tried(plan, reserved_bytes, memory_bytes, step_s=1.0, ranks=4):
    """A plan that was simulated."""
    missing = max(0, reserved_bytes - memory_bytes)
    fit = Fit(
        status="oom" if missing else "ok",
        reason=f"{missing} bytes missing" if missing else None,
        peak_allocated_bytes=reserved_bytes,
        peak_reserved_bytes=reserved_bytes,
        steady_reserved_bytes=reserved_bytes,
    )
    return RankPlan(
        ranks=ranks,
        parallel="fsdp2",
        plan=plan,
        fit=fit,
        none_reserved_bytes=900,
        by_category={"parameters": 300, "saved tensors": 200},
        step_s=step_s,
        none_step_s=1.0,
        exposed_s=0.25,
        communication_bytes={"all_gather": 7},
    )


@pytest.fixture
def cluster(monkeypatch):
    """Reserved bytes by plan, others by their number; and what was simulated."""
    known = {"none": 900, "every_layer": 500}
    seen = []

    def simulate(cell, plan, memory_bytes, none=None):
        seen.append(plan)
        steps = {"none": 1.0, "every_layer": 1.3}
        reserved_bytes = known[plan] if plan in known else known["others"]
        return tried(plan, reserved_bytes, memory_bytes, steps.get(plan, 1.2))

    monkeypatch.setattr(simulated_plan, "_tried", simulate)
    return types.SimpleNamespace(known=known, seen=seen)


def test_what_fits_as_it_is_needs_no_plan(cluster):
    assert best_plan(shared(), Optimal(), 900).plan == "none"
    assert cluster.seen == ["none"]


def test_a_cluster_that_holds_not_even_the_leanest_says_so(cluster):
    with pytest.raises(ValueError, match=r"gpt-mini on 4 ranks of sim:h100-80gb: no plan fits"):
        best_plan(shared(), Optimal(), 499)


@pytest.mark.parametrize(("reserved_bytes", "chosen"), [(800, "[0 1] 2"), (830, "every_layer")])
def test_plans_are_simulated_until_one_fits(cluster, monkeypatch, reserved_bytes, chosen):
    """Each for so much less as was missing; where none fits, the leanest is left."""
    profile, budgets = random_profile(0, 3), []
    least_bytes = predict(profile, plans.parse("[0] [1] [2]")).peak_bytes
    planner = types.SimpleNamespace(
        solution=lambda profile, budget_bytes: budgets.append(budget_bytes) or solution
    )
    solution = types.SimpleNamespace(schedule=Schedule.parse("[0 1] 2"))
    monkeypatch.setattr(simulated_plan, "profile_cell", lambda cell, strategy: profile)
    cluster.known["others"] = reserved_bytes
    assert best_plan(shared(), planner, 800).plan == chosen
    first_bytes = 800 + least_bytes - 500
    tries = 1 if chosen == "[0 1] 2" else simulated_plan.TRIES
    assert budgets == [first_bytes - 30 * number for number in range(tries)]


def test_where_the_solver_knows_nothing_the_leanest_is_left(cluster, monkeypatch):
    planner = types.SimpleNamespace(solution=lambda profile, budget_bytes: None)
    monkeypatch.setattr(simulated_plan, "profile_cell", lambda cell, strategy: random_profile(0, 3))
    assert best_plan(shared(), planner, 800).plan == "every_layer"


def test_ranks_that_share_more_than_parameters_have_no_plan():
    with pytest.raises(ValueError, match="plans are made for ranks that share by fsdp2 or ddp"):
        best_plan(shared("tp=2+fsdp2"), Optimal(), 1)
    with pytest.raises(ValueError, match="the smallest cluster is looked for without pipelines"):
        smallest_cluster(shared("pp=4+fsdp2"), 1)


@pytest.mark.parametrize("enough", [2, 16, 1024])
def test_the_smallest_cluster_is_the_first_that_holds_the_leanest(monkeypatch, enough):
    def simulate(cell, plan, memory_bytes):
        return tried(plan, 1 if cell.ranks >= enough else 2, memory_bytes)

    monkeypatch.setattr(simulated_plan, "_tried", simulate)
    assert smallest_cluster(shared(), 1) == enough
    monkeypatch.setattr(simulated_plan, "_tried", lambda cell, plan, _: tried(plan, 2, 1))
    with pytest.raises(ValueError, match="gpt-mini does not fit 1024 ranks of sim:h100-80gb"):
        smallest_cluster(shared(), 1)


def test_a_plan_of_a_cluster_is_said_in_sentences(monkeypatch):
    plan = tried("[0] 1", 2_500_000_000, 10**12, step_s=1.25, ranks=8)
    monkeypatch.setattr(simulated_plan, "smallest_cluster", lambda cell, memory_bytes: 8)
    monkeypatch.setattr(simulated_plan, "best_plan", lambda cell, planner, memory_bytes: plan)
    given = ("plan", "--workload", "gpt-mini", "--device", SIM, "--ranks", "auto")
    facts = json.loads(command.run(*given, "--format", "json").stdout)
    assert (facts["ranks"], facts["smallest"], facts["plan"]) == (8, True, "[0] 1")
    done = command.run(*given, "--format", "text")
    first, size, peak, time = done.stdout.splitlines()
    assert first == "[0] 1"
    assert f"the smallest cluster that trains it is 8 × {SIM}, fsdp2;" in size
    assert peak == "At a rank's peak: parameters 0.0 GB, saved tensors 0.0 GB."
    assert time.startswith("A step takes 1.25 s (modelled), 1.250×")


# Commands.


@pytest.fixture
def measured(monkeypatch):
    """Records of all ranks and of each, without ranks."""
    ended = {"status": "ok", "reason": None}

    def run(cell, timeout_s):
        fields = {"ranks": 2, "parallel": cell.parallel, "workload": cell.workload, **ended}
        return [make("none", rank=rank, **fields) for rank in (None, 0, 1)]

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setattr(launch, "run_as_rank", run)
    return ended


@pytest.mark.parametrize("output", ["csv", "json"])
def test_a_line_a_cell_is_printed_or_every_record(measured, tmp_path, output):
    done = command.run(*RUN, *SHARED, "--no-time", "--format", output)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if output == "json":
        assert [json.loads(line)["rank"] for line in lines] == [None, 0, 1]
    else:
        head, row = lines
        assert head.startswith("workload,strategy,ranks,parallel,status")
        assert row.startswith("mlp-chain,none,2,ddp,ok")


def test_under_torchrun_the_first_rank_alone_speaks(measured, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    done = command.run(*RUN, *SHARED[2:], "--no-time", "--format", "csv")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    monkeypatch.setenv("RANK", "0")
    done = command.run(*RUN, *SHARED[2:], "--no-time", "--format", "csv")
    assert "mlp-chain,none,2,ddp,ok" in done.stdout
    done = command.run(*RUN, "--ranks", "3", "--no-time")
    assert (done.returncode, done.stdout) == (2, "")
    assert "torchrun has started 2 ranks, so --ranks is not 3" in done.stderr


def test_without_ranks_there_is_one():
    assert ranks_command.fields(None, "") == {}
    assert ranks_command.fields(None, "ddp") == {"ranks": 1, "parallel": "ddp"}
    assert ranks_command.fields(2, "") == {"ranks": 2, "parallel": "fsdp2"}


@pytest.mark.parametrize("output", ["csv", "json"])
def test_a_simulated_rank_is_stored_printed_and_fails_aloud(monkeypatch, tmp_path, output):
    fields = {"ranks": 2, "parallel": "fsdp2", "steady_reserved_bytes": 2_500_000_000}
    fields |= {"peak_by_category": {"parameters": 10**9}, "communication_bytes": {"gather": 10**9}}
    failed = make("none", rank=0, status="oom", reason="5 bytes missing", **fields)
    monkeypatch.setattr(simulated_record, "simulate", lambda cell: failed)
    given = ("--ranks", "2", "--device", SIM, "--format", output, "--results", str(tmp_path))
    done = command.run(*RUN, *given)
    assert "none: oom: 5 bytes missing" in done.stderr
    assert list(rank_store.STORE.read_all(tmp_path)) == [failed]
    if output == "csv":
        assert "mlp-chain,none,2,fsdp2,oom,2.5,0.021," in done.stdout
        assert "parameters 1.0" in done.stdout
    else:
        assert json.loads(done.stdout)["status"] == "oom"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": SIM}, f"ranks share a real device, not {SIM}"),
        ({"interval_width": 0.02, "rounds": 2}, "--precision takes no percentage"),
        ({"parallel": "megatron"}, "megatron and mixed=true are simulated alone"),
    ],
)
def test_ranks_that_cannot_be_are_refused(fields, said):
    one = tiny.cell("gpt-mini", "none", {"batch": 4}, ranks=2, parallel="ddp")
    with pytest.raises(ValueError, match=said):
        launch.checked(msgspec.structs.replace(one, **fields))


@pytest.mark.parametrize("given", [make("none", rank=1), Ending("oom", "full")])
def test_an_answer_comes_through_the_store_as_it_was(given):
    ending = given if isinstance(given, Ending) else None
    sent = Answer(1, given, 12.5)
    assert sent.ending == ending
    assert launch._unpacked(1, launch._packed(sent)) == sent


# Models.


@pytest.fixture(scope="module")
def mesh():
    """Of one rank, this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    dist.destroy_process_group()


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(
    ("workload", "options"),
    [("gpt-mini", {"layers": 1}), ("gpt-mini", {"layers": 1, "tied": False}),
     ("llama-mini", {"layers": 1})],
)  # fmt: skip
def test_split_over_one_rank_a_model_is_what_it_was(mesh, workload, options, sequence):
    step = tiny.step(workload, **options)
    loss = step.forward()
    whole = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    parallel = Parallel(tensor=1, sequence=sequence)
    fused = parallelise._split_matrices(step.model, mesh["tp"], parallel, step.workload)
    split = parallelise.Split(step.model, step.model, step.workload.blocks, fused, 1)
    assert torch.equal(step.forward(), loss)
    step.backward(step.forward())
    gradients = split.gathered()
    assert {name: g.shape for name, g in gradients.items()} == {
        n: p.shape for n, p in whole.items()
    }
    assert split.bucket_bytes() == 0


def test_blocks_of_a_stage_have_the_numbers_of_the_whole_model():
    model = torch.nn.Module()
    model.h = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    split = parallelise.Split(model, model, "h", {}, 1, first_block=3)
    assert set(split.gathered()) == {"h.3.weight", "h.3.bias"}


@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini"])
def test_a_rank_knows_the_places_of_its_part(workload):
    group = types.SimpleNamespace(rank=lambda: 1, size=lambda: 2)
    model = tiny.step(workload).model
    like = torch.zeros(())
    name, given = ("rope", (like,)) if hasattr(model, "rope") else ("positions", ())
    whole = getattr(model, name)(8, *given)
    context.split(model, group)
    own = getattr(model, name)(4, *given)
    for table, part in zip(*((x if given else (x,)) for x in (whole, own)), strict=True):
        assert torch.equal(part, table[[2, 3, 4, 5]])
    assert context.available()
