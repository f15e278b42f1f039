"""What an allocator gave out, kernels' scratch memory included, between named moments."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch._C._autograd import _enable_profiler
from torch._C._profiler import RecordScope
from torch.autograd.profiler import profile, record_function

from strategies.profiling.quiet import silenced

_PREFIX = "ckpt-bench: "


SEEN = ("cpu", "cuda")
"""Kinds of device whose allocators tell the profiler."""


class AllocatorTrace:
    """Allocator events of a device, as the profiler saw them; by default of the CPU.

    A tensor of the operators' own is in the ledger too; a kernel's scratch memory, taken and
    returned inside one call, is here alone. An allocator of CUDA counts whole blocks.

    Args:
        kind: of the device, one of `SEEN`.
    """

    def __init__(self, kind: str = "cpu") -> None:
        self.kind = getattr(torch._C._autograd.DeviceType, kind.upper())
        self.stack = contextlib.ExitStack()
        self.recorder: profile | None = None
        self.times_ns: list[int] = []
        self.alive: list[int] = []
        self.moments_ns: dict[str, int] = {}

    def __enter__(self) -> AllocatorTrace:
        """Begin."""
        self.stack.enter_context(silenced())
        with profiler():
            pass  # the first one in a process misses events
        recorder = _OfAllocators(use_kineto=True, profile_memory=True)
        self.recorder = self.stack.enter_context(recorder)
        return self

    def mark(self, name: str) -> None:
        """Name this moment."""
        with record_function(_PREFIX + name):
            pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and read; the profiler's own trace is given up."""
        recorder: Any = self.recorder
        self.recorder = None
        self.stack.__exit__(kind, error, traceback)
        self._read(recorder.kineto_results.events())

    def _read(self, recorded: Sequence[Any]) -> None:
        """All events, each looked at once: a step has thousands."""
        events: list[tuple[int, int]] = []
        for event in recorded:
            name = event.name()
            if name == "[memory]" and event.device_type() == self.kind:
                events.append((event.start_ns(), event.nbytes()))
            elif name.startswith(_PREFIX):
                self.moments_ns[name.removeprefix(_PREFIX)] = event.start_ns()
        events.sort()
        self.times_ns = [at for at, _ in events]
        self.alive = [0, *itertools.accumulate(size for _, size in events)]

    def working_bytes(self, begin: str, end: str) -> int:
        """Most given out between two moments, above what was given out at the first."""
        first, last = self._at(begin), self._at(end)
        return max(self.alive[first : last + 1]) - self.alive[first]

    def above_bytes(self, start: str, begin: str, end: str) -> int:
        """Most given out between two moments, above what was given out at a third."""
        return self.working_bytes(begin, end) + self.gained_bytes(start, begin)

    def gained_bytes(self, begin: str, end: str) -> int:
        """Given out at the second moment, above what was given out at the first."""
        return self.alive[self._at(end)] - self.alive[self._at(begin)]

    def _at(self, name: str) -> int:
        return bisect.bisect_right(self.times_ns, self.moments_ns[name])


def give_back() -> None:
    """What the C library has free, to the system: it keeps it else, in pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def profiler() -> profile:
    """PyTorch's, of operators and of what allocators give out.

    It is read from ``kineto_results``: what `torch.profiler.profile` makes of it, a Python object
    an event, takes longer than the step.
    """
    return profile(use_kineto=True, profile_memory=True)


class _OfAllocators(profile):
    """Records what allocators give out, and marks; operators would take 100 MB a step."""

    def _start_trace(self) -> None:
        self.entered = True
        config = self.config()  # type: ignore[no-untyped-call]
        scopes = {RecordScope.USER_SCOPE}
        _enable_profiler(config, self.kineto_activities, scopes)  # type: ignore[call-arg]
