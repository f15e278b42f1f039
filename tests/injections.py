"""Faults for a sweep, and a sweep to suffer them: imported anew in each of its processes.

Cells are described and not measured, so that a sweep takes milliseconds; everything else is real.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import tiny

from bench.cells import machine
from bench.run import sweep
from bench.run.blank import blank
from bench.store import json_store, records

SPECS = ("none", "every_layer", "every_k(k=2)", "sqrt")
NOBODY = 65534
HANG_S = 600


def cells(rounds=1):
    return [tiny.cell("mlp-chain", spec, rounds=rounds) for spec in SPECS]


def stored(folder):
    """Where records are, whole or not."""
    return sorted(folder.rglob("*.json"))


def measure(cell, timeout_s=None):
    """As a measurement of a deterministic cell, in no time."""
    size = sum(map(ord, cell.spec))
    return msgspec.structs.replace(blank(cell, "ok"), peak_allocated_bytes=size, step_s=[1.0])


def quietly(*_):
    """Nobody looks at progress."""


def run(folder, rounds=1):
    """A sweep that nothing happens to."""
    return sweep.run(cells(rounds), folder, quietly, measure=measure)


# What happens to the process of a sweep: each is a context that it runs in.


def nothing(folder):
    return contextlib.nullcontext()


def _limited(limit, count):
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (count, hard))


def no_room(folder):
    """No file may be longer than 100 bytes: what a full disk does, without a disk of one's own."""
    _limited(resource.RLIMIT_FSIZE, 100)
    return contextlib.nullcontext()


def no_descriptors(folder):
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    _limited(resource.RLIMIT_NOFILE, lowest)
    return contextlib.nullcontext()


def _take(_):
    return bytearray(1 << 28)


def _back():
    return -time.monotonic()


def no_memory(folder):
    """No address space beyond what is there, and none left in the allocator's own pools."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limited(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE"))
    return mock.patch.object(json_store.os, "fsync", _take)


def read_only(folder):
    """By another user where this one may write everywhere."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    if os.getuid() == 0:
        for path in (folder, *folder.parents):
            if path.stat().st_mode & 0o005 != 0o005 and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o055)
        os.setuid(NOBODY)
    return contextlib.nullcontext()


def killed_in(name):
    """SIGKILL in the middle of a write, instead of a call of the system."""

    def inflict(folder):
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if name == "replace":
            return mock.patch.object(json_store.Path, name, die)
        return mock.patch.object(json_store.os, name, die)

    return inflict


def disk_full_in(name):
    """ENOSPC, instead of a call of the system."""

    def inflict(folder):
        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return mock.patch.object(json_store.os, name, fail)

    return inflict


def half_written_then_killed(folder):
    """A disk that lies: the file has its name, and half of its bytes."""
    real = json_store.os.fsync

    def cut(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        real(descriptor)

    replace = json_store.Path.replace

    def die_after(self, target):
        replace(self, target)
        os.kill(os.getpid(), signal.SIGKILL)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(json_store.os, "fsync", cut))
    stack.enter_context(mock.patch.object(json_store.Path, "replace", die_after))
    return stack


class Backwards(datetime.datetime):
    """A clock that goes back a day each time it is read."""

    reads = 0

    @classmethod
    def now(cls, tz=None):
        Backwards.reads += 1
        return datetime.datetime(2026, 1, 1, tzinfo=tz) - datetime.timedelta(days=cls.reads)


def clock_goes_back(folder):
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(machine, "datetime", Backwards))
    stack.enter_context(mock.patch.object(time, "time", _back))
    return stack


def folder_vanishes(folder):
    """With all that is in it, before the second write."""
    real, count = json_store.os.fsync, 0

    def vanish(descriptor):
        nonlocal count
        count += 1
        if count == 2:
            shutil.rmtree(folder)
        real(descriptor)

    return mock.patch.object(json_store.os, "fsync", vanish)


INSIDE: dict[str, Callable[[Path], contextlib.AbstractContextManager[object]]] = {
    "killed before a record's bytes are on disk": killed_in("fsync"),
    "killed before a record has its name": killed_in("replace"),
    "killed with a record half written under its name": half_written_then_killed,
    "disk full when a record is forced to disk": disk_full_in("fsync"),
    "disk full when a temporary file is made": disk_full_in("fdopen"),
    "no file may grow (RLIMIT_FSIZE)": no_room,
    "no more descriptors (RLIMIT_NOFILE)": no_descriptors,
    "no more memory (RLIMIT_AS)": no_memory,
    "the folder is read-only": read_only,
    "the folder vanishes": folder_vanishes,
    "the clock goes back": clock_goes_back,
}
"""Happens where the sweep runs."""

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP")
MOMENTS = (0, 1, 3)
"""How many records there are when a signal comes."""


