"""Transfers that overlap with compute, and leave no doubt about which bytes are alive.

One parcel leaves at a time, and one comes at a time (as POFO assumes: Beaumont, Eyraud-Dubois and
Shilova 2021, NeurIPS, §3): a boundary, or all that a block keeps for elsewhere. One that leaves
stays alive until the next one leaves, or the chain's forward ends; there compute waits for the
transfer. In backward, when a parcel is fetched, the one that left before it is called for, and is
alive from then on. So what is alive depends on the order of blocks alone, never on how fast the
link is.

On a CPU transfers run on a thread; on an accelerator, on a stream of their own.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from strategies.storage.tiers import Remote, Tier


class Transfer(Protocol):
    """A copy on its way."""

    def wait(self) -> None:
        """Compute goes on when it is complete; raises what went wrong."""

    def end(self) -> None:
        """As `wait`, whatever became of it: nobody wants it any more."""


@dataclasses.dataclass(frozen=True)
class Link:
    """Starts transfers, which run in the order of their start."""

    def start(self, near: Tensor, job: Callable[[], None]) -> Transfer:
        """Run ``job``, which copies from or to ``near``, beside the compute of its device."""
        if near.device.type == "cpu":
            return OnThread(_thread(os.getpid()).submit(_run_and_forget, [job]))
        return OnStream.start(near.device, job)


@functools.cache
def _thread(pid: int) -> concurrent.futures.Executor:
    """One for each process: a fork has none of its parent's threads."""
    return concurrent.futures.ThreadPoolExecutor(1, f"boundaries of {pid}")


def _run_and_forget(box: list[Callable[[], None]]) -> None:
    # Once the result is there, nothing here may keep the tensor: not even the executor's arguments.
    box.pop()()


@dataclasses.dataclass
class OnThread:
    """A copy on the thread; forgotten once it is over.

    An error holds the frames that it went through, and they hold the graph, which holds this.
    """

    future: concurrent.futures.Future[None] | None

    def wait(self) -> None:
        """Block."""
        future, self.future = self.future, None
        if future is not None:
            future.result()

    def end(self) -> None:
        """Block."""
        if self.future is not None:
            concurrent.futures.wait([self.future])


@dataclasses.dataclass(frozen=True)
class OnStream:
    """A copy on the device's side stream. Its memory is freed only after compute has waited.

    So ``record_stream`` is not needed, under which memory would be free at no certain moment.
    """

    device: torch.device
    done: torch.Event

    @classmethod
    def start(cls, device: torch.device, job: Callable[[], None]) -> OnStream:
        """Once the compute issued so far is done, run ``job`` on the side stream."""
        side = _side_stream(device)
        side.wait_stream(torch.accelerator.current_stream(device))
        with side:
            job()
        return cls(device, side.record_event())

    def wait(self) -> None:
        """Later compute on the current stream waits; the host does not."""
        torch.accelerator.current_stream(self.device).wait_event(self.done)

    def end(self) -> None:
        """The same."""
        self.wait()


@functools.cache
def _side_stream(device: torch.device) -> torch.Stream:
    return torch.Stream(device=device)


class Parcel:
    """Tensors that left together: the handle that autograd keeps.

    Attributes:
        handles: of the tier, one a tensor.
        sent: its way out.
        earlier: the one that left before it in the same forward, if it is still wanted.
        coming: room on the device, and the way back, if it was called for.
        fetches: how many backwards fetched it.
    """

    def __init__(
        self, handles: Sequence[Any], sent: Transfer, earlier: weakref.ref[Parcel] | None
    ) -> None:
        self.handles, self.sent, self.earlier = handles, sent, earlier
        self.coming: tuple[list[Tensor], Transfer] | None = None
        self.fetches = 0

    def __del__(self) -> None:
        """Nothing is freed, and no file removed, under a copy that still runs."""
        self.sent.end()
        if self.coming is not None:
            self.coming[1].end()

    def next_wanted(self) -> Parcel | None:
        """The earlier one, if this backward has neither fetched it nor called for it."""
        earlier = None if self.earlier is None else self.earlier()
        if earlier is None or earlier.coming is not None or earlier.fetches >= self.fetches:
            return None
        return earlier


class _Traffic:
    """What leaves now, and who left last. A copy of a model starts with a free road."""

    def __init__(self) -> None:
        self.leaving: tuple[list[Tensor], Transfer] | None = None
        self.last: weakref.ref[Parcel] | None = None

    def __reduce__(self) -> tuple[type[_Traffic], tuple[()]]:
        return _Traffic, ()


@dataclasses.dataclass(frozen=True)
class Overlapped(Tier):
    """Another tier, its transfers overlapped with compute; for one forward at a time.

    Attributes:
        tier: where boundaries rest.
        link: what starts transfers.
    """

    name: ClassVar[str] = "overlapped"
    tier: Remote
    link: Link = dataclasses.field(default_factory=Link)
    traffic: _Traffic = dataclasses.field(default_factory=_Traffic, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.tier}, overlapped"

    def put(self, tensor: Tensor) -> Parcel:
        """Wait until the last one has left, and send this one."""
        return self.put_all((tensor,))

    def get(self, handle: Parcel) -> Tensor:
        """Wait until it is there, and call for the one that left before it."""
        return self.get_all(handle)[0]

    def put_all(self, tensors: Sequence[Tensor]) -> Parcel:
        """As `put`, in one parcel of the same device."""
        self._wait_for_leaving()
        packed = list(map(self.tier.packed, tensors))
        handles = list(map(self.tier.reserve, packed))
        job = functools.partial(_each, self.tier.send, packed, handles)
        sent = self.link.start(packed[0], job)
        parcel = Parcel(handles, sent, self.traffic.last)
        self.traffic.leaving, self.traffic.last = (packed, sent), weakref.ref(parcel)
        return parcel

    def get_all(self, handle: Parcel) -> list[Tensor]:
        """As `get`, of a parcel."""
        self._wait_for_leaving()
        handle.fetches += 1
        rooms, coming = handle.coming or self._call_for(handle)
        handle.coming = None
        coming.wait()
        earlier = handle.next_wanted()
        if earlier is not None:
            earlier.coming = self._call_for(earlier)
        return rooms

    def settle(self) -> None:
        """Wait until the last one has left; the next one begins another forward."""
        self.traffic.last = None
        self._wait_for_leaving()

    def _call_for(self, parcel: Parcel) -> tuple[list[Tensor], Transfer]:
        rooms = list(map(self.tier.room, parcel.handles))
        job = functools.partial(_each, self.tier.fetch, parcel.handles, rooms)
        return rooms, self.link.start(rooms[0], job)

    def _wait_for_leaving(self) -> None:
        leaving, self.traffic.leaving = self.traffic.leaving, None
        if leaving is not None:
            leaving[1].wait()


def _each(copy: Callable[[Any, Any], None], sources: Sequence[Any], targets: Sequence[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        copy(source, target)
