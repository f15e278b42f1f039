"""The promise, under each injected fault: finished cells are kept, nothing half-written is trusted,
and the next run completes and equals one that nothing happened to."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import command
import injections
import misbehaving
import pytest
from effort import few
from injections import CUTS, FLIPS, HOSTILE, INSIDE, MOMENTS, SIGNALS, SPECS, stored
from test_executor import wait_for
from test_sweep import ROOT, UNSTEADY

from bench.report import regenerate
from bench.run import executor, server, sweep
from bench.run.blank import blank
from bench.store import records
from bench.store.json_store import UnknownVersionError

JOIN_S = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of a sweep that nothing happened to, by name."""
    folder = tmp_path_factory.mktemp("whole")
    injections.run(folder)
    return steady(folder)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


def steady(folder):
    """What two runs must agree on, of every record, by the file's name."""
    found = {}
    for path in stored(folder):
        fields = json.loads(path.read_bytes())
        found[path.name] = {name: v for name, v in fields.items() if name not in UNSTEADY}
    return found


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in stored(folder)}


def trusted(folder):
    """The records that a reader takes; what is not whole is set aside."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = list(records.read_all(folder))
    return found, said


def promise(folder, whole, *, torn=0):
    """Finished is kept, half-written is not trusted, and the next run is as if nothing happened."""
    folder.mkdir(exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    found, said = trusted(folder)
    assert len(said) == torn  # set aside, with a warning, or whole
    names = {path.name: path for path in stored(folder)}
    assert len(names) == len(found)
    assert all(steady(folder)[name] == whole[name] for name in names)
    before = snapshot(folder)
    assert [record.spec for record in injections.run(folder)] == list(SPECS)
    assert steady(folder) == whole
    for path, was in before.items():  # not even written again
        assert (path.read_bytes(), path.stat().st_mtime_ns) == was
    return len(found)


@contextlib.contextmanager
def sweeping(folder, **how):
    """A sweep in a process of its own."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.run.worker", "torch._dynamo"])
    process = context.Process(target=injections.sweeper, args=(folder,), kwargs=how)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def waiting(folder):
    return (folder.parent / "waits").exists


# What happens to the sweep.


@pytest.mark.parametrize("name", few(INSIDE, 2))
def test_a_fault_inside_the_sweep(folder, whole, name):
    with sweeping(folder, name=name) as process:
        process.join(JOIN_S)
        assert process.exitcode is not None
        assert (process.exitcode == 0) is (name == "the clock goes back")
    torn = 1 if "half written" in name else 0
    finished = promise(folder, whole, torn=torn)
    assert finished < len(SPECS) or name == "the clock goes back"


@pytest.mark.parametrize("after", few(MOMENTS))
@pytest.mark.parametrize("name", few(SIGNALS))
def test_a_signal_to_the_sweep(folder, whole, name, after):
    with sweeping(folder, hang_after=after) as process:
        wait_for(waiting(folder), f"{after} records")
        os.kill(process.pid, getattr(signal, name))
        if name == "SIGSTOP":  # the next run does not wait for it
            assert promise(folder, whole) == after
            os.kill(process.pid, signal.SIGKILL)
        process.join(JOIN_S)
        assert process.exitcode not in (0, None)
    assert promise(folder, whole) == (len(SPECS) if name == "SIGSTOP" else after)


@pytest.mark.parametrize("rounds", few([1, 0]))
def test_two_sweeps_in_one_folder(folder, whole, rounds, tmp_path):
    with sweeping(folder, rounds=rounds) as one, sweeping(folder, rounds=rounds) as other:
        for process in (one, other):
            process.join(JOIN_S)
            assert process.exitcode == 0
    found, said = trusted(folder)
    assert (len(found), said) == (len(SPECS), [])
    injections.run(tmp_path / "alone", rounds)
    assert steady(folder) == steady(tmp_path / "alone")
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == stored(folder)  # nothing else


@pytest.fixture
def small_disk():
    """A disk of 12 KiB, where a file system may be mounted; sockets in it have short names."""
    disk = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here; RLIMIT_FSIZE stands for it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
    disk.rmdir()


def test_a_folder_whose_name_is_too_long_for_a_socket(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * server.MOST_NAME_BYTES)))
    with pytest.raises(OSError, match="set TMPDIR to another folder"):
        server.context()


def test_a_full_disk(whole, small_disk):
    folder = small_disk / "results"
    with sweeping(folder) as process:
        process.join(JOIN_S)
        assert process.exitcode not in (0, None)
    done = len(stored(folder))
    assert 0 < done < len(SPECS)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert promise(folder, whole) == done


# Caches of compilers that cannot be written.

COMPILED = ("none", "memory_budget", "every_layer")


def run_compiled(folder, environment):
    chosen = [part for spec in COMPILED for part in ("--strategy", spec)]
    sizes = ["--layers", "3", "--batch", "4", "--dim", "4", "--no-time", "--format", "json"]
    arguments = ["--workload", "mlp-chain", "--device", "cpu", "--results", str(folder), *sizes]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", *arguments, *chosen],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line)["status"] for line in done.stdout.splitlines()]


@pytest.mark.long
def test_caches_of_compilers_that_cannot_be_written(folder, tmp_path):
    nowhere = f"{__file__}/cache"  # below a file
    assert run_compiled(folder, {"NUMBA_CACHE_DIR": nowhere}) == (0, ["ok"] * 3)
    before = snapshot(folder)
    code, statuses = run_compiled(tmp_path / "none", {"TORCHINDUCTOR_CACHE_DIR": nowhere})
    assert (code, statuses) == (1, ["ok", "crash", "ok"])  # what does not compile needs none
    assert run_compiled(folder, {}) == (0, ["ok"] * 3)
    assert snapshot(folder) == before


