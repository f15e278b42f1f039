"""Which tier: named by a user, or decided by the tensor that comes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch

from strategies.storage.tiers import Disk, Host, Remote

NAMES = ("auto", "host", "disk")


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


def check(strategy: str, tier: str, directory: str) -> None:
    """Refuse an unknown tier, or a folder that is not there.

    Raises:
        ValueError: names ``strategy``.
    """
    if tier not in NAMES:
        raise ValueError(f"{strategy}: tier must be one of {', '.join(NAMES)}, not {tier!r}")
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
