"""Every way in which a process can end has its name."""

import errno
from unittest.mock import ANY

import pytest
import torch

from bench.run import endings
from bench.run.endings import Ending, classify_error, classify_exit
from strategies import Unsupported

BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'"
NO_TLS = "cannot allocate memory for thread-local data: ABORT"
NORMALIZING = (
    "Fatal Python error: _PyErr_NormalizeException: Cannot recover from MemoryErrors while"
    " normalizing exceptions."
)


@pytest.mark.parametrize(
    ("exit_code", "oom_kills", "log", "ending"),
    [
        (-9, 1, "", Ending("oom", "the kernel killed the process: the machine ran out of memory")),
        (-9, 0, "", Ending("crash", "the process ended with signal SIGKILL")),
        (-6, 1, "why", Ending("crash", "the process ended with signal SIGABRT: why")),
        (1, 0, "a | b", Ending("crash", "the process ended with exit code 1: a | b")),
        (0, 0, "", Ending("crash", "the process ended with exit code 0")),
        (1, 0, "in child | MemoryError", Ending("oom", "MemoryError")),
        (1, 0, "MemoryError | then", Ending("crash", ANY)),
        (-6, 0, f"{BAD_ALLOC} |   what():  std::bad_alloc", Ending("oom", BAD_ALLOC)),
        (127, 0, f"python: {NO_TLS}", Ending("oom", f"python: {NO_TLS}")),
        (-6, 0, f"{NORMALIZING} | a | b", Ending("oom", NORMALIZING)),
        (-6, 0, "Fatal Python error: Aborted | memory", Ending("crash", ANY)),
    ],
)
def test_classify_exit(exit_code, oom_kills, log, ending):
    assert classify_exit(exit_code, oom_kills, log) == ending


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Unsupported("sqrt: not here"), "unsupported", "sqrt: not here"),
        (MemoryError(), "oom", "MemoryError"),
        (MemoryError("unable to allocate"), "oom", "unable to allocate"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "oom", "CUDA out of memory. T"),
        (RuntimeError(f"{ALLOCATOR}: you tried to allocate 8 bytes. Error 12"), "oom", "[enforce"),
        (RuntimeError("CUDA error: out of memory\nmore"), "oom", "CUDA error"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom", "[Errno 12]"),
        (OSError(errno.ENOSPC, "out of memory"), "crash", "OSError at"),
        (torch._dynamo.exc.BackendCompilerFailed("x", MemoryError("no"), None), "oom", "backend="),
        # The words alone are another error's.
        (RuntimeError(f"{ALLOCATOR} is what it says"), "crash", "RuntimeError at"),
        (RuntimeError("the cache is out of memory of it"), "crash", "RuntimeError at"),
        (RuntimeError("caught std::bad_alloc earlier"), "crash", "RuntimeError at"),
        (ValueError("CUDA out of memory. Tried to allocate"), "crash", "ValueError at"),
        (NotImplementedError("std::bad_alloc"), "crash", "NotImplementedError at"),
        (RuntimeError("std::bad_alloc"), "oom", "std::bad_alloc"),
        (ValueError("no memory of it"), "crash", "ValueError at test_endings.py:"),
    ],
)
def test_classify_error(error, status, reason):
    with pytest.raises(type(error)) as caught:
        raise error
    ending = classify_error(caught.value)
    assert ending.status == status
    assert ending.reason.startswith(reason)
    assert "\n" not in ending.reason


def test_the_log_keeps_its_last_lines(tmp_path):
    with (tmp_path / "log").open("w+b", buffering=0) as log:
        assert endings.tail(log.fileno()) == ""
        log.write(b"one\ntwo\n\xff three\n")
        assert endings.tail(log.fileno()) == "two | \ufffd three"
        log.write(b"x" * 10**6 + b"\nlast")  # however long it is, its end alone is read
        assert endings.tail(log.fileno()).endswith("x | last")
        assert len(endings.tail(log.fileno())) < 10**5
        frames = b"".join(b"frame #%d: void at::f() + 0x1a (lib.so)\n" % n for n in range(9))
        log.write(b"\nterminate called\n  what():  timeout\nException raised\n" + frames)
        said = "terminate called |   what():  timeout | Exception raised"
        assert endings.tail(log.fileno(), 4) == said  # what C++ says, not where


def test_an_error_of_who_handles_out_of_memory_is_out_of_memory():
    error = KeyError("absent")
    error.__context__ = MemoryError()
    assert classify_error(error) == Ending("oom", "MemoryError; then KeyError: 'absent'")


def test_words_of_a_dying_interpreter_are_first(tmp_path):
    path = tmp_path / "log"
    path.write_text("before\nFatal Python error: why\n" + "  a stack\n" * 9 + "last\n")
    with path.open() as log:
        said = endings.tail(log.fileno())
    assert said == "Fatal Python error: why |   a stack | last"