def sweeper(folder, name=None, hang_after=None, rounds=1):
    """A sweep in this process, in which a fault waits, or which waits for one."""
    os.setsid()

    def slowly(cell, timeout_s):
        if hang_after is not None and len(stored(folder)) >= hang_after:
            (folder.parent / "waits").touch()
            time.sleep(HANG_S)
        return measure(cell)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it says when it dies
    with INSIDE.get(name, nothing)(folder):
        sweep.run(cells(rounds), folder, quietly, measure=slowly)


# What happens to records on disk: each makes other bytes of a record's.


def changed(**changes):
    """Whole, of this schema, and with values that nothing measures; as before checksums."""

    def inflict(data):
        fields = json.loads(data) | changes
        del fields["checksum"]
        return json.dumps(fields).encode()

    return inflict


def renamed_field(data):
    return data.replace(b'"reason"', b'"raison"')


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "negative bytes": changed(peak_allocated_bytes=-1),
    "negative FLOPs": changed(step_flops=-1),
    "zero seconds": changed(step_s=[0.0]),
    "negative seconds": changed(step_s=[-1.0]),
    "seconds that are text": changed(step_s=["1"]),
    "bytes that are a fraction": changed(peak_allocated_bytes=1.5),
    "bytes that are true": changed(peak_allocated_bytes=True),
    "an integer beyond 64 bits": changed(peak_allocated_bytes=2**64),
    "an integer of 4,000 digits": lambda d: changed(seed=0)(d).replace(
        b'"seed": 0', b'"seed": ' + b"9" * 4000
    ),
    "a number beyond doubles": lambda d: changed(loss=1)(d).replace(b'"loss": 1', b'"loss": 1e999'),
    "negative threads": changed(threads=-2),
    "a block that ran forward minus once": changed(block_forwards=[-1]),
    "negative bytes of a category": changed(peak_by_category={"saved": -1}),
    "layers that are text": changed(workload_options={"layers": "many"}),
    "zero layers": changed(workload_options={"layers": 0}),
    "a batch that is a list": changed(workload_options={"batch": [1]}),
    "options that are a list": changed(workload_options=[]),
    "an attention that is a number": changed(workload_options={"attention": 3}),
    "k is zero": changed(params={"k": 0}),
    "k is text": changed(params={"k": "four"}),
    "parameters inside parameters": changed(params={"over": {"k": 4}}),
    "a status that is none": changed(status="fine"),
    "an unknown field": changed(surprise=1),
    "a field with another name": renamed_field,
    "a workload that is a path": changed(workload="../../etc"),
    "a machine that is a path": changed(machine_id="/etc"),
    "a strategy of control characters": changed(strategy="\x1b[2J"),
    "a reason of a megabyte": changed(reason="x" * 1_000_000),
    "nested a hundred thousand deep": lambda d: b'{"machine":%s' % (b"[" * 10**5 + b"]" * 10**5),
    "nested a hundred thousand deep, and cut": lambda d: b"[" * 100_000,
    "another checksum": lambda d: d.replace(b'"checksum": "', b'"checksum": "0', 1),
    "a checksum that is a number": lambda d: json.dumps(json.loads(d) | {"checksum": 1}).encode(),
    "a value that is not the checksum's": lambda d: json.dumps(
        json.loads(d) | {"peak_allocated_bytes": 1}
    ).encode(),
    "empty": lambda d: b"",
    "nothing but zeros": lambda d: bytes(len(d)),
    "no JSON": lambda d: b"no JSON at all",
    "no text": lambda d: b"\xff\xfe\x00",
    "an empty object": lambda d: b"{}",
    "a list": lambda d: b"[1, 2]",
    "null": lambda d: b"null",
    "twice itself": lambda d: d + d,
    "a schema version that is text": changed(schema_version="2"),
    "a schema version of minus one": changed(schema_version=-1),
}

CUTS = 24
"""Lengths that a record is cut to, evenly spread."""
FLIPS = 64
"""Bits that are flipped, one at a time, evenly spread."""


def path_of(cell, folder):
    return records.path_of(blank(cell), folder)


def cut(data, number):
    return data[: number * (len(data) - 2) // CUTS]


def flipped(data, number):
    """Some bit of a byte that is not white space between values."""
    begin = data.index(b'"seed"') + 1  # what is before says which schema it is
    place = begin + number * (len(data) - 4 - begin) // FLIPS
    while data[place : place + 1].isspace():
        place += 1
    return data[:place] + bytes([data[place] ^ (1 << number % 7)]) + data[place + 1 :]
