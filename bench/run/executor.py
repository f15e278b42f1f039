"""Gives each cell a fresh process, owns its time limit, and names how it ended."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import msgspec
import torch

from bench.cells.cell import Cell
from bench.run import worker
from bench.run.blank import blank
from bench.simulate.errors import NeedsValueError
from bench.store.parts import Status
from bench.store.records import Record, decode
from strategies import Unsupported
from strategies.profiling.oom import is_out_of_memory

TIMEOUT_S = 600.0

Work = Callable[[bytes], bytes]

_EXIT_S = 10.0  # for a process to end by itself once it has answered
_GRAIN = 1 << 15  # elements that PyTorch gives a thread at least


class Ending(msgspec.Struct, frozen=True):
    """How a cell ended that was not measured."""

    status: Status
    reason: str


def run(cell: Cell, timeout_s: float = TIMEOUT_S) -> Record:
    """Measure ``cell`` in a process of its own; every way to end is a record.

    Args:
        cell: checked (`bench.cells.cell.checked`).
        timeout_s: after which the process is killed and the status is ``timeout``.

    Raises:
        ValueError: the model cannot be simulated because it needs a tensor's value.
    """
    answer = in_process(measure_cell, msgspec.json.encode(cell), timeout_s)
    if isinstance(answer, Ending):
        return blank(cell, answer.status, answer.reason)
    return decode(answer)


def in_process(
    work: Work, payload: bytes, timeout_s: float = TIMEOUT_S, preload: Sequence[str] = ()
) -> bytes | Ending:
    """What ``work`` makes of ``payload`` in a process of its own, or how that process ended.

    Args:
        work: a function of a module, so that the process can find it.
        payload: its argument.
        timeout_s: after which the process is killed.
        preload: modules that all processes share, where this is the first of them.

    Raises:
        ValueError: the model cannot be simulated because it needs a tensor's value.
    """
    with tempfile.TemporaryDirectory(prefix="ckpt-bench-") as folder:
        return _in_process(work, payload, Path(folder) / "log", timeout_s, preload)


def _in_process(
    work: Work, payload: bytes, log: Path, timeout_s: float, preload: Sequence[str]
) -> bytes | Ending:
    context = _context(preload)
    receiver, sender = context.Pipe(duplex=False)
    kills = _oom_kills()
    process = context.Process(target=child, args=(sender, work, payload, str(log)))
    process.start()
    sender.close()
    try:
        with receiver:
            answer = _answer(receiver, timeout_s)
    except TimeoutError:
        return Ending("timeout", f"no result within {timeout_s:g} s")
    except EOFError:
        process.join()
        return classify_exit(process.exitcode, _oom_kills() - kills, _tail(log))
    else:
        process.join(_EXIT_S)
        return answer
    finally:
        process.kill()  # at once: it may be using the cores and memory of the next cell
        process.join()


def _context(preload: Sequence[str]) -> ForkServerContext:
    # Threads that spin while they wait make a step many times slower as soon as any other process
    # wants a core; the server that all cells are forked from reads this when it starts.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("forkserver")
    # Imported once; starts no threads. The first checkpoint imports torch._dynamo, a second's work.
    context.set_forkserver_preload(["bench.run.worker", "torch._dynamo", *preload])
    return context


def _answer(receiver: Connection, timeout_s: float) -> bytes | Ending:
    if not receiver.poll(timeout_s):
        raise TimeoutError
    kind, _, body = receiver.recv_bytes().partition(b"\n")
    if kind == b"input":
        raise ValueError(body.decode())
    return body if kind == b"answer" else msgspec.json.decode(body, type=Ending)


def classify_exit(exit_code: int | None, oom_kills: int, log: str) -> Ending:
    """Name the end of a process that died without an answer.

    Args:
        exit_code: negative for a signal, as ``multiprocessing`` gives it.
        oom_kills: how many processes the kernel killed for memory meanwhile.
        log: the last lines that the process wrote.
    """
    if exit_code == -signal.SIGKILL and oom_kills:
        return Ending("oom", "the kernel killed the process: the machine ran out of memory")
    how = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"signal {signal.Signals(-exit_code).name}"
    return Ending("crash", f"the process ended with {how}" + (f": {log}" if log else ""))


def classify_error(error: BaseException) -> Ending:
    """Name an exception that ended a measurement."""
    text = str(error)
    if isinstance(error, Unsupported):
        return Ending("unsupported", text)
    if is_out_of_memory(error):
        return Ending("oom", text.partition("\n")[0] or type(error).__name__)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Ending("crash", f"{type(error).__name__} at {where}: {text.partition(chr(10))[0]}")


def _oom_kills() -> int:
    """How many processes this machine's kernel has killed for memory (Linux; else 0)."""
    counters = Path("/proc/vmstat")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _tail(log: Path, lines: int = 3) -> str:
    if not log.exists():
        return ""
    return " | ".join(log.read_text(errors="replace").split("\n")[-lines:]).strip(" |")


# In the worker's process.


def child(sender: Connection, work: Work, payload: bytes, log: str) -> None:
    """Do the work and send the answer; what libraries print goes to ``log``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    gc.freeze()  # modules are no garbage: every collection from here on takes no time
    end_with_parent()
    try:
        message = b"answer\n" + work(payload)
    except NeedsValueError as error:
        message = b"input\n" + str(error).encode()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's result
        message = b"ending\n" + msgspec.json.encode(classify_error(error))
    sender.send_bytes(message)


def measure_cell(payload: bytes) -> bytes:
    """The record of a cell, both as JSON."""
    cell = msgspec.json.decode(payload, type=Cell)
    if cell.memory_limit_bytes is not None:
        _start_threads(cell.threads)
        limit_memory(cell.memory_limit_bytes)
    return msgspec.json.encode(worker.measure(cell))


def end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would read the answer."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def _start_threads(count: int) -> None:
    """Start PyTorch's threads: under a limit, their stacks might not fit, and OpenMP would exit."""
    torch.set_num_threads(count)
    torch.ones(2 * count * _GRAIN).neg_()


def limit_memory(limit_bytes: int) -> None:
    """Let this process allocate no more than ``limit_bytes`` above what it holds (Linux)."""
    import resource  # noqa: PLC0415 - not on every system

    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmData"))
    limit = int(line.split()[1]) * 1024 + limit_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
