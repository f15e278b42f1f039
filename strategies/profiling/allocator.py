"""What an allocator gave out, kernels' scratch memory included, between named moments."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch._C._autograd import _enable_profiler
from torch._C._profiler import RecordScope
from torch.autograd.profiler import profile, record_function

from strategies.profiling.quiet import silenced

_PREFIX = "ckpt-bench: "
_GONE = "gone: "
_CPU = torch._C._autograd.DeviceType.CPU

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
        _mark(name)

    def follow(self, storages: Iterable[torch.UntypedStorage]) -> None:
        """See these end, too: of what was there before, the CPU's allocator does not tell it."""
        if self.kind is _CPU:
            self.stack.enter_context(followed(storages))

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
        self._read(recorder.kineto_results)

    def _read(self, recorded: Any) -> None:
        marks = _marks(recorded)
        is_cpu = self.kind is _CPU
        events = _of_cpu(recorded, marks) if is_cpu else _events(recorded, self.kind)
        self.times_ns = [at for at, _ in events]
        self.alive = [0, *itertools.accumulate(size for _, size in events)]
        self.moments_ns = dict(marks)

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


@contextlib.contextmanager
def followed(storages: Iterable[torch.UntypedStorage]) -> Iterator[None]:
    """See the ends of some of the CPU's memory in the trace that runs; see `cpu_events`."""
    names = ((storage, f"{_GONE}{storage.nbytes()}") for storage in storages)
    ends = [weakref.finalize(storage, _mark, name) for storage, name in names]
    del storages, names
    for end in ends:
        end.atexit = False
    try:
        yield
    finally:
        for end in ends:
            end.detach()


def _mark(name: str) -> None:
    with record_function(_PREFIX + name):
        pass


def cpu_events(recorded: Any) -> list[tuple[int, int]]:
    """When memory of the CPU was given out, and when the same was returned, by its address.

    Of what was there before a trace, the CPU's allocator tells the end only if it saw another
    tensor at that address once, and then as of that: only those that were `followed` have one here.

    Args:
        recorded: ``kineto_results`` of the profiler.

    Returns:
        Nanoseconds and bytes, negative for a return, in the order of time.
    """
    return _of_cpu(recorded, _marks(recorded))


def _marks(recorded: Any) -> list[tuple[str, int]]:
    """The names of moments, and when they were; a step has thousands of events to look at."""
    named = ((event.name(), event) for event in recorded.events())
    return [
        (name.removeprefix(_PREFIX), event.start_ns())
        for name, event in named
        if name.startswith(_PREFIX)
    ]


def _of_cpu(recorded: Any, marks: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    ends = [(at, -int(name.removeprefix(_GONE))) for name, at in marks if name.startswith(_GONE)]
    return sorted([*_of_new(recorded.experimental_event_tree()), *ends])


def _of_new(tree: Sequence[Any]) -> Iterator[tuple[int, int]]:
    told = [event for event in _all_events(tree) if _is_of_cpu(event.extra_fields)]
    new: set[int] = set()
    for event in sorted(told, key=lambda one: one.start_time_ns):
        address, size_bytes = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size_bytes > 0:
            new.add(address)
        elif address not in new:
            continue
        else:
            new.remove(address)
        yield event.start_time_ns, size_bytes


def _events(recorded: Any, kind: Any) -> list[tuple[int, int]]:
    """As the allocator of CUDA tells them: all, and truly."""
    return sorted(
        (event.start_ns(), event.nbytes())
        for event in recorded.events()
        if event.name() == "[memory]" and event.device_type() == kind
    )


def _is_of_cpu(fields: Any) -> bool:
    return hasattr(fields, "alloc_size") and fields.device.type == "cpu"


def _all_events(tree: Sequence[Any]) -> Iterator[Any]:
    for event in tree:
        yield event
        yield from _all_events(event.children)


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
