"""A suite in jobs: how it is divided, what Slurm is asked for, and what is left when jobs die."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import tiny

from bench.run import sweep
from bench.run.blank import blank
from bench.store import records
from bench.sweeps import job, lock, submission
from bench.sweeps.division import Part, divided, part_of
from bench.sweeps.resources import Resources, minutes_of, slurm
from bench.sweeps.submission import LostError, Plan

ROOT = Path(__file__).parent.parent
SIMULATED = "sim:h100-80gb"
SPECS = ("none", "every_layer", "every_k(k=2)", "sqrt")


def cells(*specs, **fields):
    return [tiny.cell("mlp-chain", spec, **fields) for spec in specs]


# How a suite is divided.


@pytest.mark.parametrize("jobs", [1, 3, 10**15])
@pytest.mark.parametrize("suite", ["quick", "smoke", "simulated"])
def test_every_cell_is_in_one_job(suite, jobs):
    whole = sweep.cells_of(suite, "cpu")
    shares = [share for part in Part for share in divided(whole, part, jobs)]
    assert sorted(id(cell) for share in shares for cell in share) == sorted(map(id, whole))
    assert all(shares)


def test_a_table_is_timed_by_one_job():
    whole = sweep.cells_of("full", "cpu")
    shares = divided(whole, Part.timed, 50)
    tables = [{(c.workload, c.precision, c.optimizer) for c in share} for share in shares]
    assert len(tables) > 5
    assert all(len(table) == 1 for table in tables)
    assert len(set.union(*tables)) == len(tables)


def test_what_is_not_timed_is_shared_out_evenly():
    sizes = [len(share) for share in divided(cells(*SPECS, "recursive"), Part.measured, 2)]
    assert sorted(sizes) == [2, 3]


def test_parts():
    assert [part_of(cell) for cell in cells("none", rounds=6)] == [Part.timed]
    assert [part_of(cell) for cell in cells("none")] == [Part.measured]
    assert [part_of(cell) for cell in cells("none", rounds=6, device=SIMULATED)] == [Part.simulated]


def test_one_machine_times_in_one_job_and_one_part_after_the_other(tmp_path):
    plan = Plan("quick", "cpu", tmp_path, "local", jobs=7)
    assert [plan.jobs_of(part) for part in Part] == [1, 7, 7]
    assert plan.phases() == [[part] for part in Part]


# What Slurm is asked for.


def test_what_is_asked_for():
    resources = Resources(memory_gb=8, cores=4, gres="gpu:1", more={"partition": "gpu"})
    timed = slurm(Part.timed, resources, 30)
    assert timed == {
        "name": "ckpt-bench-timed",
        "timeout_min": 30,
        "mem_gb": 8,
        "cpus_per_task": 4,
        "slurm_additional_parameters": {"requeue": True, "partition": "gpu"},
        "slurm_exclusive": True,
        "slurm_gres": "gpu:1",
    }
    assert "slurm_exclusive" not in slurm(Part.measured, resources, 30)
    assert "slurm_gres" not in slurm(Part.simulated, resources, 30)


def test_minutes_are_what_the_longest_job_may_take():
    assert minutes_of([cells("none"), cells(*SPECS)], 90.0) == 7  # 4 × 90 s, and one to begin with
    assert minutes_of([cells("none")], 90.0, given=5) == 5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"minutes": -1}, "at least 0 minutes"),
        ({"cores": 0}, "1 core"),
        ({"memory_gb": float("nan")}, "more than 0 GB"),
        ({"more": {"--x": "1"}}, "no flag of sbatch"),
        ({"more": {"partition": "a\nrm"}}, "no flag of sbatch"),
        ({"gres": "gpu\n"}, "no flag of sbatch"),
    ],
)
def test_impossible_resources(fields, said):
    with pytest.raises(ValueError, match=said):
        Resources(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"jobs": -1}, "at least 0"), ({"cluster": "slurm", "device": ""}, "give --device")],
)
def test_an_impossible_plan(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said):
        Plan(
            **{"suite": "quick", "device": "cpu", "results": tmp_path, "cluster": "local"} | fields
        )


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Slurm that takes every job and runs none."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "srun", "exit 1")
    program(folder, "sbatch", "echo Submitted batch job $(date +%N)")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def scripts(folder):
    texts = [path.read_text() for path in folder.glob("*_submission.sh")]
    return {text.partition("--job-name=")[2].partition("\n")[0]: text for text in texts}


def test_what_is_submitted(tmp_path, cluster):
    results = tmp_path / "results"
    resources = Resources(minutes=90, gres="gpu:1", more={"account": "lab"})
    plan = Plan("full", "cuda", results, "slurm", jobs=3, resources=resources)
    submitted = submission.submit(plan, list(Part), plan.cells(), tmp_path / "jobs")
    texts = scripts(tmp_path / "jobs")
    assert set(texts) == {"ckpt-bench-timed", "ckpt-bench-measured"}  # full simulates nothing
    for text in texts.values():
        for line in ("array=0-2%3", "requeue", "time=90", "mem=16GB", "cpus-per-task=2"):
            assert f"#SBATCH --{line}\n" in text
        assert "#SBATCH --gres=gpu:1\n" in text
        assert "#SBATCH --account=lab\n" in text
        assert "#SBATCH --signal=USR2@90\n" in text
    assert "#SBATCH --exclusive\n" in texts["ckpt-bench-timed"]
    assert "exclusive" not in texts["ckpt-bench-measured"]
    assert [one.cells for one in submitted] == [
        len(share) for part in Part for share in divided(plan.cells(), part, 3)
    ]
    assert {one.job.device for one in submitted} == {"cuda"}  # which this machine has not


def test_simulated_jobs_ask_for_no_accelerator(tmp_path, cluster):
    plan = Plan("simulated", "cpu", tmp_path, "slurm", resources=Resources(gres="gpu:1"))
    submission.submit(plan, list(Part), plan.cells(), tmp_path / "jobs")
    [text] = scripts(tmp_path / "jobs").values()
    assert f"#SBATCH --array=0-{submission.SLURM_JOBS - 1}%" in text
    assert "gres" not in text
    assert "exclusive" not in text


def test_slurm_refuses(tmp_path, cluster):
    program(cluster, "sbatch", "echo sbatch: error: invalid partition >&2; exit 1")
    plan = Plan("quick", "cpu", tmp_path / "results", "slurm")
    with pytest.raises(ValueError, match=r"slurm does not take the jobs: .*invalid partition"):
        submission.run(plan, plan.cells(), lambda *_: None)
    assert not (tmp_path / "results" / "jobs").exists()


def test_no_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = Plan("quick", "cpu", tmp_path / "results", "slurm")
    with pytest.raises(ValueError, match="there is no Slurm here"):
        submission.run(plan, plan.cells(), lambda *_: None)


def test_no_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    plan = Plan("quick", "cpu", tmp_path / "results", "local")
    with pytest.raises(ValueError, match=r"pip install 'ckpt-bench\[slurm\]'"):
        submission.run(plan, plan.cells(), lambda *_: None)


# What is waited for, and what is left. Jobs run in this process, and cells measure nothing.


class Handle:
    """Of a job that has ended."""

    def __init__(self, folder, last=""):
        self.paths = SimpleNamespace(stderr=folder / f"{id(self)}.err")
        self.paths.stderr.write_text(last)

    def done(self):
        return True

    def cancel(self):
        raise AssertionError("it has ended")


class Executor:
    """Runs jobs at once; one that raises has left its last words in the log."""

    def __init__(self, folder):
        self.folder = folder

    def update_parameters(self, **parameters):
        assert set(parameters) == {"timeout_min"}

    def submit_array(self, jobs):
        return [self.run(one) for one in jobs]

    def run(self, one):
        try:
            one()
        except OSError as error:
            return Handle(self.folder, f"Traceback\n{error}\n")
        return Handle(self.folder)


@pytest.fixture
def inline(monkeypatch):
    """Two timed cells, two measured ones and one simulated; what was measured is appended."""
    suite = [
        *cells("none", "sqrt", rounds=6),
        *cells("none", "sqrt"),
        *cells("none", device=SIMULATED),
    ]
    measured = []

    def measure(cell, timeout_s):
        measured.append(cell)
        return blank(cell, "ok")

    monkeypatch.setattr(job.executor, "run", measure)
    monkeypatch.setattr(sweep, "cells_of", lambda *_: suite)
    monkeypatch.setattr(job, "_end_with", lambda parent: None)
    monkeypatch.setattr(submission, "_executor", lambda cluster, folder: Executor(folder))
    return measured


def in_jobs(folder, jobs=2):
    told = []
    plan = Plan("quick", "cpu", folder, "local", jobs=jobs)
    found = submission.run(plan, plan.cells(), lambda *news: told.append(news))
    assert [(done, total) for done, total, _ in told] == [(i, 5) for i in range(1, 6)]
    return found


def test_all_records_come_back_and_the_jobs_leave_nothing_else(tmp_path, inline):
    assert len(in_jobs(tmp_path)) == 5
    assert [part_of(cell) for cell in inline] == sorted(map(part_of, inline), key=list(Part).index)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert len(records.paths(tmp_path)) == 5


def test_a_second_time_nothing_is_measured(tmp_path, inline):
    first = in_jobs(tmp_path)
    inline.clear()
    assert sorted(r.cell_id for r in in_jobs(tmp_path)) == sorted(r.cell_id for r in first)
    assert inline == []


def test_a_job_that_dies_is_said_and_the_rest_resumes(tmp_path, inline, monkeypatch):
    whole = job.executor.run

    def fails(cell, timeout_s):
        if cell.spec == "sqrt" and cell.rounds:
            raise OSError(28, "No space left on device")
        return whole(cell, timeout_s)

    monkeypatch.setattr(job.executor, "run", fails)
    plan = Plan("quick", "cpu", tmp_path, "local", jobs=2)
    said = r"1 of \d jobs ended early, and 1 of 5 cells have no record .*No space left on device"
    with pytest.raises(LostError, match=said) as lost:
        submission.run(plan, plan.cells(), lambda *_: None)
    assert Path(str(lost.value).rpartition(" ")[2]).is_dir()  # its logs
    assert len(records.paths(tmp_path)) == 4
    inline.clear()
    monkeypatch.setattr(job.executor, "run", whole)
    in_jobs(tmp_path)
    assert [(cell.spec, cell.rounds) for cell in inline] == [("sqrt", 6)]


@pytest.mark.filterwarnings("ignore:.*set aside:UserWarning")
def test_a_torn_record_is_not_taken_for_one(tmp_path, inline, monkeypatch):
    real = records.write

    def torn(record, results):
        path = real(record, results)
        if record.spec == "sqrt" and record.modelled is False:
            path.write_bytes(path.read_bytes()[:100])
        return path

    monkeypatch.setattr(records, "write", torn)
    plan = Plan("quick", "cpu", tmp_path, "local")
    with pytest.raises(LostError, match="2 of 5 cells have no record"):
        submission.run(plan, plan.cells(), lambda *_: None)
    monkeypatch.setattr(records, "write", real)
    inline.clear()
    in_jobs(tmp_path)
    assert [cell.spec for cell in inline] == ["sqrt", "sqrt"]


def test_a_job_that_is_told_to_end_stores_nothing_more(tmp_path, inline, monkeypatch):
    def told(cell, timeout_s):
        os.kill(os.getpid(), signal.SIGTERM)
        return blank(cell, "crash", "its process got the signal, too")

    monkeypatch.setattr(job.executor, "run", told)
    plan = Plan("quick", "cpu", tmp_path, "local")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        submission.run(plan, plan.cells(), lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before
    assert records.paths(tmp_path) == []


# Who measures beside whom.


@contextlib.contextmanager
def elsewhere(how):
    """Another holder of the lock: its own opening of the file."""
    with lock.held(alone=False):  # so that the file is there
        pass
    handle = os.open(Path(lock.tempfile.gettempdir()) / lock._NAME, os.O_RDONLY)
    fcntl.flock(handle, how)
    yield
    os.close(handle)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("alone", "other", "waits"),
    [
        (True, fcntl.LOCK_EX, True),
        (True, fcntl.LOCK_SH, True),
        (False, fcntl.LOCK_EX, True),
        (False, fcntl.LOCK_SH, False),
    ],
)
def test_who_times_is_alone(own_folder, monkeypatch, alone, other, waits):
    real = fcntl.flock
    with elsewhere(other):
        monkeypatch.setattr(lock.fcntl, "flock", lambda f, how: real(f, how | fcntl.LOCK_NB))
        with contextlib.ExitStack() as stack:
            if waits:
                stack.enter_context(pytest.raises(BlockingIOError))
            with lock.held(alone=alone):
                assert not waits
    with lock.held(alone=alone):  # the other one is gone
        pass


# For real: submitit's local executor, and kill -9.


def command(results, *more):
    given = ("--suite", "smoke", "--device", SIMULATED, "--executor", "local", "--jobs", "1")
    return [sys.executable, "-m", "bench", "sweep", *given, "--results", str(results), *more]


def started(results):
    return subprocess.Popen(
        command(results), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def at_work(results):
    """Processes that measure into a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "submitit.core._submit" in words and str(results) in " ".join(words):
                found.append(process)
    return found


