"""What a process may do instead of answering: imported anew in each."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pkgutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import msgspec
import torch

from bench.cells.cell import Cell
from bench.run import executor
from bench.run.blank import blank
from bench.run.limited import limited_memory
from bench.simulate.errors import NeedsValueError
from bench.store import records
from strategies.storage import Disk, spool

HANG_S = 600


def answers(payload):
    return b"answered " + payload


def pipes():
    """Descriptors that are pipes and may be written to, the worker's own among them."""
    for link in list(Path("/proc/self/fd").iterdir()):
        number = int(link.name)
        try:
            is_pipe = stat.S_ISFIFO(os.fstat(number).st_mode)
            writable = os.get_blocking(number) and os.O_WRONLY & fcntl_flags(number)
        except OSError:
            continue
        if is_pipe and writable:
            yield number


def fcntl_flags(number):
    return fcntl.fcntl(number, fcntl.F_GETFL)


def tell(note):
    """Where the test looks: this process's id, once it is where it is meant to be."""
    Path(note.decode()).write_text(str(os.getpid()))


def hangs(payload):
    time.sleep(HANG_S)


def closes_the_pipe_and_hangs(payload):
    for number in list(pipes()):
        os.close(number)
    time.sleep(HANG_S)


def sends_half_a_header_and_hangs(payload):
    """As an answer begins: the key is its caller's."""
    key = sys._getframe(1).f_locals["key"]
    for number in pipes():
        os.write(number, key + b"\x00\x00\x00")
    time.sleep(HANG_S)


def sends_three_bytes(payload):
    for number in pipes():
        os.write(number, b"\x00\x00\x00")
    time.sleep(HANG_S)


def sends_junk(payload):
    for number in pipes():
        os.write(number, b"no answer at all " * 10)
    time.sleep(HANG_S)


def sends_a_length_that_is_none(payload):
    """As the standard library's own frames begin."""
    for number in pipes():
        os.write(number, b"\xff\xff\xff\xff" + b"\x7f" * 64)
    return b""


def sends_junk_for_ever(payload):
    targets = list(pipes())
    while True:
        for number in targets:
            os.write(number, b"junk" * 1000)


def dies_while_a_child_holds_the_pipe(payload):
    if os.fork() == 0:
        tell(payload)
        time.sleep(HANG_S)
    while not Path(payload.decode()).exists():
        time.sleep(0.01)
    ctypes.string_at(0)  # a segmentation fault


def answers_while_a_child_holds_the_pipe(payload):
    if os.fork() == 0:
        tell(payload)
        time.sleep(HANG_S)
    return b"an answer"


def hangs_with_a_child(payload):
    if os.fork() == 0:
        tell(payload)
    time.sleep(HANG_S)


def stops(payload):
    os.kill(os.getpid(), signal.SIGSTOP)


def ignores_every_signal(payload):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            continue
    time.sleep(HANG_S)


def kills_itself(payload):
    os.kill(os.getpid(), signal.SIGKILL)


def terminates_itself(payload):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(HANG_S)


def dies_of_a_real_time_signal(payload):
    os.kill(os.getpid(), signal.SIGRTMIN + 5)
    time.sleep(HANG_S)


def exits(payload):
    sys.exit(3)


def raises_fifty_megabytes(payload):
    raise RuntimeError("x" * 50_000_000)


def raises_control_characters(payload):
    raise RuntimeError("\x1b[2Jred \x00\udc80 \u202e end")


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no text")


def raises_what_has_no_text(payload):
    raise Unspeakable


def interrupts(payload):
    raise KeyboardInterrupt


def recurses(payload):
    return recurses(payload)


def writes_a_long_log_and_dies(payload):
    os.write(2, b"words " * 10**6 + b"\nthe last words\n")
    os._exit(4)


def answers_nothing(payload):
    return None


def answers_at_length(payload):
    return b"x" * 8_000_000


def connects_and_hangs(payload):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        time.sleep(HANG_S)


def answers_for_another(payload):
    cell = msgspec.structs.replace(msgspec.json.decode(payload, type=Cell), spec="sqrt")
    return records.encode(blank(cell, "ok"))


def answers_at_length_in_notes(payload):
    record = blank(msgspec.json.decode(payload, type=Cell), "mismatch", "x" * 5000)
    return records.encode(msgspec.structs.replace(record, notes=["y" * 2000] * 200))


def needs_a_value(payload):
    raise NeedsValueError("it needs the value of a tensor")


def _rests(directory):
    """A boundary on disk."""
    return Disk(directory=directory).put(torch.arange(1000.0))


def is_killed_with_a_boundary_away(payload):
    handle = _rests(payload.decode())
    os.kill(os.getpid(), signal.SIGKILL)
    return handle


def is_killed_with_a_named_boundary_away(payload):
    spool._most_open = lambda: 0
    is_killed_with_a_boundary_away(payload)


def holds_a_named_boundary_and_hangs(payload):
    spool._most_open = lambda: 0
    handle = _rests(payload.decode())
    time.sleep(HANG_S)
    return handle


def needs_more_than_its_limit(payload):
    """Two megabytes above what the process holds; then the 64 that did not fit."""
    size = 64_000_000
    try:
        with limited_memory(2_000_000, 1):
            bytes(size)
    except MemoryError:
        return b"%d" % len(bytes(size))


def sees_no_modules(payload):
    """A folder that cannot be read, for want of memory say, looks empty to who lists modules."""
    pkgutil.iter_modules = lambda *_: iter(())
    return executor.measure_cell(payload)
