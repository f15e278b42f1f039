"""What ran where: hashes change with the code that decides, and with nothing else."""

import platform
import re
import shutil
import subprocess

import pytest

import strategies
from bench.cells import machine


@pytest.fixture
def fresh():
    """Forget what was found out once, before and after."""
    cached = (machine.facts, machine.machine_id, machine.commit, machine._core_digest)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def code_hash(spec, **options):
    machine._core_digest.cache_clear()
    return machine.code_hash(strategies.get(spec), **options)


@pytest.fixture
def source(tmp_path, monkeypatch, fresh):
    """A copy of the source tree that may be changed."""
    for folder in ("bench", "strategies"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(machine.ROOT / folder, tmp_path / folder, ignore=ignore)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    return tmp_path


# Machine.


def test_facts_are_plain_and_complete(fresh):
    facts = machine.facts()
    assert all(isinstance(value, (str, int, float)) for value in facts.values())
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["architecture"] == platform.machine()


def test_the_machines_name_is_a_folder_name_without_the_hosts(fresh):
    name = machine.machine_id()
    assert re.fullmatch(r"[a-z0-9-]+-\d+c-[0-9a-f]{6}", name)
    assert platform.node().lower() not in name or not platform.node()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"cores": 999}, False),
        ({"processor": "Another CPU"}, False),
        ({"accelerator": "NVIDIA H200"}, False),
        ({"memory_bytes": 1 << 50}, False),
        ({"memory_bytes": 1}, True),  # a few bytes more: the kernel's share varies
        ({"system": "Linux 99"}, True),  # an update is no other machine
    ],
)
def test_the_machines_name_is_of_its_hardware(monkeypatch, fresh, change, same):
    facts = {**machine.facts(), "memory_bytes": 8 << 30}
    monkeypatch.setattr(machine, "facts", lambda: facts)
    before = machine.machine_id()
    machine.machine_id.cache_clear()
    more = {k: facts[k] + v if same and k == "memory_bytes" else v for k, v in change.items()}
    monkeypatch.setattr(machine, "facts", lambda: {**facts, **more})
    assert (machine.machine_id() == before) is same


# Code.


def test_the_same_code_has_the_same_hash(source):
    assert code_hash("sqrt") == code_hash("sqrt")
    assert re.fullmatch("[0-9a-f]{12}", code_hash("sqrt"))


@pytest.mark.parametrize(
    "path",
    [
        "strategies/profiling/ledger.py",
        "bench/workloads/gpt.py",
        "bench/run/worker.py",
        "bench/cells/training.py",
        "strategies/execution/groups.py",
        "strategies/schedules/interpreter.py",
        "strategies/storage/codecs.py",
    ],
)
def test_what_every_measurement_runs_through_is_hashed(source, path):
    before = code_hash("sqrt")
    (source / path).write_text((source / path).read_text() + "\n")
    assert code_hash("sqrt") != before


@pytest.mark.parametrize(
    "path", ["bench/report/tables.py", "bench/report/claims.py", "bench/run/sweep.py"]
)
def test_what_no_measurement_runs_through_is_not(source, path):
    before = code_hash("sqrt")
    (source / path).write_text("")
    assert code_hash("sqrt") == before


def test_a_new_file_of_the_core_is_hashed(source):
    before = code_hash("sqrt")
    (source / "bench/workloads/new.py").write_text("WORKLOADS = ()\n")
    assert code_hash("sqrt") != before


def test_a_new_strategy_makes_no_old_record_stale(source):
    before = code_hash("sqrt")
    (source / "strategies/new.py").write_text("")
    assert code_hash("sqrt") == before


def test_strategies_differ_by_their_own_files():
    hashes = [code_hash(name) for name in strategies.available()]
    assert len(set(hashes)) == len(hashes)
    assert code_hash("every_k(k=2)") == code_hash("every_k(k=8)")


def test_a_layered_strategy_has_the_code_of_what_is_below():
    files = machine._own_files(strategies.get("offload(over=compressed(over=sqrt))"))
    names = {file.rpartition("/")[2] for file in files}
    assert names == {"strategy.py", "layered.py", "offload.py", "compressed.py", "sqrt.py"}


# Commit.


@pytest.fixture
def repository(tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(machine, "ROOT", tmp_path)

    def git(*arguments):
        options = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    for name in ("code.py", "README.md", "results/tables.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("before")
    git("add", ".")
    git("commit", "-m", "first")
    return tmp_path


def test_a_clean_tree(repository):
    head, dirty = machine.commit()
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert dirty is False


@pytest.mark.parametrize(
    ("name", "expected"),
    [("code.py", True), ("new.py", True), ("README.md", False), ("results/tables.md", False)],
)
def test_results_are_no_change_of_the_code(repository, name, expected):
    (repository / name).write_text("after")
    assert machine.commit()[1] is expected


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() == (None, None)


def test_without_git_there_is_no_commit(monkeypatch, fresh):
    monkeypatch.setenv("PATH", "")
    assert machine.commit() == (None, None)
