"""Records of ranks and a disk that fails: nothing finished is lost, nothing torn is trusted."""

import errno
import multiprocessing
import os
import shutil
from unittest import mock

import command
import injections
import pytest
from test_ranks import CUT_OFF, KILLED, cell

from bench.ranks import merged, stored
from bench.ranks.merged import Answer
from bench.store import json_store

RANKS = 2
FILES = RANKS + 1
"""One of each rank, and then one of all together."""


def work():
    return cell("fsdp2", "none", ranks=RANKS)


def measure(one, timeout_s):
    """What its ranks answered: how each ended."""
    del timeout_s
    return merged.records_of(
        one, [Answer(rank, CUT_OFF if rank else KILLED, float(rank)) for rank in range(RANKS)]
    )


def run(folder):
    return stored.run(work(), 1, folder, measure)


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.json"))}


def promise(folder, cut):
    """After a fault: what has a name is whole, the cell is run again, and then all is there."""
    kept = files(folder)
    with mock.patch("warnings.warn") as warned:
        assert stored.existing(work(), folder) is None
    assert warned.call_count == cut
    assert len(run(folder)) == FILES
    assert len(files(folder)) == FILES
    assert stored.existing(work(), folder) is not None
    assert not list(folder.rglob("*.tmp"))
    return len(kept)


@pytest.mark.parametrize("after", range(FILES))
def test_a_disk_that_is_full_after_some_records(after, tmp_path):
    """One sentence of the system's, which the command prints; those before it are whole."""
    real, written = os.fsync, []

    def full(descriptor):
        if len(written) == after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(descriptor)
        real(descriptor)

    with (
        mock.patch.object(json_store.os, "fsync", full),
        pytest.raises(OSError, match="No space left on device"),
    ):
        run(tmp_path)
    assert promise(tmp_path, 0) == after


@pytest.mark.parametrize("which", range(FILES))
@pytest.mark.parametrize("part", [0, 0.5])
def test_a_record_that_is_cut_off(which, part, tmp_path):
    """Of a rank, or of all together: the cell is measured again."""
    run(tmp_path)
    path = list(files(tmp_path))[which]
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    promise(tmp_path, 1)


def test_a_record_of_all_with_those_of_another_run_is_not_trusted(tmp_path):
    """A rank's record of another cell under its name."""
    run(tmp_path)
    first, *_ = (p for p in files(tmp_path) if "rank0" in p.name)
    other, *_ = (p for p in files(tmp_path) if "rank1" in p.name)
    shutil.copy(first, other)
    assert stored.existing(work(), tmp_path) is None


def stricken(folder, name):
    """A process in which a fault waits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with injections.INSIDE[name](folder):
        run(folder)


@pytest.mark.long
@pytest.mark.parametrize("name", injections.INSIDE)
def test_a_fault_while_records_of_ranks_are_written(name, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    process = multiprocessing.get_context("forkserver").Process(
        target=stricken, args=(folder, name)
    )
    process.start()
    process.join(60)
    folder.mkdir(exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    if process.exitcode:
        for left in folder.rglob("*.tmp"):
            left.unlink()  # of a process that was killed: has no record's name
        promise(folder, 0)  # not all are there, so none is read
    else:
        assert stored.existing(work(), folder) is not None


@pytest.mark.long
def test_a_folder_that_nothing_can_be_stored_in_is_one_sentence(tmp_path):
    file = tmp_path / "file"
    file.touch()
    done = command.run(
        *("run", "--workload", "gpt-mini", "--strategy", "none", "--ranks", "2", "--no-time"),
        *("--results", str(file / "results")),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing can be stored in")
    assert done.stderr.count("\n") == 1
