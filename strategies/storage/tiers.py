"""Tiers: where a kept boundary is between forward and backward."""

from __future__ import annotations

import abc
import dataclasses
import tempfile
import weakref
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Tier(abc.ABC):
    """Where the bytes are."""

    name: ClassVar[str]
    on_device: ClassVar[bool] = False

    @abc.abstractmethod
    def put(self, tensor: Tensor) -> Any:
        """Move a tensor there; the handle is all that keeps it."""

    @abc.abstractmethod
    def get(self, handle: Any) -> Tensor:
        """The tensor again, on the device that it came from."""


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


@dataclasses.dataclass(frozen=True)
class Host(Tier):
    """Host memory, for tensors of an accelerator. Pinned, so that copies overlap with compute."""

    name: ClassVar[str] = "host"
    pin: bool = True

    def put(self, tensor: Tensor) -> tuple[Tensor, torch.device]:
        """Copy to the host; ordered on the current stream, so the source may be freed at once."""
        if tensor.device.type == "cpu":
            raise ValueError("the tensor is in host memory already; offload it to disk instead")
        host = torch.empty_like(tensor, device="cpu", pin_memory=self.pin)
        return host.copy_(tensor, non_blocking=self.pin), tensor.device

    def get(self, handle: tuple[Tensor, torch.device]) -> Tensor:
        """Copy back on the current stream."""
        host, device = handle
        return host.to(device, non_blocking=self.pin)


@dataclasses.dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor's bytes in a file that vanishes with this object."""

    path: Path
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclasses.dataclass(frozen=True)
class Disk(Tier):
    """A file in ``directory`` (default: the system's temporary folder).

    A folder that lives in memory (``tmpfs``) frees nothing: give one that is on a disk.
    """

    name: ClassVar[str] = "disk"
    directory: str | None = None

    def put(self, tensor: Tensor) -> OnDisk:
        """Write the bytes as they lie; a view is made dense first, in its own order of strides."""
        dense = _dense(tensor.detach())
        with tempfile.NamedTemporaryFile(dir=self.directory, suffix=".boundary", delete=False) as f:
            path = Path(f.name)
            handle = OnDisk(path, dense.shape, dense.stride(), dense.dtype, dense.device)
            weakref.finalize(handle, path.unlink, missing_ok=True)
            _flat_bytes(dense).cpu().numpy().tofile(f)
        return handle

    def get(self, handle: OnDisk) -> Tensor:
        """Read the bytes into a new tensor of the same strides."""
        tensor = torch.empty_strided(handle.shape, handle.stride, dtype=handle.dtype)
        with handle.path.open("rb") as f:
            count = f.readinto(_flat_bytes(tensor).numpy().data)
        if count != tensor.numel() * tensor.element_size():
            raise OSError(f"{handle.path} was cut short while a boundary rested in it")
        return tensor.to(handle.device)


def _dense(tensor: Tensor) -> Tensor:
    # empty_like of a dense tensor keeps its strides; a strided slice becomes contiguous.
    like = torch.empty_like(tensor)
    return tensor if like.stride() == tensor.stride() else tensor.contiguous()


def _flat_bytes(dense: Tensor) -> Tensor:
    flat = dense.as_strided((dense.numel(),), (1,), dense.storage_offset())
    return flat.view(torch.uint8)


TIERS: dict[str, type[Tier]] = {tier.name: tier for tier in (Device, Host, Disk)}