@pytest.mark.long
def test_a_full_cache_of_a_compiler_is_a_row(folder, tmp_path, small_disk):
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(small_disk), "TMPDIR": str(small_disk)}
    code, statuses = run_compiled(folder, environment)
    assert (code, statuses[0], statuses[2]) == (int(statuses[1] == "crash"), "ok", "ok")
    before = snapshot(folder)
    again, same = run_compiled(folder, {})
    assert (again, same, snapshot(folder)) == (code, statuses, before)


# What happens to a cell's process: a row, and the sweep goes on.

AT_ONCE = ("kills_itself", "terminates_itself", "sends_junk", "exits", "interrupts", "recurses")
LATE = ("stops", "closes_the_pipe_and_hangs", "sends_half_a_header_and_hangs")
LIMIT_S = 1.0


@pytest.mark.parametrize("name", few((*AT_ONCE, *LATE)))
def test_a_fault_of_a_cell_is_a_row_and_ends_no_sweep(folder, whole, name):
    bad = SPECS[1]

    def measure(cell, timeout_s):
        if cell.spec != bad:
            return injections.measure(cell)
        work = getattr(misbehaving, name)
        ending = executor.in_process(work, b"", LIMIT_S if name in LATE else JOIN_S)
        return blank(cell, ending.status, ending.reason)

    found = sweep.run(injections.cells(), folder, injections.quietly, measure=measure)
    statuses = {record.spec: record.status for record in found}
    wanted = "timeout" if name in LATE else "crash"
    assert statuses == dict.fromkeys(SPECS, "ok") | {bad: wanted}
    before = snapshot(folder)
    assert injections.run(folder) == found  # a failure is an answer: it is kept, too
    assert snapshot(folder) == before
    names = [path.name for path in stored(folder) if json.loads(path.read_bytes())["spec"] != bad]
    assert {name: steady(folder)[name] for name in names} == {n: whole[n] for n in names}


# What happens to records on disk.


@pytest.fixture
def victim(folder):
    """The path of one of the records of a finished sweep, and its bytes."""
    injections.run(folder)
    path = injections.path_of(injections.cells()[2], folder)
    return path, path.read_bytes()


def set_aside_and_measured_again(folder, whole, victim, data):
    path, _ = victim
    path.write_bytes(data)
    others = {p: b for p, b in snapshot(folder).items() if p != path}
    with pytest.warns(UserWarning, match="set aside"):
        found = injections.run(folder)
    assert [record.status for record in found] == ["ok"] * len(SPECS)
    assert steady(folder) == whole
    assert {p: b for p, b in snapshot(folder).items() if p != path} == others
    (aside,) = folder.rglob("*.set-aside")
    assert aside.read_bytes() == data
    aside.unlink()


@pytest.mark.parametrize("name", few(HOSTILE, 12))
def test_a_hostile_record_is_set_aside(folder, whole, victim, name):
    set_aside_and_measured_again(folder, whole, victim, HOSTILE[name](victim[1]))


@pytest.mark.parametrize("number", few(range(CUTS), 4))
def test_a_cut_record_is_set_aside(folder, whole, victim, number):
    set_aside_and_measured_again(folder, whole, victim, injections.cut(victim[1], number))


@pytest.mark.parametrize("number", few(range(FLIPS), 8))
def test_a_flipped_bit_is_seen(folder, whole, victim, number):
    data = injections.flipped(victim[1], number)
    assert data != victim[1]
    assert b'"schema_version": 2' in data  # or it would be another program's
    set_aside_and_measured_again(folder, whole, victim, data)


def test_a_record_of_the_future_is_refused_and_left_alone(folder, whole, victim):
    path, good = victim
    data = injections.changed(schema_version=99)(good)
    path.write_bytes(data)
    with pytest.raises(UnknownVersionError, match="schema version 99; this program reads"):
        injections.run(folder)
    assert path.read_bytes() == data
    path.unlink()
    assert promise(folder, whole) == len(SPECS) - 1


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_set_aside(folder, whole, victim, kind):
    path, _ = victim
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    assert len(list(records.read_all(folder))) == len(SPECS) - 1
    with pytest.warns(UserWarning, match="it is no file; set aside"):
        injections.run(folder)
    assert steady(folder) == whole


REPORTS = (["tables"], ["tables", "--check"], ["claims"], ["compare"])


@pytest.mark.filterwarnings("ignore:.*set aside")
@pytest.mark.parametrize("name", few(HOSTILE, 2))
@pytest.mark.parametrize("arguments", REPORTS, ids=" ".join)
def test_reports_end_in_an_answer_or_a_sentence(folder, victim, name, arguments, monkeypatch):
    """Whatever a record holds: no traceback."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(regenerate, "figures", lambda *_, **__: {})  # they take seconds
    path, good = victim
    path.write_bytes(HOSTILE[name](good))
    more = [str(folder), str(folder)] if arguments == ["compare"] else ["--results", str(folder)]
    done = command.run(*arguments, *more)
    assert done.returncode in (0, 1, 2)
    assert "Traceback" not in done.stderr
    if done.returncode == 2:
        assert done.stderr.startswith("error: ")
        assert len(done.stderr) < 2000


@pytest.mark.long
def test_time_is_that_of_a_clock_that_never_goes_back(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: -time.monotonic())
    begin_s = time.monotonic()
    ending = executor.in_process(misbehaving.hangs, b"", LIMIT_S)
    assert ending.status == "timeout"
    assert LIMIT_S <= time.monotonic() - begin_s < JOIN_S
