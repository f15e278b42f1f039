"""Sweeps on a Slurm whose programs are those of `slurm`: everything but its own daemon is real."""

import os
import signal
import subprocess
import sys

import pytest
import slurm
from test_sweeps import ROOT, SIMULATED, until

from bench.run import sweep
from bench.store import records
from bench.sweeps import merging

SUITE = "smoke"
JOBS = 2


STARTED = []


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Of a cluster that is there for this test; nothing of it runs on, whatever went wrong."""
    pytest.importorskip("submitit")
    slurm.install(tmp_path / "slurm", tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = slurm.Tasks(tmp_path / "slurm")
    yield found
    leaders = [int(path.read_text()) for path in (tmp_path / "slurm").glob("*.pid")]
    for leader in (*leaders, *(found.read(name)["pid"] for name in found.all())):
        if leader:
            slurm.sent(leader, signal.SIGKILL)
    while STARTED:
        STARTED[-1].kill()
        STARTED.pop().communicate()


def started(results):
    given = ("--suite", SUITE, "--device", SIMULATED, "--results", str(results))
    on_slurm = ("--executor", "slurm", "--jobs", str(JOBS), "--sbatch", "partition=any")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "sweep", *given, *on_slurm],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def whole(process, results):
    """The sweep went well: a record a cell, and nothing else."""
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    found = list(records.read_all(results))
    assert len(found) == len(sweep.cells_of(SUITE, SIMULATED))
    assert {record.status for record in found} <= {"ok", "oom", "unsupported"}
    assert not (results / "jobs").exists()


def times(results):
    return {path: path.stat().st_mtime_ns for path in records.paths(results)}


def running(tasks):
    return [name for name in tasks.all() if tasks.read(name)["state"] == "RUNNING"]


def test_scripts_are_scripts(tasks, tmp_path):
    """What `sbatch` refuses, and what a task sees of its variables, files and end."""
    lines = ["#SBATCH --array=0-1%2", "#SBATCH --requeue", "#SBATCH --open-mode=append"]
    lines += [f"#SBATCH --{name}={tmp_path}/%A_%a.{name}" for name in ("output", "error")]
    script = tmp_path / "any.sh"
    script.write_text("\n".join(["#!/bin/bash", *lines, "echo $SLURM_ARRAY_TASK_ID; exit 3"]))
    said = subprocess.run(["sbatch", str(script)], check=True, capture_output=True, text=True)
    assert said.stdout == "Submitted batch job 1\n"
    until(lambda: {tasks.read(name)["state"] for name in tasks.all()} == {"FAILED"})
    assert [(tmp_path / f"1_{n}.output").read_text() for n in range(2)] == ["0\n", "1\n"]
    script.write_text("if true; then")
    assert subprocess.run(["sbatch", str(script)], check=False, capture_output=True).returncode
    told = subprocess.run(["sacct"], check=True, capture_output=True, text=True).stdout
    assert told == "JobID|State|NodeList\n1_0|FAILED|here\n1_1|FAILED|here\n"


@pytest.mark.long
@pytest.mark.parametrize("how", ["node", "time"])
def test_a_task_that_is_cut_off_is_queued_again_and_goes_on(tasks, tmp_path, how):
    """A node that fails takes all processes with it; before its time is over a job gets SIGUSR2."""
    results = tmp_path / "results"
    process = started(results)
    until(lambda: len(records.paths(results)) >= 2 and running(tasks), 300)
    done = times(results)
    name = running(tasks)[0]
    if how == "node":
        slurm.sent(tasks.read(name)["pid"], signal.SIGKILL)
    else:
        subprocess.run(["scancel", name, "--signal", "USR2"], check=True)
    whole(process, results)
    assert [tasks.read(name)["restarts"] for name in tasks.all()].count(0) == JOBS - 1
    assert tasks.read(name)["restarts"] == 1
    assert {tasks.read(name)["state"] for name in tasks.all()} == {"COMPLETED"}
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.long
def test_a_job_that_is_cancelled_is_said_and_the_same_command_does_the_rest(tasks, tmp_path):
    results = tmp_path / "results"
    process = started(results)
    until(lambda: len(records.paths(results)) >= 2 and running(tasks), 300)
    for name in tasks.all():
        subprocess.run(["scancel", name], check=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"error: {JOBS} of {JOBS} jobs ended early" in said.splitlines()[-1]
    assert {tasks.read(name)["state"] for name in tasks.all()} == {"CANCELLED"}
    done = times(results)
    assert len(list(records.read_all(results))) == len(done) < len(sweep.cells_of(SUITE, SIMULATED))
    again = started(results)
    again_said = again.communicate(timeout=400)[1]
    assert again.returncode == 0, again_said
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.long
def test_jobs_outlive_the_sweep_that_asked_for_them(tasks, tmp_path):
    """The command is killed; its jobs go on, and what they find is there for the next."""
    results = tmp_path / "results"
    process = started(results)
    until(lambda: records.paths(results), 300)
    process.kill()
    process.communicate()
    until(lambda: {tasks.read(n)["state"] for n in tasks.all()} == {"COMPLETED"}, 300)
    assert len(list(records.read_all(results))) == len(sweep.cells_of(SUITE, SIMULATED))
    merged = merging.merge([results], tmp_path / "elsewhere")
    assert merged.new == len(sweep.cells_of(SUITE, SIMULATED))


@pytest.mark.long
def test_ctrl_c_takes_the_jobs_away(tasks, tmp_path):
    results = tmp_path / "results"
    process = started(results)
    until(lambda: running(tasks), 300)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    until(lambda: {tasks.read(name)["state"] for name in tasks.all()} == {"CANCELLED"})
    assert not (results / "jobs").exists()
