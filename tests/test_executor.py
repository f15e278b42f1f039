"""A cell runs in a process of its own; however that ends, there is a record that says how."""

import os
import signal
import subprocess
import sys
import time

import misbehaving
import msgspec
import planted
import psutil
import pytest
import tiny
from effort import few

from bench.run import endings, executor
from bench.run.endings import Ending
from bench.store import records

# What two runs of one cell need not agree on.
UNSTEADY = {"started_at_utc", "duration_s", "resident_peak_bytes", "commit", "dirty", "checksum"}


@pytest.fixture
def plant(tmp_path):
    with planted.found_in(tmp_path):
        yield


def run(spec, timeout_s=executor.TIMEOUT_S, workload="mlp-chain", **fields):
    return executor.run(tiny.cell(workload, spec, **fields), timeout_s)


def steady(record):
    data = {name: getattr(record, name) for name in record.__struct_fields__}
    return {name: value for name, value in data.items() if name not in UNSTEADY}


def grandchildren():
    """Processes of cells: children of the fork server, which is a child of this process."""
    return [g for c in psutil.Process().children() for g in c.children(recursive=True)]


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Ends well.


@pytest.mark.parametrize(
    ("workload", "spec"),
    few([("gpt-mini-dropout", "every_k(k=4)"), ("gpt-mini", "compressed(codec=int8)")]),
)
def test_same_cell_twice_gives_the_same_record(workload, spec):
    one, two = run(spec, workload=workload), run(spec, workload=workload)
    assert one.status == "ok"
    assert steady(one) == steady(two)
    assert records.decode(records.encode(one)) == one


@pytest.mark.parametrize("spec", ["none", "every_layer"])
def test_a_fresh_process_sees_what_a_warm_one_sees(spec):
    """What ran before in a process changes no figure."""
    fresh, warm = run(spec, workload="gpt-mini"), tiny.record("gpt-mini", spec)
    for name in ("peak_allocated_bytes", "saved_after_forward_bytes", "step_flops", "loss"):
        assert getattr(fresh, name) == getattr(warm, name), name


def test_record_is_of_the_cell_that_was_asked_for():
    cell = tiny.cell("mlp-chain", "sqrt", seed=3)
    record = executor.run(cell)
    assert record.cell_id == cell.cell_id()
    assert (record.spec, record.seed, record.threads) == ("sqrt", 3, 1)


# Ends badly.


def test_an_exception_is_a_crash_that_says_where(plant):
    record = run("misbehaves(how=error, text=here)")
    assert record.status == "crash"
    assert record.reason.startswith("RuntimeError at planted.py:")
    assert record.reason.endswith(": planted here")  # the first line of the message


def test_a_dead_process_is_a_crash_with_its_last_words(plant):
    record = run("misbehaves(how=abort)")
    assert record.status == "crash"
    assert "signal SIGABRT" in record.reason
    assert "planted last words" in record.reason


def test_an_exit_is_a_crash_with_its_code(plant):
    record = run("misbehaves(how=exit)")
    assert (record.status, record.reason) == ("crash", "the process ended with exit code 3")


def test_a_failed_cell_is_still_described(plant):
    record = run("misbehaves(how=exit)")
    assert (record.workload, record.strategy) == ("mlp-chain", "misbehaves")
    assert record.params == {"how": "exit", "text": ""}
    assert record.workload_options["dim"] == tiny.OPTIONS["mlp-chain"]["dim"]
    assert record.peak_allocated_bytes is None
    assert record.step_s == []


def test_too_slow_is_a_timeout_and_leaves_nothing_running(plant, tmp_path):
    started = time.monotonic()
    record = run(f"misbehaves(how=hang, text='{tmp_path / 'pid'}')", timeout_s=0.5)
    assert (record.status, record.reason) == ("timeout", "no result within 0.5 s")
    assert grandchildren() == []
    assert time.monotonic() - started < 60  # the cell itself would take ten minutes


