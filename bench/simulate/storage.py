"""Tiers of a simulated accelerator: bytes come and go, transfers are noted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from bench.simulate.roofline import Transfer
from bench.simulate.tracer import Tracer
from strategies.storage import Overlapped, Remote, Storage, Tier
from strategies.storage.overlapped import Link


@dataclasses.dataclass(frozen=True)
class SimulatedDevice(Tier):
    """The device itself: what rests there is a boundary, whatever a codec made of it."""

    name: ClassVar[str] = "device"
    on_device: ClassVar[bool] = True
    tracer: Tracer

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        self.tracer.mark_boundary(tensor)
        return tensor

    def get(self, handle: Tensor) -> Tensor:
        """The tensor itself."""
        return handle


Handle: TypeAlias = tuple[torch.Size, tuple[int, ...], torch.dtype]


@dataclasses.dataclass(frozen=True)
class SimulatedHost(Remote):
    """Host memory of a simulated accelerator: the transfer is noted, the bytes are gone."""

    name: ClassVar[str] = "host"
    tracer: Tracer

    def reserve(self, packed: Tensor) -> Handle:
        """What it was."""
        return packed.shape, packed.stride(), packed.dtype

    def send(self, packed: Tensor, handle: Handle) -> None:
        """Send it over the link."""
        del handle
        self._note(packed, to_host=True)

    def room(self, handle: Handle) -> Tensor:
        """Room for it."""
        shape, stride, dtype = handle
        tensor = torch.empty_strided(shape, stride, dtype=dtype)
        self.tracer.mark_boundary(tensor)
        return tensor

    def fetch(self, handle: Handle, room: Tensor) -> None:
        """Fetch it."""
        del handle
        self._note(room, to_host=False)

    def _note(self, tensor: Tensor, *, to_host: bool) -> None:
        size_bytes = tensor.numel() * tensor.element_size()
        self.tracer.transfers.append(Transfer(len(self.tracer.work), size_bytes, to_host))


@dataclasses.dataclass(frozen=True)
class SimulatedLink(Link):
    """Notes when compute waits for which transfer."""

    tracer: Tracer

    def start(self, near: Tensor, job: Callable[[], None]) -> SimulatedTransfer:
        """Note it."""
        del near
        begin = len(self.tracer.transfers)
        job()
        return SimulatedTransfer(self.tracer, range(begin, len(self.tracer.transfers)))


@dataclasses.dataclass(frozen=True)
class SimulatedTransfer:
    """Some of a tracer's transfers, which are one parcel."""

    tracer: Tracer
    indices: range

    def wait(self) -> None:
        """The next operator needs it."""
        noted = self.tracer.transfers
        for index in self.indices:
            noted[index] = dataclasses.replace(noted[index], needed_before=len(self.tracer.work))

    def end(self) -> None:
        """Nobody waits."""


def simulated(storage: Storage | None, tracer: Tracer) -> Storage | None:
    """A strategy's storage with its tier simulated, and its transfers overlapped if they were."""
    if storage is None:
        return None
    host = SimulatedHost(tracer)
    tier: Tier = SimulatedDevice(tracer) if storage.tier.on_device else host
    if isinstance(storage.tier, Overlapped):
        tier = Overlapped(host, SimulatedLink(tracer))
    return dataclasses.replace(storage, tier=tier)
