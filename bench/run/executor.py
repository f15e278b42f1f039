"""Gives each cell a fresh process, owns its time limit, and names how it ended.

The process is the leader of a session of its own, and is waited for as a process: what it, or what
it has started, does with the pipe neither delays the verdict nor the end. Whatever it leaves
running is killed with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import msgspec

from bench.cells.cell import Cell
from bench.run import culprit, pipe, worker
from bench.run.blank import blank
from bench.run.endings import (
    Ending,
    bounded,
    classify_error,
    classify_exit,
    oom_kills,
    tail,
)
from bench.run.limited import limited_memory
from bench.run.server import context as _context
from bench.store.records import Record, decode
from bench.workloads.errors import InputError
from bench.workloads.sources import references_of, running

TIMEOUT_S = 600.0

Work = Callable[[bytes], bytes]

_EXIT_S = 10.0  # for a process to end by itself once it has answered
_MOST_NOTES = 100
_PR_SET_PDEATHSIG = 1  # of Linux's prctl

Kin = set[ForkServerProcess]

_alive: Kin = set()


def run(cell: Cell, timeout_s: float = TIMEOUT_S) -> Record:
    """Measure ``cell`` in a process of its own; every way to end is a record.

    Args:
        cell: checked (`bench.cells.cell.checked`).
        timeout_s: after which the process is killed and the status is ``timeout``.

    Raises:
        ValueError: the user's model, batch or loss is at fault; names the line.
    """
    answer = in_process(measure_cell, msgspec.json.encode(cell), timeout_s)
    if isinstance(answer, Ending):
        return blank(cell, answer.status, bounded(answer.reason + _whose(cell, answer)))
    try:
        record = decode(answer)
    except ValueError as error:
        return blank(cell, "crash", bounded(f"the process's answer is no record: {error}"))
    if (record.workload, record.spec, record.device) != (cell.workload, cell.spec, cell.device):
        return blank(cell, "crash", "the process's answer is the record of another cell")
    notes = [bounded(note) for note in record.notes[:_MOST_NOTES]]
    return msgspec.structs.replace(
        record, reason=record.reason and bounded(record.reason), notes=notes
    )


def _whose(cell: Cell, ending: Ending) -> str:
    """Whose model it was that a process ended with."""
    own = references_of(cell.make_workload())
    return f"; the model is of {own[0].path}" if own and ending.status == "crash" else ""


def in_process(
    work: Work,
    payload: bytes,
    timeout_s: float = TIMEOUT_S,
    preload: Sequence[str] = (),
    kin: Kin | None = None,
) -> bytes | Ending:
    """What ``work`` makes of ``payload`` in a process of its own, or how that process ended.

    Args:
        work: a function of a module, so that the process can find it.
        payload: its argument.
        timeout_s: after which the process is killed, with all that it has started.
        preload: modules that all processes share, where this is the first of them.
        kin: holds the process while it runs, for `end_all`; default: all that have no kin.

    Raises:
        ValueError: the user's model, batch or loss is at fault; names the line.
    """
    # They have no names: nothing is left of them, however this process ends.
    with _unnamed() as log, _unnamed() as place:
        kin = _alive if kin is None else kin
        files = log.fileno(), place.fileno()
        answer = _in_process(work, payload, files, timeout_s, preload=preload, kin=kin)
        file = running.told(place.fileno())
    if isinstance(answer, Ending) and answer.status in {"crash", "timeout"} and file:
        raise ValueError(f"{file}: {answer.reason} while its code ran")
    return answer


_unnamed = functools.partial(tempfile.TemporaryFile, prefix="ckpt-bench-")


def _in_process(
    work: Work,
    payload: bytes,
    files: tuple[int, int],
    timeout_s: float,
    *,
    preload: Sequence[str],
    kin: Kin,
) -> bytes | Ending:
    context = _context(preload)
    receiver, sender = context.Pipe(duplex=False)
    kills, key = oom_kills(), pipe.token()
    log, place = (Connection(os.dup(one), readable=False) for one in files)
    with receiver, sender, log, place:
        process = context.Process(target=child, args=(sender, key, work, payload, (log, place)))
        process.start()
        sender.close()
        kin.add(process)
        try:
            answer = _answer(process, pipe.Inbox(receiver.fileno(), key), timeout_s)
        except TimeoutError:
            return Ending("timeout", f"no result within {timeout_s:g} s")
        except pipe.JunkError as error:
            return Ending("crash", str(error))
        finally:
            _kill(process)  # at once: it may be using the cores and memory of the next cell
            kin.discard(process)
    if answer is None:
        return classify_exit(process.exitcode, oom_kills() - kills, tail(files[0]))
    return _opened(answer)


def _answer(process: ForkServerProcess, inbox: pipe.Inbox, timeout_s: float) -> bytes | None:
    """What the process sent; ``None`` if it ended without a word.

    Raises:
        TimeoutError: neither came in time.
        pipe.JunkError: something else came.
    """
    deadline_s = time.monotonic() + timeout_s
    sources = [inbox.descriptor, process.sentinel]
    while inbox.body is None:
        left_s = deadline_s - time.monotonic()
        ready = connection.wait(sources, left_s) if left_s > 0 else []
        if not ready:
            raise TimeoutError
        if inbox.descriptor in ready and not inbox.read():
            sources.remove(inbox.descriptor)  # closed, which says nothing about the process
        if process.sentinel in ready:
            inbox.read_all()
            return inbox.body
    process.join(min(_EXIT_S, max(0.0, deadline_s - time.monotonic())))
    return inbox.body


def _opened(answer: bytes) -> bytes | Ending:
    kind, _, body = answer.partition(b"\n")
    if kind == b"input":
        raise ValueError(body.decode())
    return body if kind == b"answer" else msgspec.json.decode(body, type=Ending)


def _kill(process: ForkServerProcess) -> None:
    """End a process and all that it has started, and see it gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(_pid(process), signal.SIGKILL)
    process.kill()  # it may not have been the leader of its group yet
    process.join(_EXIT_S)