def ended(results, number):
    """A sweep that was sent a signal after two records: its records, and when each was written."""
    process = started(results)
    until(lambda: len(records.paths(results)) >= 2)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    until(lambda: not at_work(results), 30)
    return {path: path.stat().st_mtime_ns for path in records.paths(results)}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_ended_loses_nothing(tmp_path, number):
    pytest.importorskip("submitit")
    done = ended(tmp_path, number)
    assert 2 <= len(done) < 16
    assert len(list(records.read_all(tmp_path))) == len(done)


@pytest.mark.long
def test_a_sweep_that_is_killed_loses_nothing_and_resumes(tmp_path):
    pytest.importorskip("submitit")
    done = ended(tmp_path, signal.SIGKILL)
    assert 2 <= len(done) < 16
    assert len(list(records.read_all(tmp_path))) == len(done)
    again = subprocess.run(command(tmp_path), check=False, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(list(records.read_all(tmp_path))) == len(sweep.cells_of("smoke", SIMULATED))
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.long
def test_a_job_that_is_killed_is_said(tmp_path):
    pytest.importorskip("submitit")
    process = started(tmp_path)
    until(lambda: len(records.paths(tmp_path)) >= 1)
    [worker] = at_work(tmp_path)
    worker.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: 1 of 1 jobs ended early" in said.splitlines()[-1]
    assert {record.status for record in records.read_all(tmp_path)} <= {"ok", "oom", "unsupported"}


@pytest.mark.long
def test_a_job_whose_time_is_over_goes_on_where_it_was(tmp_path):
    """As Slurm says it: SIGUSR2 to all of its processes."""
    pytest.importorskip("submitit")
    process = started(tmp_path)
    until(lambda: len(records.paths(tmp_path)) >= 2)
    done = {path: path.stat().st_mtime_ns for path in records.paths(tmp_path)}
    [worker] = at_work(tmp_path)
    for one in (*worker.children(recursive=True), worker):
        with contextlib.suppress(psutil.NoSuchProcess):  # a cell's, which has just ended
            one.send_signal(signal.SIGUSR2)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    found = list(records.read_all(tmp_path))
    assert len(found) == len(sweep.cells_of("smoke", SIMULATED))
    assert {record.status for record in found} <= {"ok", "oom", "unsupported"}
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert "[16/16]" in said
