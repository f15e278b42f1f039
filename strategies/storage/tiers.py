"""Tiers: where a kept boundary is between forward and backward."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from strategies.storage import spool


@dataclasses.dataclass(frozen=True)
class Tier(abc.ABC):
    """Where the bytes are."""

    name: ClassVar[str]
    on_device: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name

    @abc.abstractmethod
    def put(self, tensor: Tensor) -> Any:
        """Move a tensor there; the handle is all that keeps it."""

    @abc.abstractmethod
    def get(self, handle: Any) -> Tensor:
        """The tensor again, on the device that it came from."""

    def put_all(self, tensors: Sequence[Tensor]) -> Any:
        """Move tensors there, together."""
        return [self.put(tensor) for tensor in tensors]

    def get_all(self, handle: Any) -> list[Tensor]:
        """The tensors that were put there together."""
        return [self.get(each) for each in handle]


@dataclasses.dataclass(frozen=True)
class Device(Tier):
    """It stays where it is."""

    name: ClassVar[str] = "device"
    on_device: ClassVar[bool] = True

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def get(self, handle: Tensor) -> Tensor:
        """The tensor itself."""
        return handle


class Remote(Tier):
    """Off the device: first there is room for the bytes, then they travel.

    Apart, so that the journey can overlap with compute; see `strategies.storage.overlapped`.
    """

    def packed(self, tensor: Tensor) -> Tensor:
        """The tensor as it travels: itself, unless its bytes do not lie together."""
        return tensor

    @abc.abstractmethod
    def reserve(self, packed: Tensor) -> Any:
        """Make room there; the handle is all that keeps it."""

    @abc.abstractmethod
    def send(self, packed: Tensor, handle: Any) -> None:
        """Copy there."""

    @abc.abstractmethod
    def room(self, handle: Any) -> Tensor:
        """An empty tensor on the device that the handle's tensor came from."""

    @abc.abstractmethod
    def fetch(self, handle: Any, room: Tensor) -> None:
        """Copy back into ``room``."""

    def put(self, tensor: Tensor) -> Any:
        """Make room and copy."""
        packed = self.packed(tensor)
        handle = self.reserve(packed)
        self.send(packed, handle)
        return handle

    def get(self, handle: Any) -> Tensor:
        """Make room and copy back."""
        room = self.room(handle)
        self.fetch(handle, room)
        return room


@dataclasses.dataclass(frozen=True)
class Host(Remote):
    """Host memory, for tensors of an accelerator. Pinned, so that copies overlap with compute.

    Copies are ordered on the current stream, so a source may be freed as soon as it was sent.
    """

    name: ClassVar[str] = "host"
    pin: bool = True

    def reserve(self, packed: Tensor) -> tuple[Tensor, torch.device]:
        """A tensor on the host, and the device."""
        if packed.device.type == "cpu":
            raise ValueError("the tensor is in host memory already; offload it to disk instead")
        host = torch.empty_like(packed, device="cpu", pin_memory=self.pin)
        return host, packed.device

    def send(self, packed: Tensor, handle: tuple[Tensor, torch.device]) -> None:
        """Copy to the host on the current stream."""
        handle[0].copy_(packed, non_blocking=self.pin)

    def room(self, handle: tuple[Tensor, torch.device]) -> Tensor:
        """An empty tensor on the device."""
        host, device = handle
        return torch.empty_like(host, device=device)

    def fetch(self, handle: tuple[Tensor, torch.device], room: Tensor) -> None:
        """Copy back on the current stream."""
        room.copy_(handle[0], non_blocking=self.pin)


@dataclasses.dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor's bytes in a file that vanishes with this object."""

    file: spool.File
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclasses.dataclass(frozen=True)
class Disk(Remote):
    """A file in ``directory`` (default: the system's temporary folder).

    A folder that lives in memory (``tmpfs``) frees nothing: give one that is on a disk.
    """

    name: ClassVar[str] = "disk"
    directory: str | None = None

    def packed(self, tensor: Tensor) -> Tensor:
        """The bytes as they lie; a view is made dense first, in its own order of strides."""
        return _dense(tensor.detach())

    def reserve(self, packed: Tensor) -> OnDisk:
        """An empty file."""
        file = spool.new(self.directory)
        return OnDisk(file, packed.shape, packed.stride(), packed.dtype, packed.device)

    def send(self, packed: Tensor, handle: OnDisk) -> None:
        """Write the bytes."""
        handle.file.write(_flat_bytes(packed).cpu().numpy().data)

    def room(self, handle: OnDisk) -> Tensor:
        """A new tensor of the same strides."""
        return torch.empty_strided(
            handle.shape, handle.stride, dtype=handle.dtype, device=handle.device
        )

    def fetch(self, handle: OnDisk, room: Tensor) -> None:
        """Read the bytes."""
        near = room if room.device.type == "cpu" else torch.empty_like(room, device="cpu")
        count = handle.file.read_into(_flat_bytes(near).numpy().data)
        if count != near.numel() * near.element_size():
            raise OSError("a file was cut short while a boundary rested in it")
        if near is not room:
            room.copy_(near)


def _dense(tensor: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor
    # empty_like of a dense tensor keeps its strides; a strided slice becomes contiguous.
    like = torch.empty_like(tensor)
    return tensor if like.stride() == tensor.stride() else tensor.contiguous()


def _flat_bytes(dense: Tensor) -> Tensor:
    flat = dense.as_strided((dense.numel(),), (1,), dense.storage_offset())
    return flat.view(torch.uint8)


TIERS: dict[str, type[Tier]] = {tier.name: tier for tier in (Device, Host, Disk)}
