"""One step over several processes: what each keeps and says, and what happens when one ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import preloaded
import processes
import psutil
import pytest
import tiny
from torch import multiprocessing

import strategies
from bench.cells.cell import checked
from bench.ranks import launch, merged, stored
from bench.ranks.merged import Answer, culprit
from bench.run.endings import Ending
from bench.store import records
from bench.store.ranks import STORE

KILLED = Ending("crash", "the process ended with signal SIGKILL")
CUT_OFF = Ending("crash", "RuntimeError at work.cc:1: Connection closed by peer")
TIRED = Ending("crash", "RuntimeError at work.cc:1: Timed out waiting 5000ms for recv")
SILENT = Ending("timeout", "no result within 10 s")
ABORTED = Ending("crash", "the process ended with signal SIGABRT: what(): bad memory access")
WATCHED = Ending("crash", "the process ended with signal SIGABRT: collective operation timeout")
SMALL = {"layers": 2, "dim": 64, "seq": 32, "batch": 4}


@pytest.fixture(scope="module", autouse=True)
def collectives_are_shared(request):
    """In a long run, which has hundreds of ranks; a short one has few."""
    if request.config.getoption("--long"):
        preloaded.share(launch._PRELOAD)


def cell(parallel, spec, ranks=2, workload="gpt-mini", **fields):
    fields = {"rounds": 0, "threads": 1, "options": SMALL, **fields}
    return launch.checked(
        checked(tiny.cell(workload, spec, ranks=ranks, parallel=parallel, **fields))
    )


def numbers(record):
    return record.communication_calls, record.communication_bytes, record.recomputed_collectives


@pytest.mark.parametrize(
    ("endings", "wanted"),
    [
        ([CUT_OFF, KILLED], 1),
        ([KILLED, CUT_OFF], 0),
        ([TIRED, SILENT], 1),
        ([CUT_OFF, SILENT], 0),  # the other was cut off, so somebody was gone before
        ([SILENT, SILENT], 0),
        ([Ending("oom", "not enough memory"), CUT_OFF], 0),
        ([CUT_OFF, Ending("oom", "not enough memory")], 1),
        ([CUT_OFF, CUT_OFF], 0),
        ([WATCHED, SILENT], 1),  # NCCL's watchdog ends a rank that waits for one that hangs
        ([ABORTED, SILENT], 0),
        ([WATCHED, KILLED], 1),
    ],
)
def test_who_made_the_others_end(endings, wanted):
    answers = [Answer(rank, ending, float(rank)) for rank, ending in enumerate(endings)]
    for order in (answers, answers[::-1]):
        assert culprit(order).rank == wanted


@pytest.mark.parametrize("parallel", ["fsdp2(mixed=true)", "megatron"])
def test_what_is_simulated_alone_is_refused(parallel):
    with pytest.raises(ValueError, match="simulated alone"):
        cell(parallel, "none")


def test_two_ranks_share_gpt_mini(tmp_path):
    """FSDP2: half of the parameters each, the gradient of one process, nothing gathered more."""
    work = cell("fsdp2", "every_layer")
    together, *own = stored.run(work, 100, tmp_path, launch.run)
    assert [record.rank for record in own] == [0, 1]
    assert {record.status for record in (together, *own)} == {"ok"}, together.reason
    one = work.make_workload().model()
    whole_bytes = sum(p.nbytes for p in one.parameters())
    for record in own:
        assert record.parameter_bytes == record.gradient_bytes == whole_bytes // 2
        assert record.grads_bitwise_equal
        assert 0 < record.grad_max_rel_err < 1e-5
        # Each block twice and what is left once; a recompute finds its block gathered already.
        assert record.communication_calls == {"all_gather": 5, "reduce_scatter": 3}
        assert record.communication_bytes["reduce_scatter"] == whole_bytes
        assert record.recomputed_collectives == {}
        assert record.block_forwards == [2, 2]
    assert together.rank_peaks_bytes == [record.peak_allocated_bytes for record in own]
    assert together.peak_allocated_bytes == max(together.rank_peaks_bytes)
    assert together.communication_calls == {"all_gather": 10, "reduce_scatter": 6}
    assert stored.run(work, 1, tmp_path, None) == [together, *own]
    assert list(records.read_all(tmp_path)) == []  # no table mixes them with one process's


def test_no_record_of_all_without_those_of_each(tmp_path):
    work = cell("fsdp2", "none")
    answers = [Answer(rank, CUT_OFF if rank else KILLED, float(rank)) for rank in range(2)]
    found = stored.run(work, 1, tmp_path, lambda *_: merged.records_of(work, answers))
    assert found[0].reason == "rank 0: the process ended with signal SIGKILL"
    assert found[2].reason.startswith("ended with rank 0: RuntimeError")
    path = STORE.path_of(found[2], tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="set aside"):
        assert stored.existing(work, tmp_path) is None


def rank_process(number, parent=None):
    """The process of a rank, once it is there: children of the fork server, by age."""
    own = psutil.Process(parent)
    below = set(own.children(recursive=True)) - set(own.children())
    found = sorted(below, key=lambda process: process.create_time())
    return found[number] if len(found) > number else None


def when_running(number, sent, parent=None):
    """Send a signal to a rank as soon as both are there."""

    def send():
        deadline = time.monotonic() + 60
        while rank_process(1, parent) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(rank_process(number, parent).pid, sent)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_killed_rank_ends_the_others_and_is_named():
    work = cell("fsdp2", "none", options=SMALL | {"layers": 12, "seq": 256})
    thread = when_running(1, signal.SIGKILL)
    began = time.monotonic()
    together, *own = launch.run(work, 300)
    thread.join()
    assert together.status == "crash"
    assert "the process ended with signal SIGKILL" in together.reason
    assert time.monotonic() - began < 200  # not the time limit
    assert [record.status for record in own] == ["crash", "crash"]
    assert rank_process(0) is None


# What follows takes long: several ways to share a step, and ranks that hang.

WAYS = [
    (2, "ddp", "every_k(k=2)"),
    (2, "fsdp2(reshard=false)", "sqrt"),
    (2, "tp", "every_layer"),
    (2, "sp", "every_k(k=2)"),
    (2, "pp", "every_layer"),
    (2, "pp(gpipe=true,microbatches=4)", "sqrt"),
    (2, "cp", "every_layer"),
    (4, "cp", "none"),
    (4, "fsdp2+cp=2", "sqrt"),
    (4, "fsdp2", "recursive"),
    (4, "fsdp2+tp=2", "every_layer"),
    (4, "fsdp2+sp=2", "selective(variant=attention_core)"),
    (4, "fsdp2+pp=2", "offload"),
    (4, "pp=2+tp=2", "every_layer"),
]
FOUR = {**SMALL, "layers": 4, "batch": 8}


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "parallel", "spec"), WAYS)
@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini"])
def test_every_way_gives_the_gradient_of_one_process(workload, ranks, parallel, spec):
    more = {"kv_heads": 2, "heads": 4, "ffn": 96} if workload == "llama-mini" else {}
    together, *own = launch.run(cell(parallel, spec, ranks, workload, options=FOUR | more), 300)
    assert together.status == "ok", together.reason
    assert together.grads_bitwise_equal
    assert 0 < together.grad_max_rel_err < 1e-5
    assert len(own) == ranks
    assert together.rank_peaks_bytes == [record.peak_allocated_bytes for record in own]
    assert all(record.communication_calls for record in own)


@pytest.mark.long
@pytest.mark.parametrize(
    ("parallel", "spec", "more"),
    [
        # What a recompute has gathered stays until backward is through with it.
        ("fsdp2", "every_layer", {}),
        ("fsdp2", "every_k(k=4)", {}),
        ("fsdp2", "recursive", {}),
        ("ddp", "every_layer", {}),
        # Each of four blocks sums what its attention gives; it stops before its last matrix.
        ("tp", "every_layer", {"all_reduce": 4}),
        # Each gathers for its attention and for its feed-forward network, and scatters once.
        ("sp", "every_layer", {"all_gather": 8, "reduce_scatter": 4}),
        # In a group only the last block stops early.
        ("sp", "every_k(k=4)", {"all_gather": 8, "reduce_scatter": 7}),
        ("pp", "every_layer", {}),
    ],
)
def test_what_recompute_says_again(parallel, spec, more):
    _, *own = launch.run(cell(parallel, spec, options=SMALL | {"layers": 4}), 300)
    assert [record.recomputed_collectives for record in own] == [more, more]


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["fsdp2", "ddp", "sp", "pp"])
@pytest.mark.parametrize("spec", ["auto(budget=80%)", "optimal(budget=80%)"])
def test_plans_for_a_budget_are_those_of_every_rank(parallel, spec):
    sizes = SMALL | {"layers": 4, "seq": 128}
    together, *own = launch.run(cell(parallel, spec.replace("80%", "'80%'"), options=sizes), 300)
    assert together.status == "ok", together.reason
    assert together.grads_bitwise_equal
    assert len({record.plan for record in own}) == 1 or parallel == "pp"


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["fsdp2", "ddp", "tp", "sp", "pp", "cp"])
@pytest.mark.parametrize("spec", strategies.available())
def test_every_strategy_runs_on_ranks_or_says_why_not(parallel, spec):
    together, *_ = launch.run(cell(parallel, spec, options=SMALL | {"seq": 64}), 300)
    assert together.status in {"ok", "unsupported"}, together.reason
    assert together.reason is None or together.status == "unsupported"


@pytest.mark.long
def test_ranks_that_wait_for_one_that_hangs_say_which():
    work = cell("fsdp2", "none", options=SMALL | {"layers": 12, "seq": 256})
    thread = when_running(1, signal.SIGSTOP)
    together, *own = launch.run(work, 40)
    thread.join()
    assert together.status == "timeout"
    assert "gave no answer, and the others waited for it" in together.reason
    assert sorted(record.status for record in own) == ["crash", "timeout"]
    assert rank_process(0) is None


@pytest.mark.long
def test_a_trace_is_not_read_while_sums_are_written_into_it(tmp_path, monkeypatch):
    """Without `Split.settle` a rank ends with SIGSEGV within some fifty steps."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # what one thread frees another takes at once
    multiprocessing.spawn(processes.traced, (str(tmp_path / "store"), 100), nprocs=2)


def command(*more, start=("-m", "bench")):
    """`run` on two ranks, in a process of its own."""
    asked = ("--workload", "gpt-mini", "--layers", "2", "--seq", "32", "--no-time", *more)
    return subprocess.Popen(
        [sys.executable, *start, "run", "--strategy", "every_layer", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.long
def test_the_command_ends_in_one_sentence_and_one(tmp_path):
    process = command("--ranks", "2", "--results", str(tmp_path))
    thread = when_running(0, signal.SIGKILL, process.pid)
    out, errors = process.communicate(timeout=200)
    thread.join()
    assert process.returncode == 1
    assert "the process ended with signal SIGKILL" in out
    assert len(errors.splitlines()) == 1
    assert {record.status for record in STORE.read_all(tmp_path)} == {"crash"}


@pytest.mark.long
def test_torchrun_starts_the_ranks(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = command("--results", str(tmp_path), start=(*torchrun, "-m", "bench"))
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2000:]
    assert out.count("every_layer") == 1
    assert [record.status for record in STORE.read_all(tmp_path)] == ["ok"] * 3
