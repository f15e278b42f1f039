"""A whole step under the ledger, with its moments by name: when each block begins and ends."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from strategies.execution import randoms
from strategies.execution.chain import Chain
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import Ledger, Mark
from strategies.profiling.rates import Rates
from strategies.profiling.saved import check_all_ran, hooks
from strategies.profiling.spans import Spans
from strategies.profiling.standing import settle, standing
from strategies.profiling.step import ExampleStep, Step
from strategies.schedules.modes import PS


@dataclasses.dataclass
class Watched:
    """A step's ledger, its moments by name."""

    ledger: Ledger
    resident_bytes: int
    group_bytes: int
    allocator: AllocatorTrace | None

    def at(self, name: str) -> Mark:
        """The moment of that name."""
        return next(mark for mark in self.ledger.marks if mark.name == name)

    def next(self, index: int) -> str:
        """The moment at which what follows block ``index`` is over: code between blocks is its."""
        name = f"enter {index + 1}"
        return name if any(mark.name == name for mark in self.ledger.marks) else f"leave {index}"

    def working_bytes(self, begin: str, end: str) -> int:
        """Most alive between two moments, above what was alive at the first."""
        start = self.at(begin)
        tensors_bytes = self.ledger.peak_bytes(start, self.at(end)) - start.alive_bytes
        if self.allocator is None:
            return tensors_bytes
        return max(tensors_bytes, self.allocator.working_bytes(begin, end))

    def again_working_bytes(self, index: int) -> int:
        """Most alive in the recompute of a block's group alone; 0: there was none."""
        begin, end = f"backward {index}", f"recomputed {index}"
        there = any(mark.name == end for mark in self.ledger.marks)
        return self.working_bytes(begin, end) if there else 0

    def reaches(self, index: int) -> bool:
        """Whether a gradient comes to a block."""
        return self.at(f"backward {index}").event < self.at(after(index)).event

    def untracked_bytes(self) -> int:
        """What forward leaves that no operator made: plain numbers that a graph keeps."""
        if self.allocator is None:
            return 0
        span = ("start", "forward done")
        return max(0, self.allocator.gained_bytes(*span) - self.gained_bytes(*span))

    def gained_bytes(self, begin: str, end: str) -> int:
        """Alive at the second moment, above what was alive at the first."""
        return self.at(end).alive_bytes - self.at(begin).alive_bytes

    def seconds(self, begin: str, end: str) -> float:
        """Time between two moments, by the ledger's rates."""
        return (self.at(end).time_ps - self.at(begin).time_ps) / PS

    def recompute_s(self, begin: str, end: str) -> float:
        """The part of it that repeats forward work."""
        return (self.at(end).recompute_ps - self.at(begin).recompute_ps) / PS

    def flops(self, begin: str, end: str) -> int:
        """FLOPs between two moments."""
        return self.at(end).flops - self.at(begin).flops

    def recompute_flops(self, begin: str, end: str) -> int:
        """The part of them that repeats forward work."""
        return self.at(end).recompute_flops - self.at(begin).recompute_flops


def after(index: int) -> str:
    """The moment at which backward of block ``index`` is over."""
    return f"backward {index - 1}" if index else "backward of the head"


