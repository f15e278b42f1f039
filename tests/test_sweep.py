"""A sweep resumes where it stopped, however it stopped, and trusts no file that it should not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import misbehaving
import msgspec
import pytest
import tiny

import bench
import strategies
from bench.report.stats import FEW
from bench.run import executor, sweep
from bench.run.blank import blank
from bench.store import records

ROOT = Path(bench.__file__).resolve().parent.parent
# What two runs of one cell need not agree on.
UNSTEADY = {"started_at_utc", "duration_s", "resident_peak_bytes", "commit", "dirty", "checksum"}


class Measure:
    """Stands in for a process of its own, and remembers."""

    def __init__(self, fail_after=None):
        self.specs, self.fail_after = [], fail_after
        self.running, self.together = 0, 0
        self.lock = threading.Lock()

    def __call__(self, cell, timeout_s):
        with self.lock:
            if self.fail_after is not None and len(self.specs) >= self.fail_after:
                raise KeyboardInterrupt
            self.specs.append(cell.spec)
            self.running += 1
            self.together = max(self.together, self.running)
        time.sleep(0.02)
        with self.lock:
            self.running -= 1
        return blank(cell, "ok")


class Progress(list):
    def __call__(self, done, total, record):
        self.append((done, total, record.spec))


def cells(*specs, **fields):
    return [tiny.cell("mlp-chain", spec, **fields) for spec in specs]


def run(wanted, folder, measure, progress=None):
    progress = Progress() if progress is None else progress
    return sweep.run(wanted, folder, progress, measure=measure)


SPECS = ("none", "every_layer", "every_k(k=2)", "sqrt")


# Which cells.


def test_every_spec_begins_with_the_reference():
    specs = sweep.every_spec()
    assert specs[0] == "none"
    assert len(set(specs)) == len(specs)
    assert {s.partition("(")[0] for s in specs} >= {"every_layer", "every_k", "sqrt", "selective"}
    assert {"every_k(k=2)", "every_k(k=4)", "every_k(k=8)"} <= set(specs)


@pytest.fixture(scope="module")
def standard():
    return sweep.cells_of("standard", "cpu")


def test_quick_is_what_the_project_is_about_on_one_workload():
    quick = sweep.cells_of("quick", "cpu")
    assert {cell.workload for cell in quick} == {"gpt-mini"}
    assert all(cell.rounds for cell in quick)
    flash = [cell for cell in quick if cell.options.get("attention") == "flash"]
    assert [cell.spec for cell in flash] == ["none"]
    names = {cell.spec.partition("(")[0] for cell in quick}
    assert names == {spec.partition("(")[0] for spec in sweep.QUICK}
    assert len(quick) == len(sweep.QUICK) + len(flash) <= 12  # the rows of the README's table


def test_quick_is_part_of_standard(standard):
    """What was measured first is not measured again."""
    wide = {cell.cell_id() for cell in standard}
    assert {cell.cell_id() for cell in sweep.cells_of("quick", "cpu")} < wide


@pytest.mark.parametrize("suite", ["smoke", "quick", "standard", "full"])
def test_every_timed_table_has_an_a_a_row_and_even_rounds(suite):
    """`none`, which is timed against itself."""
    timed = [cell for cell in sweep.cells_of(suite, "cpu") if cell.rounds]
    assert {cell.rounds % 2 for cell in timed} == {0}
    assert min(cell.rounds for cell in timed) >= FEW
    tables = {(cell.workload, cell.precision, cell.optimizer) for cell in timed}
    none = [cell for cell in timed if cell.spec == "none" and "attention" not in cell.options]
    assert {(cell.workload, cell.precision, cell.optimizer) for cell in none} == tables


def test_the_standard_suite(standard):
    ids = [cell.cell_id() for cell in standard]
    assert len(set(ids)) == len(ids)
    timed = [cell for cell in standard if cell.rounds]
    assert {cell.workload for cell in timed} == {"gpt-mini", "mlp-chain"}
    for workload in ("gpt-mini", "mlp-chain"):
        specs = {c.spec for c in timed if c.workload == workload}
        assert specs == set(sweep.every_spec())
    flash = [cell for cell in timed if cell.options.get("attention") == "flash"]
    assert [cell.spec for cell in flash] == ["none"]


def test_every_series_of_depths_has_every_strategy(standard):
    for workload in sweep.DEPTH_SERIES:
        found = {
            (c.make_workload().layers, c.spec)
            for c in standard
            if c.workload == workload and not c.rounds
        }
        by_depth = {depth: {s for d, s in found if d == depth} for depth in sweep.DEPTHS}
        specs = by_depth[sweep.DEPTHS[0]]
        known = {name: strategies.get(name) for name in strategies.available()}
        wanted = {n for n, s in known.items() if not s.needs_profile and not s.compiled}
        assert {s.partition("(")[0] for s in specs} == wanted
        assert {"every_k(k=2)", "every_k(k=4)", "every_k(k=8)"} <= specs
        assert all(others == specs for others in by_depth.values())  # one series a strategy
        assert len(found) == len(specs) * len(by_depth)


def test_the_full_suite_measures_more():
    full = sweep.cells_of("full", "cpu")
    ids = [cell.cell_id() for cell in full]
    assert len(set(ids)) == len(ids)
    assert {cell.workload for cell in full} >= set(sweep.FULL_WORKLOADS)
    assert {("bf16-autocast", "none"), ("fp32", "adamw")} <= {
        (cell.precision, cell.optimizer) for cell in full
    }


@pytest.mark.parametrize(
    ("suite", "device", "message"),
    [
        ("quickest", "cpu", "suite must be one of smoke, quick, standard, full"),
        ("quick", "tpu", "no device 'tpu'"),
    ],
)
def test_unknown_suites_and_devices_are_refused(suite, device, message):
    with pytest.raises(ValueError, match=message):
        sweep.cells_of(suite, device)


# Running.


def test_records_come_back_in_the_order_of_cells(tmp_path):
    wanted = cells(*SPECS)
    progress = Progress()
    found = run(wanted, tmp_path, Measure(), progress)
    assert [record.spec for record in found] == list(SPECS)
    assert sorted(p[0] for p in progress) == [1, 2, 3, 4]
    assert {p[1] for p in progress} == {4}
    assert {p[2] for p in progress} == set(SPECS)
    assert sorted(r.cell_id for r in records.read_all(tmp_path)) == sorted(
        c.cell_id() for c in wanted
    )


def test_timed_cells_run_alone_and_first(tmp_path):
    timed, untimed = cells("sqrt", "none", rounds=1), cells("every_layer", "every_k(k=2)")
    alone = Measure()
    run(timed, tmp_path, alone)
    assert alone.together == 1
    both = Measure()
    run([*untimed, *timed], tmp_path / "both", both)
    assert both.specs[:2] == ["sqrt", "none"]
    assert both.together <= 2


def test_what_is_there_is_not_measured_again(tmp_path):
    wanted = cells(*SPECS)
    first = run(wanted[:2], tmp_path, Measure())
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    measure = Measure()
    found = run(wanted, tmp_path, measure)
    assert sorted(measure.specs) == sorted(SPECS[2:])
    assert found[:2] == first
    assert all(path.read_bytes() == data for path, data in files.items())


def test_the_same_cell_twice_is_two_rows(tmp_path):
    found = run(cells("none", "none"), tmp_path, Measure())
    assert [record.spec for record in found] == ["none", "none"]


def test_a_record_is_on_disk_before_the_next_cell_starts(tmp_path):
    seen = []

    def measure(cell, timeout_s):
        seen.append(len(list(tmp_path.rglob("*.json"))))
        return blank(cell, "ok")

    run(cells("none", "every_layer", "sqrt", rounds=1), tmp_path, measure)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("rounds", [0, 1])
def test_an_interrupt_keeps_what_is_done(tmp_path, rounds):
    wanted = cells(*SPECS, rounds=rounds)
    with pytest.raises(KeyboardInterrupt):
        run(wanted, tmp_path, Measure(fail_after=2))
    done = {record.spec for record in records.read_all(tmp_path)}
    assert len(done) == 2 if rounds else len(done) <= 2  # two at a time: one may be lost
    again = Measure()
    run(wanted, tmp_path, again)
    assert set(again.specs) == set(SPECS) - done


def test_an_interrupt_ends_the_cells_in_flight(tmp_path):
    """They have a session of their own, which an interrupt at the terminal does not reach."""

    def measure(cell, timeout_s):
        if cell.spec == SPECS[0]:
            return blank(cell, "ok")
        executor.in_process(misbehaving.hangs, b"", 600)
        return blank(cell, "crash", "ended")

    def interrupt(*_):
        raise KeyboardInterrupt

    begin_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(cells(*SPECS), tmp_path, interrupt, measure=measure)
    assert time.monotonic() - begin_s < 60
    assert [record.spec for record in records.read_all(tmp_path)] == [SPECS[0]]
    assert not executor._alive


def test_failures_are_records_too(tmp_path):
    def measure(cell, timeout_s):
        return blank(cell, "oom", f"no more than {timeout_s:g} s")

    (record,) = sweep.run(cells("none"), tmp_path, Progress(), timeout_s=7, measure=measure)
    assert (record.status, record.reason) == ("oom", "no more than 7 s")
    (stored,) = records.read_all(tmp_path)
    assert stored == record


def test_code_that_changes_meanwhile_does_not_lose_a_record(tmp_path):
    """A worker that sees other code than the sweep did writes another id."""

    def measure(cell, timeout_s):
        return msgspec.structs.replace(blank(cell, "ok"), cell_id="0123456789ab")

    (record,) = run(cells("none"), tmp_path, measure)
    assert record.cell_id == "0123456789ab"


# Files that cannot be trusted.


def path_of(cell, folder):
    return records.path_of(blank(cell), folder)


def stored(folder, *specs):
    """The cells, measured, and where the first one's record is."""
    wanted = cells(*specs)
    run(wanted, folder, Measure())
    return wanted, path_of(wanted[0], folder)