def _pid(process: ForkServerProcess) -> int:
    assert process.pid is not None, "the process was started"
    return process.pid


def end_all(kin: Kin = _alive) -> None:
    """Kill the processes that other threads wait for: nobody wants their answers any more."""
    for process in list(kin):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(_pid(process), signal.SIGKILL)


# In the worker's process.


def child(
    sender: Connection,
    key: bytes,
    work: Work,
    payload: bytes,
    files: tuple[Connection, Connection],
) -> None:
    """Do the work and send the answer.

    What libraries print goes to the first of the files, and whose code runs to the second.
    """
    log, place = files
    os.setsid()
    _leave_the_server()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    running.tell(place.fileno())
    gc.freeze()  # modules are no garbage: every collection from here on takes no time
    gc.enable()  # which the server does not
    end_with_parent()
    try:
        message = b"answer\n" + work(payload)
    except InputError as error:
        message = b"input\n" + str(error).encode()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's result
        message = b"ending\n" + msgspec.json.encode(classify_error(error))
    pipe.send(sender.fileno(), key, message)


def _leave_the_server() -> None:
    """Close what would keep the server running when the parent has ended, a way to it included."""
    name, server = "_forkserver_alive_fd", forkserver._forkserver
    descriptor = getattr(server, name, None)
    if descriptor is not None:
        setattr(server, name, None)
        os.close(descriptor)


def measure_cell(payload: bytes) -> bytes:
    """The record of a cell, both as JSON."""
    cell = msgspec.json.decode(payload, type=Cell)
    with limited_memory(cell.memory_limit_bytes, cell.threads), culprit.named(cell):
        return msgspec.json.encode(worker.measure(cell))


def end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would read the answer.

    A thread sees it and ends all that this process has started, too. Where that thread cannot run,
    in a stopped process say, Linux ends this one with the server that it was forked from, which
    ends with the parent.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os.killpg(0, signal.SIGKILL)

    if parent is not None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=watch, daemon=True).start()
