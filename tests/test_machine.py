"""What ran where: hashes change with the code that decides, and with nothing else."""

import platform
import re
import subprocess

import pytest

from bench.cells import machine


@pytest.fixture
def fresh():
    """Forget what was found out once, before and after."""
    cached = (machine.facts, machine.machine_id, machine.commit)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


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