def test_what_cannot_run_is_unsupported():
    record = run("selective")
    assert record.status == "unsupported"
    assert "no attention or FFN sub-module" in record.reason


def test_what_refuses_is_unsupported(plant):
    record = run("refuses")
    assert (record.status, record.reason) == ("unsupported", "refuses: planted: not on cpu")


def test_a_failed_allocation_is_out_of_memory(plant):
    record = run("misbehaves(how=allocate)")
    assert record.status == "oom"
    assert "can't allocate memory" in record.reason


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("limit_mb", [0, 8, 27, 60])
def test_a_memory_limit_makes_out_of_memory_of_it(limit_mb):
    """Wherever the limit strikes: the 8 MB of a thread's stack, say, are there before it."""
    options = {"dim": 256, "heads": 4, "seq": 256, "batch": 4, "layers": 4}
    limit = limit_mb * 10**6
    record = run("none", workload="gpt-mini", options=options, memory_limit_bytes=limit, threads=2)
    assert record.status == "oom", record.reason
    assert record.memory_limit_bytes == limit
    assert "memory" in record.reason.lower()


def test_workloads_and_strategies_are_there_before_a_limit():
    """Where memory is limited, their folders might be unreadable, and look empty."""
    payload = msgspec.json.encode(tiny.cell("mlp-chain", "every_layer"))
    answer = executor.in_process(misbehaving.sees_no_modules, payload)
    assert not isinstance(answer, Ending), answer
    assert records.decode(answer).status == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_there_is_memory_again_after_a_limit():
    """To say how a process ended takes some: the limit is of the work alone."""
    assert executor.in_process(misbehaving.needs_more_than_its_limit, b"") == b"64000000"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_generous_memory_limit_changes_nothing():
    record = run("none", memory_limit_bytes=10**9)
    free = run("none")
    assert record.status == "ok"
    assert record.peak_allocated_bytes == free.peak_allocated_bytes


@pytest.mark.parametrize("stopped", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_cell_ends_with_the_process_that_wants_it(tmp_path, stopped):
    """Also one that is stopped, and can do nothing itself."""
    planted.install(tmp_path)
    note = tmp_path / "pid"
    command = [sys.executable, "-m", "bench", "run", "--workload", "mlp-chain", "--no-time"]
    command += ["--device", "cpu", "--strategy", f"misbehaves(how=hang, text='{note}')"]
    environment = {**os.environ, "PYTHONPATH": planted.search_path(tmp_path)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **quiet) as process:
        try:
            wait_for(lambda: note.exists() and note.read_text(), "the cell to start")
            if stopped:
                os.kill(int(note.read_text()), signal.SIGSTOP)
        finally:
            process.send_signal(signal.SIGKILL)
    pid = int(note.read_text())
    wait_for(lambda: gone(pid), "the cell to end")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (misbehaving.answers, "the process's answer is no record: not a record of schema"),
        (misbehaving.answers_for_another, "the process's answer is the record of another cell"),
    ],
)
def test_an_answer_that_is_not_this_cells_record_is_a_crash(monkeypatch, answer, reason):
    monkeypatch.setattr(executor, "measure_cell", answer)
    record = run("none")
    assert record.status == "crash"
    assert record.reason.startswith(reason)


def test_reasons_and_notes_of_a_record_are_bounded(monkeypatch):
    monkeypatch.setattr(executor, "measure_cell", misbehaving.answers_at_length_in_notes)
    record = run("none")
    assert record.status == "mismatch"
    assert len(record.reason) == endings.MOST_CHARACTERS
    assert [len(note) for note in record.notes] == [endings.MOST_CHARACTERS] * 100


def test_a_model_that_needs_a_value_is_the_users_error(monkeypatch):
    with pytest.raises(ValueError, match="needs the value"):
        executor.in_process(misbehaving.needs_a_value, b"")