def measured_again(wanted, folder, message):
    measure = Measure()
    with pytest.warns(UserWarning, match=message):
        found = run(wanted, folder, measure)
    assert measure.specs == [wanted[0].spec]
    assert [record.status for record in found] == ["ok"] * len(wanted)


@pytest.mark.parametrize("kept", [0, 1, 500, -2])
def test_a_truncated_record_is_set_aside(tmp_path, kept):
    wanted, path = stored(tmp_path, "none", "sqrt")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    measured_again(wanted, tmp_path, f"{path.name}.*set aside")
    assert path.with_name(path.name + ".set-aside").read_bytes() == whole[:kept]
    assert records.decode(path.read_bytes()).cell_id == wanted[0].cell_id()


@pytest.mark.parametrize(
    "data", [b"{}", b"[1, 2]", b"\xff\xfe", b'{"schema_version": 2}', b"no JSON at all"]
)
def test_a_foreign_file_is_set_aside(tmp_path, data):
    wanted, path = stored(tmp_path, "none", "sqrt")
    path.write_bytes(data)
    measured_again(wanted, tmp_path, f"{path.name}.*set aside")


def test_a_record_of_a_newer_schema_is_refused_and_left_alone(tmp_path):
    wanted, path = stored(tmp_path, "none", "sqrt")
    path.write_bytes(b'{"schema_version": 99}')
    with pytest.raises(ValueError, match=rf"{path.name}: schema version 99; this program reads"):
        run(wanted, tmp_path, Measure())
    assert path.read_bytes() == b'{"schema_version": 99}'


