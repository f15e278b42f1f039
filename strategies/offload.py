"""Keep boundary activations off the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from strategies.base import Layered
from strategies.storage import Disk, Host, Remote, Storage, Tier

TIERS = ("auto", "host", "disk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offload(Layered):
    """Boundaries move to a slower tier in forward and come back in backward.

    Attributes:
        tier: ``host`` (pinned memory, from an accelerator), ``disk`` (a temporary file), or
            ``auto``: host from an accelerator, disk from a CPU, where host memory would free
            nothing.
        directory: where the files go; default the system's temporary folder. A folder in memory
            (tmpfs) frees nothing either.
        over: the strategy that chooses the boundaries.
    """

    textbook_memory: ClassVar[str | None] = "checkpoints leave the device"
    textbook_compute: ClassVar[str | None] = "adds PCIe transfer latency"

    tier: str = "auto"
    directory: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("offload", self.tier, self.directory)

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Host memory is no other place than a CPU's own."""
        return no_other_place(self.tier, device) or super().unsupported(model, device)

    def storage(self) -> Storage:
        """The codec of the strategy below, on this tier."""
        below = super().storage() or Storage()
        return dataclasses.replace(below, tier=self.make_tier())

    def make_tier(self) -> Tier:
        """See `tier_of`."""
        return tier_of(self.tier, self.directory)


def check(strategy: str, tier: str, directory: str) -> None:
    """Refuse an unknown tier, or a folder that is not there.

    Raises:
        ValueError: names ``strategy``.
    """
    if tier not in TIERS:
        raise ValueError(f"{strategy}: tier must be one of {', '.join(TIERS)}, not {tier!r}")
    if directory and not Path(directory).is_dir():
        raise ValueError(f"{strategy}: directory {directory!r} does not exist")


def no_other_place(tier: str, device: torch.device) -> str | None:
    """Why tensors of ``device`` cannot rest on ``tier``, or ``None``."""
    if tier == "host" and device.type == "cpu":
        return "the model is in host memory already; use tier=disk"
    return None


def tier_of(name: str, directory: str) -> Remote:
    """The tier of that name; ``auto`` decides by the tensor that comes."""
    disk = Disk(directory=directory or None)
    tiers: dict[str, Remote] = {"host": Host(), "disk": disk, "auto": Auto(disk=disk)}
    return tiers[name]


@dataclasses.dataclass(frozen=True)
class Auto(Remote):
    """Host memory for tensors of an accelerator, disk for those of a CPU."""

    name: ClassVar[str] = "auto"
    host: Host = dataclasses.field(default_factory=Host)
    disk: Disk = dataclasses.field(default_factory=Disk)

    def tier_of(self, tensor: torch.Tensor) -> Remote:
        """The right one."""
        return self.disk if tensor.device.type == "cpu" else self.host

    def packed(self, tensor: torch.Tensor) -> torch.Tensor:
        """As the right one does."""
        return self.tier_of(tensor).packed(tensor)

    def reserve(self, packed: torch.Tensor) -> tuple[Remote, object]:
        """Room in the right one."""
        tier = self.tier_of(packed)
        return tier, tier.reserve(packed)

    def send(self, packed: torch.Tensor, handle: tuple[Remote, object]) -> None:
        """Copy to where there is room."""
        handle[0].send(packed, handle[1])

    def room(self, handle: tuple[Remote, object]) -> torch.Tensor:
        """As where it was put."""
        return handle[0].room(handle[1])

    def fetch(self, handle: tuple[Remote, object], room: torch.Tensor) -> None:
        """From where it was put."""
        handle[0].fetch(handle[1], room)
