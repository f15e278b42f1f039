"""Results of several machines in one folder: nothing lost, nothing torn, nothing mixed."""

import errno
import os

import msgspec
import pytest
import tiny
from test_docs import ROOT
from typer.testing import CliRunner

from bench import __main__ as command_line
from bench.run.blank import blank
from bench.store import json_store, records
from bench.sweeps import merging
from bench.sweeps.merging import Merged, merge

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


def record(spec="none", machine="one", started=OLD, **fields):
    empty = blank(tiny.cell("mlp-chain", spec), "ok")
    fields = {"machine_id": machine, "started_at_utc": started, **fields}
    return msgspec.structs.replace(empty, **fields)


def stored(folder, *values):
    return [records.write(value, folder) for value in values]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.json")}


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "a", tmp_path / "b", tmp_path / "into"


def test_machines_lie_apart(folders):
    a, b, into = folders
    stored(a, record(machine="one", step_s=[1.0]))
    stored(b, record(machine="two", step_s=[9.0]))
    assert merge([a, b], into) == Merged(new=2, newer=0, kept=0)
    assert contents(into) == contents(a) | contents(b)
    found = {one.machine_id: one.step_s for one in records.read_all(into)}
    assert found == {"one": [1.0], "two": [9.0]}


def test_the_same_is_one_and_a_second_time_nothing_happens(folders):
    a, b, into = folders
    for folder in (a, b):
        stored(folder, record(), record("sqrt"))
    assert merge([a, b], into) == Merged(new=2, newer=0, kept=0)
    before = {path: path.stat().st_mtime_ns for path in records.paths(into)}
    assert merge([a, b], into) == Merged(new=0, newer=0, kept=2)
    assert {path: path.stat().st_mtime_ns for path in records.paths(into)} == before


@pytest.mark.parametrize("where", [0, 1, 2])
def test_the_newer_wins_wherever_it_is(folders, where):
    for place, folder in enumerate(folders):
        stored(folder, record(started=NEW if place == where else OLD, step_s=[1.0 + place]))
    *sources, into = folders
    done = merge(sources, into)
    [found] = records.read_all(into)
    assert (found.started_at_utc, found.step_s) == (NEW, [1.0 + where])
    assert done == (Merged(0, 0, 1) if where == 2 else Merged(0, 1, 0))


def test_of_one_moment_the_order_of_folders_decides_nothing(folders, tmp_path):
    a, b, into = folders
    stored(a, record(step_s=[1.0]))
    stored(b, record(step_s=[2.0]))
    merge([a, b], into)
    merge([b, a], tmp_path / "other")
    assert contents(into) == contents(tmp_path / "other")


def torn(path):
    path.write_bytes(path.read_bytes()[:200])


def another_checksum(path):
    path.write_bytes(path.read_bytes().replace(b'"status": "ok"', b'"status": "oom"'))


def of_tomorrow(path):
    now = f'"schema_version": {records.SCHEMA_VERSION}'.encode()
    path.write_bytes(path.read_bytes().replace(now, b'"schema_version": 99'))


def misplaced(path):
    path.rename(path.with_name("other.json"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (torn, "not a record of schema"),
        (another_checksum, "its checksum is that of other values"),
        (of_tomorrow, "schema version 99; this program reads"),
        (misplaced, "other.json belongs at .*none-[0-9a-f]{12}.json"),
    ],
)
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_cannot_be_read_is_refused_and_nothing_changes(folders, spoil, said, where):
    for folder in folders:
        [path] = stored(folder, record(machine=folder.name))
        if folder is folders[where]:
            spoil(path)
    before = [contents(folder) for folder in folders]
    *sources, into = folders
    with pytest.raises(ValueError, match=said) as error:
        merge(sources, into)
    assert str(error.value).endswith("nothing is merged")
    assert "\n" not in str(error.value)
    assert [contents(folder) for folder in folders] == before


def test_a_full_disk(folders, monkeypatch):
    a, _, into = folders
    stored(a, record(), record("sqrt"), record("every_layer"))
    real, calls = os.fsync, []

    def fails(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(json_store.os, "fsync", fails)
        with pytest.raises(ValueError, match="No space left on device; 1 of 3 files are merged"):
            merge([a], into)
    [only] = contents(into).items()
    assert only in contents(a).items()
    assert [path for path in into.rglob("*") if path.suffix == ".tmp"] == []
    assert merge([a], into) == Merged(new=2, newer=0, kept=1)
    assert contents(into) == contents(a)


def test_killed_in_the_middle(folders):
    """As a process: `kill -9` between two files."""
    a, _, into = folders
    stored(a, record(), record("sqrt"), record("every_layer"))
    process = os.fork()
    if not process:
        real = merging.write_atomically
        calls = []

        def dies(path, data):
            calls.append(path)
            if len(calls) == 3:
                os.kill(os.getpid(), 9)
            real(path, data)

        merging.write_atomically = dies
        merge([a], into)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == 9
    assert len(contents(into)) == 2
    assert contents(into).items() <= contents(a).items()
    assert merge([a], into) == Merged(new=1, newer=0, kept=2)


def test_every_kind_of_value_is_merged_where_it_was(tmp_path):
    """The project's own results: all that its stores read."""
    found = merging.inventory(ROOT / "results")
    kinds = merging.stores()
    apart = [name for name in found if "/raw/" in name]  # below peers/ and pays/
    assert len(apart) > 10
    assert {name.split("/")[0] for name in found} > {"raw", "peers", "pays", "models", "published"}
    assert set(kinds) > {"raw", "ranks", "timed", "timelines"}


def test_seconds_lie_below_the_name_of_their_machine():
    """Whatever has no such name is modelled, or counted."""
    found = merging.inventory(ROOT / "results")
    homeless = {
        name.split("/")[0]
        for name, one in found.items()
        if msgspec.json.decode(one.data)["machine_id"] not in name
    }
    assert homeless == {"clusters", "coverage", "published"}


@pytest.mark.parametrize(
    ("source", "said"),
    [("missing", "is no folder"), ("empty", "holds nothing to merge"), ("into", "merged into")],
)
def test_bad_folders_exit_2_with_a_sentence(tmp_path, monkeypatch, capsys, source, said):
    (tmp_path / "empty").mkdir()
    stored(tmp_path / "into", record())
    given = ["bench", "merge", str(tmp_path / source), "--into", str(tmp_path / "into")]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_the_command_says_what_it_did(folders):
    a, b, into = folders
    stored(a, record(), record("sqrt"))
    stored(b, record(started=NEW))
    stored(into, record())
    done = CliRunner().invoke(command_line.app, ["merge", str(a), str(b), "--into", str(into)])
    assert done.exit_code == 0
    assert done.stdout == f"{into}: 1 files new, 1 newer, 0 as they were\n"