def test_another_cells_record_is_set_aside(tmp_path):
    """Whole and valid, but copied over this one."""
    wanted, path = stored(tmp_path, "none", "sqrt")
    other = path_of(wanted[1], tmp_path)
    path.write_bytes(other.read_bytes())
    measured_again(wanted, tmp_path, f"it holds cell {wanted[1].cell_id()}; set aside")
    assert path.with_name(path.name + ".set-aside").read_bytes() == other.read_bytes()


def test_leftovers_of_a_killed_write_are_no_records(tmp_path):
    wanted, path = stored(tmp_path, "none")
    leftover = path.with_name(f".{path.name}.abc.tmp")
    leftover.write_bytes(path.read_bytes()[:100])
    measure = Measure()
    run(wanted, tmp_path, measure)
    assert measure.specs == []
    assert len(list(records.read_all(tmp_path))) == 1
    assert leftover.exists()


# Killed half way, for real: every cell in a process of its own, SIGKILL to the sweep.

KILLED = ("none", "every_layer", "every_k(k=2)", "every_k(k=3)", "sqrt", "offload")


def command(folder):
    chosen = [part for spec in KILLED for part in ("--strategy", spec)]
    sizes = ["--layers", "4", "--batch", "8", "--dim", "8"]
    fixed = ["--workload", "mlp-chain", "--device", "cpu", "--no-time", "--format", "json"]
    fixed += ["--results", str(folder)]
    return [sys.executable, "-m", "bench", "run", *fixed, *sizes, *chosen]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def finished(folder):
    """A whole run: the records that it printed, by specification."""
    done = subprocess.run(
        command(folder), env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return by_spec(map(json.loads, done.stdout.splitlines()))


def uninterrupted(folder):
    """The same run from here; returns what is on disk."""
    options = {"layers": 4, "batch": 8, "dim": 8}
    sweep.run(cells(*KILLED, options=options), folder, Progress())
    return by_spec(json.loads(path.read_bytes()) for path in folder.rglob("*.json"))


def by_spec(found):
    return {record["spec"]: record for record in found}


def killed(folder, after):
    """A run that is killed once it has stored some records."""
    with subprocess.Popen(
        command(folder),
        env=ENVIRONMENT,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.rglob("*.json"))) < after:
            assert time.monotonic() < deadline, "the run stores no records"
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


def steady(record):
    return {name: value for name, value in record.items() if name not in UNSTEADY}


@pytest.mark.long
def test_a_killed_sweep_resumes_to_the_same_records(tmp_path):
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    interrupted.mkdir()
    whole.mkdir()
    killed(interrupted, after=2)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in interrupted.rglob("*.json")
    }
    assert 2 <= len(before) < len(KILLED)
    for path in before:
        records.decode(path.read_bytes())  # whole, or not there
    resumed, expected = finished(interrupted), uninterrupted(whole)
    assert list(resumed) == list(KILLED)
    for spec in KILLED:
        assert steady(resumed[spec]) == steady(expected[spec]), spec
    for path, (data, modified_ns) in before.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (data, modified_ns)
    assert {p.name for p in interrupted.rglob("*.json")} == {p.name for p in whole.rglob("*.json")}


def test_smoke_runs_every_strategy_once_and_nothing_deep():
    found = sweep.cells_of("smoke", "cpu")
    names = [strategies.get(cell.spec).name() for cell in found]
    assert sorted(names) == sorted(strategies.available())
    assert {cell.workload for cell in found} == {"mlp-chain"}
    assert all(not cell.options for cell in found)