def watch_step(
    step: Step,
    chain: Chain,
    ledger: Ledger,
    trace: AllocatorTrace | None = None,
    *,
    sees: bool = True,
) -> Watched:
    """Watch one step.

    Args:
        step: its gradients are dropped, before and after.
        chain: the blocks whose beginnings and ends are marked.
        ledger: that watches, and is read afterwards.
        trace: of a real device's allocator.
        sees: the ledger sees the operators; else the trace alone counts. Under a mode that sees
            them PyTorch computes some gradients by other formulas, which write to nothing in place.

    Raises:
        Unsupported: a block did not run.
    """
    settle(step)
    step.drop_gradients()
    moments = _Moments(len(chain), ledger, trace)
    ledger.recomputed = moments.recomputed
    with hooks(chain, moments.enter, moments.leave), trace or contextlib.nullcontext():
        if isinstance(step, ExampleStep):
            step.renew_output()  # the allocator tells no death of what was born before the trace
        resident_bytes = ledger.adopt(step.resident_tensors())
        storages = standing(step)
        if trace is not None:
            trace.follow(storages)
        resident_bytes += ledger.adopt_storages(storages)
        before = list(map(weakref.ref, storages))
        del storages
        with ledger if sees else contextlib.nullcontext():
            _run(step, moments)
    check_all_ran([f"enter {index}" in moments.seen for index in range(len(chain))])
    group_bytes = torch.get_rng_state().nbytes
    if any(one() is None for one in before):
        step.renews = True  # type: ignore[attr-defined]
    step.drop_gradients()
    return Watched(ledger, resident_bytes, group_bytes, trace)


class _Moments:
    """Marks where blocks begin and end, each moment once: a recompute enters a block again."""

    def __init__(self, count: int, ledger: Ledger, trace: AllocatorTrace | None) -> None:
        self.count, self.ledger, self.trace = count, ledger, trace
        self.seen: set[str] = set()
        self.spans = Spans()
        self.reached = count

    def mark(self, name: str) -> None:
        """This moment, if it is the first of that name."""
        if name not in self.seen:
            self.seen.add(name)
            self.ledger.mark(name)
            if self.trace is not None:
                self.trace.mark(name)

    def reach(self, index: int) -> None:
        """A gradient is at a block; at those behind it that have not seen one, none will be."""
        self.reached = index
        for later in reversed(range(index, self.count)):
            self.mark(f"backward {later}")

    def recomputed(self) -> None:
        """A block has run again, and its backward begins."""
        self.mark(f"recomputed {self.reached}")

    def enter(self, index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        """A block's forward begins."""
        del others
        if index == 0 and boundary.requires_grad and "enter 0" not in self.seen:
            boundary.register_hook(lambda _: self.mark("backward of the head"))
        self.spans.enter()
        self.mark(f"enter {index}")

    def leave(self, index: int, output: Tensor) -> None:
        """It ends."""
        if output.requires_grad and f"leave {index}" not in self.seen:
            output.register_hook(lambda _: self.reach(index))
        self.spans.leave(index)
        self.mark(f"leave {index}")


def _run(step: Step, moments: _Moments) -> None:
    mark = moments.mark
    mark("start")
    loss = step.forward()
    moments.spans.tell(loss, moments.reach)
    mark("forward done")
    step.backward(loss)
    moments.reach(0)  # the first ones have seen none, if no gradient comes to them
    mark("backward of the head")
    del loss
    mark("end")
    step.update()
    mark("updated")


@dataclasses.dataclass(frozen=True)
class How:
    """What to watch a step with.

    Attributes:
        rates: that times are taken from.
        scratch: the kind of device whose allocator shows scratch memory, if any does.
    """

    rates: Rates
    scratch: str | None

    def watch(self, step: Step, chain: Chain) -> Watched:
        """One step."""
        return watch_step(step, chain, Ledger(self.rates), self.trace())

    def watch_twice(self, step: Step, chain: Chain) -> tuple[Watched, list[int]]:
        """One step; and by block what its backward needs more where no mode sees its operators.

        The second runs from the same random states: layers may be dropped at random.
        """
        trace = self.trace()
        if trace is None:
            return self.watch(step, chain), [0] * len(chain)
        shared = randoms.Shared(full=True)
        with torch.random.fork_rng():
            normal = self.watch(step, chain)
        shared.restore()
        watch_step(step, chain, Ledger(), trace, sees=False)
        spans = [(f"backward {index}", after(index)) for index in range(len(chain))]
        more = (trace.working_bytes(*span) - normal.working_bytes(*span) for span in spans)
        return normal, [max(0, more_bytes) for more_bytes in more]

    def trace(self) -> AllocatorTrace | None:
        """What sees scratch memory, where anything does."""
        return AllocatorTrace(self.scratch) if self.scratch else None
