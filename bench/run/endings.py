"""How a process ended that gave no answer, in one bounded sentence."""

from __future__ import annotations

import os
import re
import signal
import traceback
from pathlib import Path

import msgspec

from bench.store.parts import Status
from strategies import Unsupported
from strategies.profiling.oom import is_out_of_memory

MOST_CHARACTERS = 1000
"""Of a reason or a note: what strategies and libraries say has no bound of its own."""
_TAIL_BYTES = 1 << 14
_NEXT_LINE = " | "
_FRAME = re.compile(r"frame #\d+: ")
"""Of C++, which libraries print below what they have to say."""
_FATAL = re.compile(r"Fatal Python error: ")
"""What the interpreter prints above the stacks of its threads."""
_OUT_OF_MEMORY = re.compile(
    r"(?:\A|\| )"
    r"(terminate called after throwing an instance of 'std::bad_alloc'"
    r"|[^|]*\bcannot allocate memory for thread-local data: ABORT"
    r"|libgomp: Out of memory\b[^|]*"
    r"|Fatal Python error: [^|]*\b[Mm]emory[^|]*"
    r"|MemoryError(?:: [^|]*)?\Z)"
)
"""Last words of a process that no exception could leave: an allocation failed."""


class Ending(msgspec.Struct, frozen=True):
    """How a cell ended that was not measured."""

    status: Status
    reason: str


def bounded(text: str) -> str:
    """``text`` as one printable line of at most `MOST_CHARACTERS`, its beginning kept."""
    head = text[: MOST_CHARACTERS + 1]  # the rest is not even looked at
    line = "".join(c if c.isprintable() else "�" if c >= "\x80" else " " for c in head)
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"


def classify_exit(exit_code: int | None, oom_kills: int, log: str) -> Ending:
    """Name the end of a process that died without an answer.

    Args:
        exit_code: negative for a signal, as ``multiprocessing`` gives it.
        oom_kills: how many processes the kernel killed for memory meanwhile.
        log: the last lines that the process wrote.
    """
    if exit_code == -signal.SIGKILL and oom_kills:
        return Ending("oom", "the kernel killed the process: the machine ran out of memory")
    if said := _OUT_OF_MEMORY.search(log):
        return Ending("oom", bounded(said[1].strip()))
    how = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"signal {_signal_name(-exit_code)}"
    text = f"the process ended with {how}" + (f": {log}" if log else "")
    return Ending("crash", bounded(text))


def _signal_name(number: int) -> str:
    """A real-time signal has a number alone."""
    known = {one.value: one.name for one in signal.Signals}
    return known.get(number, str(number))


def classify_error(error: BaseException) -> Ending:
    """Name an exception that ended a measurement."""
    text = _text(error)
    first = text.partition("\n")[0]
    if isinstance(error, Unsupported):
        return Ending("unsupported", bounded(text))
    if is_out_of_memory(error):
        return Ending("oom", bounded(first or type(error).__name__))
    if error.__context__ is not None and is_out_of_memory(error.__context__):
        cause = classify_error(error.__context__).reason
        return Ending("oom", bounded(f"{cause}; then {type(error).__name__}: {first}"))
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Ending("crash", bounded(f"{type(error).__name__} at {where}: {first}"))


def _text(error: BaseException) -> str:
    """What an exception says, if it can be made to."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a strategy's own exception may do anything
        return "(its text cannot be made)"


def oom_kills() -> int:
    """How many processes this machine's kernel has killed for memory (Linux; else 0)."""
    counters = Path("/proc/vmstat")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def tail(descriptor: int, lines: int = 3) -> str:
    """The last lines of an open file, however long it is, and what the interpreter died of.

    Frames of C++ are no lines.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    said = [line for line in data.decode(errors="replace").split("\n") if not _FRAME.match(line)]
    fatal = [line for line in said[:-lines] if _FATAL.match(line)]
    return _NEXT_LINE.join([*fatal, *said[-lines:]]).strip(" |")
